// What is said in a sound: Silero finds speech, Whisper's decoder writes it down (minicpm_o/runtime/vad.py, transcribe.py).
// One thing is left out: texts that are not believed are not drawn anew, so such a window stays empty here.
import { HOP, RATE_HZ, logMel, padTo } from "./sound.js";

const VAD_WINDOW = 512;
const VAD_CONTEXT = 64;
const VAD_WINDOW_S = VAD_WINDOW / RATE_HZ;
const PEAK = 0.5;
const LEAST_PEAK = 1e-3;
const UNHEARD = -1e9;
const BLOCK_FRAMES = 50;
const WINDOW_SAMPLES = 30 * RATE_HZ;

// Seconds [start, stop] of the stretches that hold speech.
export async function findSpeech(model, samples, config) {
  const runs = speechRuns(await probabilities(model, samples), config);
  const [pad, end] = [config.pad_ms / 1000, samples.length / RATE_HZ];
  const found = runs.map(([start, stop]) => [Math.max(0, start - pad), Math.min(end, stop + pad)]);
  for (let i = 0; i + 1 < found.length; i++) {
    if (found[i][1] > found[i + 1][0]) found[i][1] = found[i + 1][0] = (runs[i][1] + runs[i + 1][0]) / 2;
  }
  return found;
}

async function probabilities(model, samples) {
  const loudest = samples.reduce((most, x) => Math.max(most, Math.abs(x)), LEAST_PEAK);
  const count = Math.ceil(samples.length / VAD_WINDOW);
  const padded = new Float32Array(VAD_CONTEXT + count * VAD_WINDOW);
  padded.set(samples.map((x) => x * (PEAK / loudest)), VAD_CONTEXT);
  const rate = model.tensor("int64", BigInt64Array.of(BigInt(RATE_HZ)), []);
  let state = model.tensor("float32", new Float32Array(256), [2, 1, 128]);
  const found = [];
  for (let i = 0; i < count; i++) {
    const window = padded.slice(i * VAD_WINDOW, (i + 1) * VAD_WINDOW + VAD_CONTEXT);
    const input = model.tensor("float32", window, [1, window.length]);
    const { output, stateN } = await model.run("vad", { input, state, sr: rate });
    found.push(output.data[0]);
    state = stateN;
  }
  return found;
}

function speechRuns(found, config) {
  const windows = (ms) => Math.max(1, Math.round(ms / 1000 / VAD_WINDOW_S));
  const silence = windows(config.min_silence_ms);
  const runs = [];
  let [start, lastLoud] = [-1, 0];
  [...found, ...new Array(silence).fill(0)].forEach((probability, i) => {
    if (probability >= config.begin || (start >= 0 && probability >= config.end)) {
      if (start < 0) start = i;
      lastLoud = i;
    } else if (start >= 0 && i - lastLoud >= silence) {
      runs.push([start * VAD_WINDOW_S, (lastLoud + 1) * VAD_WINDOW_S]);
      start = -1;
    }
  });
  return runs.filter(([from, to]) => (to - from) * 1000 >= config.min_speech_ms);
}

// Stretches of speech to windows of at most 30 s: neighbours joined, long ones cut where it is quietest.
export function speechWindows(samples, stretches, config) {
  const windows = [];
  for (const [start, stop] of stretches.flatMap((stretch) => cutLong(samples, stretch, config.window_s))) {
    const last = windows.at(-1);
    if (last && stop - last[0] <= config.window_s && start - last[1] <= config.max_gap_s) last[1] = stop;
    else windows.push([start, stop]);
  }
  return windows;
}

function cutLong(samples, [start, stop], windowS) {
  const pieces = [];
  while (stop - start > windowS) {
    const at = quietest(samples, start + windowS * 2 / 3, start + windowS);
    pieces.push([start, at]);
    start = at;
  }
  return [...pieces, [start, stop]];
}

function quietest(samples, startS, stopS) {
  const step = RATE_HZ / 10;
  const first = Math.round(startS * RATE_HZ);
  let [best, least] = [0, Infinity];
  for (let i = 0; first + (i + 1) * step <= Math.round(stopS * RATE_HZ); i++) {
    let energy = 0;
    for (let n = first + i * step; n < first + (i + 1) * step; n++) energy += samples[n] ** 2;
    if (energy < least) [best, least] = [i, energy];
  }
  return startS + (best + 0.5) * step / RATE_HZ;
}

