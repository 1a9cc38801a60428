// Text to sound: phonemes cut into clauses, each spoken by Piper's graph, trimmed, levelled and followed by its pause
// (minicpm_o/runtime/speech/clauses.py, piper.py, level.py). Sound stays at the voice's own rate.
import { English, lexicon } from "./english.js";
import { unzip } from "./model.js";
import { Reader } from "./reading.js";

const MARKS = ".!?…,;:—";

export class Speaker {
  static async open(model, config) {
    const tables = await model.json("model/reading.json");
    const words = async (name) => lexicon(new TextDecoder().decode(await unzip(await model.bytes(`model/${name}`))));
    const english = new English(tables, await words("lexicon_en.txt.gz"), await words("letters_en.txt.gz"));
    return new Speaker(model, config, new Reader(tables), english);
  }

  constructor(model, config, reader, english) {
    this.model = model;
    this.config = config;
    this.reader = reader;
    this.english = english;
    this.gain = null;
    this.spelled = new RegExp(Object.keys(config.ipa).sort((a, b) => b.length - a.length).map(RegExp.escape ?? escape)
      .join("|"), "g");
  }

  phonemes(text) {
    return this.english.phonemes(this.reader.read(text));
  }

  // onSound gets (samples, rate) clause by clause; isCancelled is asked before each.
  async speak(text, onSound, isCancelled) {
    const rate = this.config.rate_hz;
    this.gain ??= this.loudness(await this.sound(this.config.level_phonemes, true));
    for (const clause of this.clauses(this.phonemes(text))) {
      if (isCancelled()) return;
      const sound = this.trim(await this.sound(clause));
      const { peak, pauses_s: pauses, pause_s: usual } = this.config;
      const spoken = new Float32Array(sound.length + Math.round(rate * (pauses[clause.at(-1)] ?? usual)));
      sound.forEach((x, i) => { spoken[i] = Math.max(-peak, Math.min(peak, x * this.gain)); });
      onSound(spoken, rate);
    }
  }

  async sound(phonemes, passUnknown = false) {
    const { ids, scales } = this.config;
    const symbols = [...phonemes.replace(this.spelled, (found) => this.config.ipa[found])];
    const known = symbols.filter((symbol) => ids[symbol] || !passUnknown);
    const pad = ids._;
    const row = [...ids["^"], ...pad, ...known.flatMap((symbol) => [...(ids[symbol] || []), ...pad]), ...ids.$];
    const { output } = await this.model.run("voice", {
      input: this.model.tensor("int64", BigInt64Array.from(row, BigInt), [1, row.length]),
      input_lengths: this.model.tensor("int64", BigInt64Array.of(BigInt(row.length)), [1]),
      scales: this.model.tensor("float32", Float32Array.from(scales), [3]),
    });
    return output.data;
  }

  clauses(phonemes) {
    const { first_phonemes: first, wished_phonemes: wished, most_phonemes: limit } = this.config;
    const found = [];
    for (const sentence of phonemes.split(/(?<=[.!?…])(?: +|$)/)) {
      if ([...sentence].some((one) => !MARKS.includes(one) && one.trim())) {
        found.push(...cutSentence(sentence.trim(), limit, found.length ? wished : first, wished));
      }
    }
    return found;
  }

  frames(sound) {
    const size = Math.round(this.config.frame_s * this.config.rate_hz);
    return Array.from({ length: Math.ceil(sound.length / size) }, (_, i) => {
      let sum = 0;
      for (const x of sound.subarray(i * size, (i + 1) * size)) sum += x * x;
      return Math.sqrt(sum / size);
    });
  }

  // Between the first and the last audible frame, with a margin and faded edges.
  trim(sound) {
    const { rate_hz: rate, frame_s: frameS, margin_s: marginS, fade_s: fadeS, silence_rms: silence } = this.config;
    const [frame, margin, fade] = [frameS, marginS, fadeS].map((seconds) => Math.round(seconds * rate));
    const audible = this.frames(sound).map((rms) => rms > silence);
    if (!audible.includes(true)) return sound;
    const start = Math.max(0, audible.indexOf(true) * frame - margin);
    const kept = sound.slice(start, Math.min(sound.length, (audible.lastIndexOf(true) + 1) * frame + margin));
    const length = Math.min(fade, kept.length >> 1);
    for (let i = 0; i < length; i++) {
      kept[i] *= i / (length - 1);
      kept[kept.length - 1 - i] *= i / (length - 1);
    }
    return kept;
  }

  // What brings the audible part of a sound to the common loudness.
  loudness(sound) {
    const { target_rms: target, most_gain: most, silence_rms: silence } = this.config;
    const loud = this.frames(sound).filter((rms) => rms > silence);
    if (!loud.length) return 1;
    const rms = Math.sqrt(loud.reduce((sum, one) => sum + one * one, 0) / loud.length);
    return Math.max(1 / most, Math.min(most, target / rms));
  }
}

function escape(text) {
  return text.replace(/[.*+?^${}()|[\]\\]/g, "\\$&");
}

// Parts between inner marks, joined until a clause is as long as wished.
function cutSentence(sentence, limit, first, wished) {
  const found = [];
  let [clause, most] = ["", first];
  for (const part of sentence.split(/(?<=[,;:—])(?: +|$)/)) {
    if (clause && clause.length + part.length + 1 > Math.min(most, limit)) {
      found.push(...cutWords(clause, limit));
      [clause, most] = ["", wished];
    }
    clause = `${clause} ${part}`.trim();
  }
  return clause ? [...found, ...cutWords(clause, limit)] : found;
}

// Nearly equal pieces between words when a clause is over the limit.
function cutWords(clause, limit) {
  const found = [];
  while (clause.length > limit) {
    const pieces = Math.ceil(clause.length / limit);
    const space = clause.lastIndexOf(" ", Math.min(limit, Math.floor(clause.length / pieces) + 20) - 1);
    const cut = space > 0 ? space : limit;
    found.push(clause.slice(0, cut).trimEnd());
    clause = clause.slice(cut).trimStart();
  }
  return [...found, clause];
}
