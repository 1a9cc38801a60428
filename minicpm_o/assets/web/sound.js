// Sounds: WAV files to samples, and samples at 16 kHz to Whisper's log-mel frames (minicpm_o/inputs/audio.py).
export const RATE_HZ = 16000;
export const HOP = 160;
const WINDOW = 400;
const HALF = WINDOW / 2;
const BINS = HALF + 1;

// The samples of a WAV file, mono, at its own rate; null for what is none, or is compressed.
export function readWav(buffer) {
  const view = new DataView(buffer);
  const tag = (at) => String.fromCharCode(...new Uint8Array(buffer, at, 4));
  if (buffer.byteLength < 44 || tag(0) !== "RIFF" || tag(8) !== "WAVE") return null;
  let format = null;
  for (let at = 12; at + 8 <= buffer.byteLength;) {
    const [name, length] = [tag(at), view.getUint32(at + 4, true)];
    if (name === "fmt ") {
      const kind = view.getUint16(at + 8, true);
      format = { kind: kind === 0xFFFE ? view.getUint16(at + 32, true) : kind, channels: view.getUint16(at + 10, true),
        rate: view.getUint32(at + 12, true), bits: view.getUint16(at + 22, true) };
    } else if (name === "data" && format) {
      return readSamples(view, at + 8, Math.min(length, buffer.byteLength - at - 8), format);
    }
    at += 8 + length + length % 2;
  }
  return null;
}

function readSamples(view, start, length, { kind, channels, rate, bits }) {
  const readers = {
    "1/8": (at) => (view.getUint8(at) - 128) / 128,
    "1/16": (at) => view.getInt16(at, true) / 32768,
    "1/24": (at) => (view.getInt8(at + 2) * 65536 + view.getUint16(at, true)) / 8388608,
    "1/32": (at) => view.getInt32(at, true) / 2147483648,
    "3/32": (at) => view.getFloat32(at, true),
    "3/64": (at) => view.getFloat64(at, true),
  };
  const read = readers[`${kind}/${bits}`];
  if (!read) return null;
  const [size, step] = [bits / 8, bits / 8 * channels];
  const samples = new Float32Array(Math.floor(length / step));
  for (let i = 0; i < samples.length; i++) {
    let sum = 0;
    for (let c = 0; c < channels; c++) sum += Math.fround(read(start + i * step + c * size));
    samples[i] = sum / channels;
  }
  return { samples, rate };
}

// A sound above full scale is turned down.
export function fit(samples) {
  const loudest = samples.reduce((most, x) => Math.max(most, Math.abs(x)), 0);
  return loudest > 1 ? samples.map((x) => x / loudest) : samples;
}

export function padTo(samples, length) {
  const padded = new Float32Array(length);
  padded.set(samples.subarray(0, length));
  return padded;
}

// samples (N,), N of 201 or more -> { data: (M, F) float32, bins, frames }.
export function logMel(samples, bins = 80) {
  const frames = Math.floor(samples.length / HOP);
  const padded = mirrored(samples);
  const filters = melFilters(bins);
  const data = new Float32Array(bins * frames);
  const power = new Float64Array(BINS);
  let loudest = -Infinity;
  for (let frame = 0; frame < frames; frame++) {
    powerSpectrum(padded, frame * HOP, power);
    for (let bin = 0; bin < bins; bin++) {
      const { first, values } = filters[bin];
      let sum = 0;
      for (let i = 0; i < values.length; i++) sum += values[i] * power[first + i];
      const decades = Math.log10(Math.max(sum, 1e-10));
      data[bin * frames + frame] = decades;
      loudest = Math.max(loudest, decades);
    }
  }
  for (let i = 0; i < data.length; i++) data[i] = (Math.max(data[i], loudest - 8) + 4) / 4;
  return { data, bins, frames };
}

// The ends mirrored, half a window on each side.
function mirrored(samples) {
  const padded = new Float32Array(samples.length + WINDOW);
  padded.set(samples, HALF);
  const last = samples.length - 1;
  for (let i = 1; i <= HALF; i++) {
    padded[HALF - i] = samples[i];
    padded[HALF + last + i] = samples[last - i];
  }
  return padded;
}

const HANN = Float32Array.from({ length: WINDOW }, (_, i) => 0.5 - 0.5 * Math.cos(2 * Math.PI * i / WINDOW));
const COSINE = Float64Array.from({ length: WINDOW }, (_, i) => Math.cos(2 * Math.PI * i / WINDOW));
const SINE = Float64Array.from({ length: WINDOW }, (_, i) => Math.sin(2 * Math.PI * i / WINDOW));

// |DFT|^2 of a windowed frame; sample n and 400 - n share a cosine and, but for its sign, a sine.
function powerSpectrum(padded, start, power) {
  const even = new Float64Array(HALF + 1);
  const odd = new Float64Array(HALF + 1);
  const at = (i) => Math.fround(padded[start + i] * HANN[i]);
  even[0] = at(0);
  even[HALF] = at(HALF);
  for (let i = 1; i < HALF; i++) {
    even[i] = at(i) + at(WINDOW - i);
    odd[i] = at(i) - at(WINDOW - i);
  }
  for (let k = 0; k < BINS; k++) {
    let [real, imaginary, angle] = [0, 0, 0];
    for (let i = 0; i <= HALF; i++) {
      real += even[i] * COSINE[angle];
      imaginary += odd[i] * SINE[angle];
      angle += k;
      if (angle >= WINDOW) angle -= WINDOW;
    }
    power[k] = real * real + imaginary * imaginary;
  }
}

// Triangles of Slaney's mel scale, each of unit area, 0 to 8 kHz.
function melFilters(bins) {
  const toMel = (hz) => (hz < 1000 ? hz * 3 / 200 : 15 + 27 * Math.log(hz / 1000) / Math.log(6.4));
  const toHz = (mel) => (mel < 15 ? mel * 200 / 3 : 1000 * 6.4 ** ((mel - 15) / 27));
  const top = toMel(RATE_HZ / 2);
  const edges = Array.from({ length: bins + 2 }, (_, i) => toHz(top * i / (bins + 1)));
  return Array.from({ length: bins }, (_, bin) => {
    const [low, middle, high] = edges.slice(bin, bin + 3);
    const values = Array.from({ length: BINS }, (__, i) => {
      const hz = i * RATE_HZ / 2 / HALF;
      const height = Math.max(0, Math.min((hz - low) / (middle - low), (high - hz) / (high - middle)));
      return Math.fround(height * 2 / (high - low));
    });
    const first = Math.max(0, values.findIndex((value) => value > 0));
    const last = values.findLastIndex((value) => value > 0);
    return { first, values: Float32Array.from(values.slice(first, last + 1)) };
  });
}