// --- Encoder ----------------------------------------------------------------------------------------------------------

// Tokens (rows, width) of a sound: 10 for every second begun; window by window, block-causal.
export async function soundTokens(model, samples) {
  const parts = [];
  for (let start = 0; start < samples.length; start += WINDOW_SAMPLES) {
    const part = samples.subarray(start, start + WINDOW_SAMPLES);
    const whole = padTo(part, Math.ceil(part.length / RATE_HZ) * RATE_HZ);
    const mel = logMel(whole);
    const { tokens } = await model.run("hearing_projector", {
      encoder_out: await encode(model, mel, blockCausal(mel.frames / 2)) });
    parts.push(tokens.data);
  }
  const all = new Float32Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    all.set(part, at);
    at += part.length;
  }
  return all;
}

async function encode(model, mel, bias) {
  const frames = mel.frames / 2;
  const { encoder_out: out } = await model.run("hearing_encoder", {
    log_mel: model.tensor("float32", mel.data, [1, mel.bins, mel.frames]),
    attention_bias: model.tensor("float32", bias, [frames, frames]),
  });
  return out;
}

function blockCausal(frames) {
  const bias = new Float32Array(frames * frames);
  for (let row = 0; row < frames; row++) {
    const end = (Math.floor(row / BLOCK_FRAMES) + 1) * BLOCK_FRAMES;
    bias.fill(UNHEARD, row * frames + Math.min(end, frames), (row + 1) * frames);
  }
  return bias;
}

// --- Recogniser -------------------------------------------------------------------------------------------------------

export class Recogniser {
  // tables: config.json; tokenizer: Whisper's.
  constructor(model, tables, tokenizer) {
    this.model = model;
    this.config = tables.recogniser;
    this.detector = tables.detector;
    this.shape = tables.config.hearing;
    this.tokenizer = tokenizer;
  }

  // samples (N,) at 16 kHz -> { text, language }; "" where nobody speaks.
  async transcribe(samples, language = null) {
    const stretches = await findSpeech(this.model, samples, this.detector);
    const texts = [];
    for (const [start, stop] of speechWindows(samples, stretches, this.config)) {
      const speech = samples.subarray(Math.round(start * RATE_HZ), Math.round(stop * RATE_HZ));
      const found = await this.window(speech, stop - start, language);
      language = found.language;
      if (found.text.trim()) texts.push(found.text);
    }
    const text = texts.join("").trim();
    return { text, language: text ? language : null };
  }

  async window(speech, seconds, language) {
    const { config } = this;
    const usual = [config.pad_s, seconds < config.sentence_s ? config.least_s : config.sentence_least_s];
    const sizes = seconds < config.sentence_s ? [usual] : [[config.brief_pad_s, config.brief_least_s], usual];
    sizes.push([config.pad_s, config.window_s]);
    const doubtful = [];
    let first = null;
    for (const size of sizes) {
      const heard = await this.hear(speech, size, first ? first.language : language);
      first ||= heard;
      const isUnsure = first.noSpeech > config.max_no_speech;
      const least = isUnsure ? config.sure_avg_logprob : config.min_avg_logprob;
      const reading = await this.write(heard);
      const text = this.tokenizer.decode(reading.ids);
      const isRepeating = reading.looped || (await compression(text)) > config.max_compression || isDoubled(text);
      if (!isRepeating && reading.score >= least) return { text, language: first.language };
      if (!isRepeating && !isUnsure) doubtful.push({ text, score: reading.score });
    }
    const best = doubtful.reduce((a, b) => (b.score > a.score ? b : a), { text: "", score: -Infinity });
    return { text: best.score >= config.least_avg_logprob ? best.text : "", language: first.language };
  }

