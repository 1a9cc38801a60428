// Messages to a prompt, and the prompt to an answer: greedy, or the best of several tried side by side
// (minicpm_o/inputs/processor.py, runtime/generate.py, runtime/beam.py).
import { indexOfMax, logSoftmax } from "./hear.js";
import { TextStream } from "./tokenizer.js";

const AUDIO_TOKENS_PER_S = 10;
const SENTENCE = { user: "user", assistant: "assistant" };

// The layout of a prompt: token ids, and runs of placeholders with the features that fill them.
export class Draft {
  constructor(tokenizer, tables) {
    this.tokenizer = tokenizer;
    this.tables = tables;
    this.ids = [];
    this.runs = [];
  }

  text(words) {
    this.ids.push(...this.tokenizer.encode(words));
  }

  token(name) {
    this.ids.push(this.tables.special[name]);
  }

  // features: (length, width) float32, one row for each placeholder; key: names the medium.
  run(length, features, key) {
    this.runs.push({ start: this.ids.length, length, features, key });
    for (let i = 0; i < length; i++) this.token("placeholder");
  }

  // messages: [{ role, parts: [{ type, text | seen | heard }] }], media encoded already.
  lay(messages) {
    for (const { role, parts } of messages) {
      this.token("im_start");
      this.text(`${SENTENCE[role]}\n`);
      parts.forEach((part, index) => {
        this.part(part);
        if (part.type === "text" && index + 1 < parts.length) this.text("\n");
      });
      this.token("im_end");
      this.text("\n");
    }
    this.token("im_start");
    this.text("assistant\n");
    return this;
  }

  part(part) {
    if (part.type === "text") this.text(part.text);
    else if (part.type === "image") this.image(part.seen);
    else this.sound(part.heard);
  }

  // seen: { tokens, pieces, key }: the whole picture, then its slices.
  image({ tokens, pieces, key }) {
    const rows = tokens.length / this.width / pieces;
    for (let index = 0; index < pieces; index++) {
      const [start, end] = index ? ["slice_start", "slice_end"] : ["image_start", "image_end"];
      this.token(start);
      this.run(rows, tokens.subarray(index * rows * this.width, (index + 1) * rows * this.width), `${key}.${index}`);
      this.token(end);
    }
    this.text("\n");
  }

  // heard: { tokens, seconds, transcript, key }.
  sound({ tokens, seconds, transcript, key }) {
    this.token("audio_start");
    this.run(Math.ceil(seconds) * AUDIO_TOKENS_PER_S, tokens, key);
    this.token("audio_end");
    this.text("\n");
    const { heard, heard_nothing: nothing } = this.tables.prompts;
    this.text(`${transcript.trim() ? heard.replace("{}", () => transcript) : nothing}\n`);
  }

  get width() {
    return this.tables.config.language.width;
  }

  // What tells one token from another: its id, or the medium that it belongs to and its place there.
  keys() {
    const keys = this.ids.map(String);
    for (const { start, length, key } of this.runs) {
      for (let i = 0; i < length; i++) keys[start + i] = `${key}@${i}`;
    }
    return keys;
  }
}

// Where answers come from. Holds what was read last, so that the next turn of a conversation reads only what is new.
export class Language {
  constructor(model, tables, tokenizer, embeddings) {
    this.model = model;
    this.tables = tables;
    this.tokenizer = tokenizer;
    this.embeddings = embeddings;
    this.shape = tables.config.language;
    this.kept = { keys: [], past: null };
  }

  // Rows of the word table, each times its scale.
  embed(ids) {
    const { width } = this.shape;
    const out = new Float32Array(ids.length * width);
    ids.forEach((id, row) => {
      const scale = this.embeddings.scales[id];
      for (let i = 0; i < width; i++) out[row * width + i] = this.embeddings.table[id * width + i] * scale;
    });
    return out;
  }

  fused(draft, start) {
    const { width } = this.shape;
    const embeds = this.embed(draft.ids.slice(start));
    for (const run of draft.runs) if (run.start >= start) embeds.set(run.features, (run.start - start) * width);
    return embeds;
  }

  emptyPast() {
    const { layers, kv_heads: heads, head_width: width } = this.shape;
    const past = {};
    for (let layer = 0; layer < layers; layer++) {
      for (const kind of ["key", "value"]) {
        past[`${layer}.${kind}`] = this.model.tensor("float32", new Float32Array(0), [1, heads, 0, width]);
      }
    }
    return { length: 0, tensors: past };
  }

  // One run: embeds (T, D) after what `past` holds -> { logits (V,), past }.
  async read(embeds, past) {
    const { width, layers } = this.shape;
    const count = embeds.length / width;
    const total = past.length + count;
    const feeds = {
      inputs_embeds: this.model.tensor("float32", embeds, [1, count, width]),
      seqlens_k: this.model.tensor("int32", Int32Array.of(total - 1), [1]),
      total_sequence_length: this.model.tensor("int32", Int32Array.of(total), []),
    };
    for (const [name, value] of Object.entries(past.tensors)) feeds[`past_key_values.${name}`] = value;
    const out = await this.model.run("language", feeds);
    const tensors = {};
    for (let layer = 0; layer < layers; layer++) {
      for (const kind of ["key", "value"]) tensors[`${layer}.${kind}`] = out[`present.${layer}.${kind}`];
    }
    return { logits: out.logits.data, past: { length: total, tensors } };
  }

