// Nano itself, away from the page's own thread. Takes { id, verb, ... }, gives { id, event, ... }; see `VERBS`.
import { Recogniser, soundTokens } from "./hear.js";
import { Draft, Language } from "./language.js";
import { Model, availableDevices } from "./model.js";
import { decodePicture, slices, toPixels } from "./picture.js";
import { RATE_HZ } from "./sound.js";
import { Speaker } from "./speak.js";
import { Tokenizer } from "./tokenizer.js";

const MOST_REMEMBERED = 16;

let nano = null;
let cancelled = false;

const VERBS = { load, ask, speak, phonemes, transcribe, cancel, memory };

self.addEventListener("message", async ({ data: { id, verb, ...given } }) => {
  const tell = (event, values = {}) => self.postMessage({ id, event, ...values });
  try {
    tell("done", await VERBS[verb](given, tell) || {});
  } catch (error) {
    tell("failed", { why: String(error?.message || error) });
  }
});

// Fetch, start onnxruntime (WebGPU falls back to the processor by itself) and open the language part.
async function load({ base, files, version, device, threads }, tell) {
  const store = self.caches ? await caches.open(`nano-${version}`) : null;
  const devices = await availableDevices();
  const chosen = devices.includes(device) ? device : "wasm";
  const model = new Model(base, files, store);
  await model.fetchAll((bytes, total) => tell("fetching", { bytes, total }));
  tell("opening");
  await model.start(chosen, threads);
  const tables = await model.json("model/config.json");
  const words = new Tokenizer(await model.json("model/tokenizer.small.json.gz"), true);
  const embeddings = await model.openLanguage(tables.language, tables.config.language,
    (part, parts) => tell("opening", { part, parts }));
  const spoken = new Tokenizer(await model.json("model/recogniser_tokenizer.small.json.gz"));
  nano = { model, tables, words, language: new Language(model, tables, words, embeddings),
    recogniser: new Recogniser(model, tables, spoken), remembered: new Map(), speaker: null };
  return { device: model.device, devices, threads, voice: Boolean(tables.voice), openMs: model.openMs };
}

// messages as of Draft.lay, with blobs and samples: pictures and sounds are encoded once and remembered by key.
async function ask({ messages, numBeams, maxTokens }, tell) {
  cancelled = false;
  const started = performance.now();
  const encoded = [];
  for (const { role, parts } of messages) {
    encoded.push({ role, parts: await Promise.all(parts.map((part) => perceive(part, tell))) });
  }
  const draft = fitting(encoded);
  let firstWordMs = null;
  const reply = await nano.language.answer(draft, {
    numBeams: numBeams === "caption" ? nano.tables.beams.count : numBeams, maxTokens, isCancelled: () => cancelled,
    onText: (text) => {
      if (text) firstWordMs ??= performance.now() - started;
      tell("text", { text });
    },
  });
  const { writeMs, ids } = reply;
  return { ...reply, text: reply.text.trim(), firstWordMs, tokensPerS: ids.length / (writeMs / 1000),
    ...memory(), totalMs: performance.now() - started };
}

// The prompt, without the oldest turns where it would leave an answer no room.
function fitting(messages) {
  const room = nano.tables.config.language.context_tokens - nano.tables.answer.max_tokens;
  for (let first = 0; ; first += 2) {
    const draft = new Draft(nano.words, nano.tables).lay(messages.slice(first));
    if (draft.ids.length <= room) return draft;
    if (first + 2 >= messages.length) throw new Error(`${draft.ids.length} > ${room} tokens`);
  }
}

async function perceive(part, tell) {
  if (part.type === "text") return part;
  const { remembered } = nano;
  if (!remembered.has(part.key)) {
    remembered.set(part.key, await (part.type === "image" ? see(part) : listen(part)));
    if (remembered.size > MOST_REMEMBERED) remembered.delete(remembered.keys().next().value);
  }
  const found = remembered.get(part.key);
  if (part.type === "audio") tell("heard", { key: part.key, text: found.transcript });
  return part.type === "image" ? { type: "image", seen: found } : { type: "audio", heard: found };
}

async function see({ blob, key }) {
  const { model, tables } = nano;
  const { vision } = tables.config;
  const pieces = slices(await decodePicture(blob, tables.image), vision);
  const pixels = toPixels(pieces, vision.image_px, tables.image);
  const size = pixels.length / pieces.length;
  const tokens = [];
  for (let i = 0; i < pieces.length; i++) {
    const one = model.tensor("float32", pixels.slice(i * size, (i + 1) * size), [1, 3, vision.image_px, vision.image_px]);
    tokens.push((await model.run("vision", { pixels: one })).tokens.data);
  }
  const all = new Float32Array(tokens[0].length * tokens.length);
  tokens.forEach((part, i) => all.set(part, i * part.length));
  return { tokens: all, pieces: pieces.length, key };
}

async function listen({ samples, key }) {
  const { text } = await nano.recogniser.transcribe(samples);
  const tokens = await soundTokens(nano.model, samples);
  return { tokens, seconds: samples.length / RATE_HZ, transcript: text, key };
}

async function speaker() {
  if (!nano.tables.voice) throw new Error("no voice");
  nano.speaker ||= await Speaker.open(nano.model, nano.tables.voice);
  return nano.speaker;
}

async function speak({ text }, tell) {
  cancelled = false;
  const started = performance.now();
  let [firstSoundMs, seconds] = [null, 0];
  await (await speaker()).speak(text, (samples, rateHz) => {
    firstSoundMs ??= performance.now() - started;
    seconds += samples.length / rateHz;
    tell("sound", { samples, rateHz });
  }, () => cancelled);
  return { firstSoundMs, seconds, totalMs: performance.now() - started, ...memory() };
}

async function phonemes({ text }) {
  return { phonemes: (await speaker()).phonemes(text) };
}

async function transcribe({ samples }) {
  return nano.recogniser.transcribe(samples);
}

function cancel() {
  cancelled = true;
}

function memory() {
  return { wasmBytes: nano.model.wasmBytes };
}