  // Speech to what the decoder attends to, up to the first word.
  async hear(speech, [padS, leastS], language) {
    const wanted = Math.max(speech.length + Math.round(padS * RATE_HZ), Math.round(leastS * RATE_HZ));
    const length = Math.ceil(Math.min(wanted, WINDOW_SAMPLES) / (2 * HOP)) * 2 * HOP;
    const mel = logMel(padTo(speech, length));
    const frames = await encode(this.model, mel, new Float32Array((mel.frames / 2) ** 2));
    const cross = await this.model.run("recogniser_cross", { encoder_out: frames });
    const start = await this.read([this.config.start], this.emptyPast(), cross);
    const noSpeech = Math.exp(logSoftmax(start.logits)[this.config.no_speech_id]);
    const chosen = language || this.mostLikely(start.logits);
    const [before, prompt] = this.config.languages[chosen].prompt;
    const styled = before.length ? await this.read(before, this.emptyPast(), cross) : start;
    const { logits, past } = await this.read(prompt, styled.past, cross);
    return { cross, logits, past, seconds: speech.length / RATE_HZ, language: chosen, noSpeech };
  }

  mostLikely(logits) {
    const codes = Object.entries(this.config.languages);
    return codes.reduce((best, one) => (logits[one[1].id] > logits[best[1].id] ? one : best))[0];
  }

  // Token after token until the end, the limit or a loop.
  async write(heard) {
    const { config } = this;
    const limit = Math.min(config.max_tokens, 24 + Math.round(heard.seconds * config.tokens_per_s));
    const ids = [];
    let [logits, past, sum] = [Float32Array.from(heard.logits), heard.past, 0];
    const ended = (looped, count) => ({ ids, score: sum / count, looped });
    while (ids.length < limit) {
      const scores = logSoftmax(this.allow(logits, ids.length === 0));
      const id = indexOfMax(scores);
      sum += scores[id];
      if (id === config.end) return ended(false, ids.length + 1);
      ids.push(id);
      if (isLoop(ids)) return ended(true, ids.length);
      ({ logits, past } = await this.read([id], past, heard.cross));
    }
    return ended(heard.seconds * config.tokens_per_s < limit, ids.length);
  }

  allow(logits, isFirst) {
    for (const id of this.config.suppressed) logits[id] = -Infinity;
    logits.fill(-Infinity, this.config.end + 1);
    if (isFirst) for (const id of this.config.not_first) logits[id] = -Infinity;
    return logits;
  }

  emptyPast() {
    const { decoder_layers: layers, heads, width } = this.shape;
    const empty = () => this.model.tensor("float32", new Float32Array(0), [layers, 1, heads, 0, width / heads]);
    return { past_k: empty(), past_v: empty() };
  }

  async read(ids, past, cross) {
    const words = this.model.tensor("int64", BigInt64Array.from(ids, BigInt), [1, ids.length]);
    const { logits, present_k: k, present_v: v } = await this.model.run("recogniser", { ids: words, ...past, ...cross });
    return { logits: logits.data, past: { past_k: k, past_v: v } };
  }
}

export function indexOfMax(values) {
  let best = 0;
  for (let i = 1; i < values.length; i++) if (values[i] > values[best]) best = i;
  return best;
}

export function logSoftmax(logits) {
  const highest = logits[indexOfMax(logits)];
  let sum = 0;
  for (const value of logits) sum += Math.exp(value - highest);
  const shift = highest + Math.log(sum);
  return Float64Array.from(logits, (value) => value - shift);
}

function isLoop(ids) {
  for (let length = 1; length <= ids.length / 4; length++) {
    const repeats = Math.max(4, Math.ceil(16 / length));
    if (ids.length < length * repeats) continue;
    const tail = ids.slice(-length * repeats);
    if (tail.every((id, i) => id === tail[i % length])) return true;
  }
  return false;
}

async function compression(text) {
  const bytes = new TextEncoder().encode(text);
  if (!bytes.length) return 0;
  const packed = new Blob([bytes]).stream().pipeThrough(new CompressionStream("deflate"));
  return bytes.length / (await new Response(packed).arrayBuffer()).byteLength;
}

function isDoubled(text) {
  const letters = text.toLowerCase().replace(/[^\p{L}\p{N}]/gu, "");
  const half = Math.floor(letters.length / 2);
  return half >= 6 && letters.slice(0, half) === letters.slice(half);
}
