// The microphone's samples in pieces of 40 ms, as 16 bit, with how loud they are.
const PIECE = 960;

class Capture extends AudioWorkletProcessor {
  constructor() {
    super();
    this.piece = new Int16Array(PIECE);
    this.filled = 0;
    this.loudest = 0;
  }

  process([input]) {
    for (const sample of input[0] || []) {
      this.loudest = Math.max(this.loudest, Math.abs(sample));
      this.piece[this.filled++] = Math.max(-1, Math.min(1, sample)) * 32767;
      if (this.filled === PIECE) {
        const buffer = this.piece.buffer;
        this.port.postMessage({ buffer, loudest: this.loudest }, [buffer]);
        this.piece = new Int16Array(PIECE);
        this.filled = 0;
        this.loudest = 0;
      }
    }
    return true;
  }
}

registerProcessor("capture", Capture);
