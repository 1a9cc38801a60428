// The browser's camera, microphone and decoders to what worker.js takes.
import { RATE_HZ, fit, readWav } from "./sound.js";

// A sound file to mono samples at 16 kHz. WAV at 16 kHz is read number by number, as Python reads it; for the rest the
// browser's own decoder and resampler stand in. Throws where it is no sound.
export async function readSound(blob) {
  const buffer = await blob.arrayBuffer();
  const wav = readWav(buffer);
  if (wav?.rate === RATE_HZ) return fit(wav.samples);
  const decoded = await new OfflineAudioContext(1, 1, RATE_HZ).decodeAudioData(buffer);
  const samples = new Float32Array(decoded.length);
  for (let c = 0; c < decoded.numberOfChannels; c++) {
    decoded.getChannelData(c).forEach((x, i) => { samples[i] += x / decoded.numberOfChannels; });
  }
  return fit(samples);
}

// Records until `stop`, which gives samples at 16 kHz.
export class Recorder {
  async start() {
    this.stream = await navigator.mediaDevices.getUserMedia({ audio: { channelCount: 1 } });
    this.recorder = new MediaRecorder(this.stream);
    this.pieces = [];
    this.recorder.addEventListener("dataavailable", ({ data }) => this.pieces.push(data));
    this.recorder.start();
  }

  async stop() {
    const ended = new Promise((resolve) => { this.recorder.addEventListener("stop", resolve); });
    this.recorder.stop();
    await ended;
    for (const track of this.stream.getTracks()) track.stop();
    return readSound(new Blob(this.pieces, { type: this.recorder.mimeType }));
  }
}

export class Camera {
  constructor(video) {
    this.video = video;
  }

  async open() {
    this.stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
    this.video.srcObject = this.stream;
    this.video.hidden = false;
    await this.video.play();
  }

  // What the camera sees, as a PNG, and the camera is off.
  async take() {
    const { videoWidth: width, videoHeight: height } = this.video;
    const canvas = new OffscreenCanvas(width, height);
    canvas.getContext("2d").drawImage(this.video, 0, 0);
    this.close();
    return canvas.convertToBlob({ type: "image/png" });
  }

  close() {
    for (const track of this.stream?.getTracks() || []) track.stop();
    this.stream = null;
    this.video.hidden = true;
  }
}

// Plays samples one after the other.
export class Player {
  constructor() {
    this.context = new AudioContext();
    this.at = 0;
    this.playing = new Set();
  }

  add(samples, rateHz) {
    const buffer = this.context.createBuffer(1, samples.length, rateHz);
    buffer.copyToChannel(samples, 0);
    const source = this.context.createBufferSource();
    source.buffer = buffer;
    source.connect(this.context.destination);
    this.at = Math.max(this.at, this.context.currentTime);
    source.start(this.at);
    this.at += buffer.duration;
    this.playing.add(source);
    source.addEventListener("ended", () => this.playing.delete(source));
  }

  stop() {
    for (const source of this.playing) source.stop();
    this.playing.clear();
    this.at = 0;
  }
}
