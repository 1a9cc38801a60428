// Plays answers piece by piece. Waits for a little sound before it begins, so that a late piece leaves no gap; tells how
// much of each answer was played; forgets all at once when told to.
const AHEAD_MS = 120;
const TOLD_MS = 200;

class Player extends AudioWorkletProcessor {
  constructor() {
    super();
    this.clear();
    this.port.onmessage = ({ data }) => {
      if (data.flush) this.flush();
      else if (data.end) this.end(data.end);
      else this.take(data);
    };
  }

  clear() {
    this.queue = [];
    this.offset = 0;
    this.waiting = 0;
    this.isPlaying = false;
    this.id = null;
    this.played = 0;
    this.told = 0;
    this.ended = null;
    this.isStarved = false;
    this.gaps = this.gaps || 0;
  }

  end(id) {
    this.ended = id;
    if (id === this.id && !this.isPlaying && !this.waiting) this.tell({ over: true, gaps: this.gaps });
  }

  take({ id, samples }) {
    if (id !== this.id) {
      this.id = id;
      this.played = 0;
      this.told = 0;
      this.ended = null;
      this.isStarved = false;
    }
    this.queue.push(samples);
    this.waiting += samples.length;
  }

  flush() {
    const told = { id: this.id, playedMs: this.ms(this.played), flushed: true, at: currentTime };
    this.clear();
    this.port.postMessage(told);
  }

  ms(count) {
    return (1000 * count) / sampleRate;
  }

  process(_, [output]) {
    const channel = output[0];
    if (!this.isPlaying && (this.ms(this.waiting) >= AHEAD_MS || (this.ended && this.waiting))) {
      this.isPlaying = true;
      this.gaps += this.isStarved ? 1 : 0;
      this.isStarved = false;
      this.port.postMessage({ id: this.id, started: true, at: currentTime });
    }
    let place = 0;
    while (this.isPlaying && place < channel.length && this.queue.length) {
      const piece = this.queue[0];
      channel[place++] = piece[this.offset++] / 32768;
      if (this.offset === piece.length) {
        this.queue.shift();
        this.offset = 0;
      }
    }
    for (const other of output.slice(1)) other.set(channel);
    this.played += place;
    this.waiting -= place;
    if (this.isPlaying && place < channel.length) this.pause();
    if (this.isPlaying && this.ms(this.played - this.told) >= TOLD_MS) this.tell();
    return true;
  }

  pause() {
    this.isPlaying = false;
    const isOver = this.ended === this.id;
    this.isStarved = !isOver; // a gap, if more of this answer comes
    this.tell({ over: isOver, gaps: this.gaps });
  }

  tell(more = {}) {
    this.told = this.played;
    this.port.postMessage({ id: this.id, playedMs: this.ms(this.played), ...more });
  }
}

registerProcessor("player", Player);