  // The prompt, as far as it is not read yet.
  async prefill(draft) {
    const keys = draft.keys();
    const start = this.kept.past ? sharedStart(this.kept.keys, keys, draft.runs) : 0;
    const past = start ? cutPast(this.model, this.kept.past, start) : this.emptyPast();
    const step = await this.read(this.fused(draft, start), past);
    this.kept = this.model.keepsPast ? { keys, past: step.past } : { keys: [], past: null };
    return { ...step, cached: start };
  }

  // Answer; onText gets words as they come, isCancelled is asked before every token.
  async answer(draft, { maxTokens = this.tables.answer.max_tokens, numBeams = 1, onText = () => {},
    isCancelled = () => false } = {}) {
    const started = performance.now();
    const first = await this.prefill(draft);
    const readMs = performance.now() - started;
    const write = numBeams > 1 ? this.search(first, numBeams, maxTokens, isCancelled)
      : this.greedy(first, maxTokens, onText, isCancelled);
    const found = await write;
    if (numBeams > 1) onText(this.tokenizer.decode(found.ids));
    return { ...found, text: this.tokenizer.decode(found.ids), promptTokens: draft.ids.length, cached: first.cached,
      readMs, writeMs: performance.now() - started - readMs };
  }

  async greedy(step, maxTokens, onText, isCancelled) {
    const stream = new TextStream(this.tokenizer);
    const ids = [];
    for (;;) {
      if (isCancelled()) return { ids, reason: "cancelled" };
      const id = indexOfMax(this.allowed(step.logits));
      if (this.tables.eos.includes(id)) break;
      ids.push(id);
      onText(stream.push(id));
      if (ids.length >= maxTokens || step.past.length >= this.shape.context_tokens) {
        onText(stream.flush());
        return { ids, reason: "length" };
      }
      step = await this.read(this.embed([id]), step.past);
    }
    onText(stream.flush());
    return { ids, reason: "stop" };
  }

  allowed(logits) {
    for (const id of this.tables.banned) logits[id] = -Infinity;
    return logits;
  }

  // Beam search without drawing; scores are log-probabilities over length to a power.
  async search(first, count, maxTokens, isCancelled) {
    const score = (logProbability, length) => logProbability / Math.max(1, length) ** this.tables.beams.length_penalty;
    let beams = [{ ids: [], logProbability: 0, ...first }];
    const finished = [];
    const best = () => finished.reduce((a, b) => (b.score > a.score ? b : a));
    for (let length = 1; length <= maxTokens; length++) {
      if (isCancelled()) return { ids: beams[0].ids, reason: "cancelled" };
      const children = this.children(beams, 2 * count);
      for (const child of children.filter(({ id }) => this.tables.eos.includes(id))) {
        finished.push({ ids: child.parent.ids, score: score(child.logProbability, length) });
      }
      const chosen = children.filter(({ id }) => !this.tables.eos.includes(id)).slice(0, count);
      if (!chosen.length) break;
      if (finished.length >= count && best().score >= score(chosen[0].logProbability, length)) break;
      const read = [];
      for (const { parent, id, logProbability } of chosen) {
        read.push({ ids: [...parent.ids, id], logProbability, ...(await this.read(this.embed([id]), parent.past)) });
      }
      beams = read;
    }
    return finished.length ? { ids: best().ids, reason: "stop" } : { ids: beams[0].ids, reason: "length" };
  }

  // Continuations of all beams by one token, the likeliest first.
  children(beams, count) {
    const found = beams.flatMap((parent) => {
      const scores = logSoftmax(this.allowed(parent.logits));
      return likeliest(scores, count).map((id) => ({ parent, id, logProbability: parent.logProbability + scores[id] }));
    });
    return found.sort((a, b) => b.logProbability - a.logProbability).slice(0, count);
  }
}

function likeliest(scores, count) {
  const top = [];
  for (let id = 0; id < scores.length; id++) {
    if (top.length === count && scores[id] <= scores[top.at(-1)]) continue;
    const at = top.findIndex((other) => scores[id] > scores[other]);
    top.splice(at < 0 ? top.length : at, 0, id);
    if (top.length > count) top.pop();
  }
  return top;
}

// How many tokens lie in the cache already; at least two are read anew, and a medium is read whole or not at all.
function sharedStart(known, keys, runs) {
  let start = 0;
  while (start < Math.min(known.length, keys.length - 2) && known[start] === keys[start]) start++;
  const cut = runs.find((run) => run.start < start && start < run.start + run.length);
  return cut ? cut.start : start;
}

// The first `length` tokens of keys and values (1, heads, T, width).
function cutPast(model, past, length) {
  if (past.length === length) return past;
  const tensors = {};
  for (const [name, { data, dims }] of Object.entries(past.tensors)) {
    const [, heads, total, width] = dims;
    const kept = new Float32Array(heads * length * width);
    for (let head = 0; head < heads; head++) {
      kept.set(data.subarray(head * total * width, (head * total + length) * width), head * length * width);
    }
    tensors[name] = model.tensor("float32", kept, [1, heads, length, width]);
  }
  return { length, tensors };
}
