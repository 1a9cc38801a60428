// Byte-level BPE: text to token ids and back, as the tokenizers library does it with nano's and Whisper's vocabularies.
const CUTS = /'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+/gu;
const DIGITS = /\p{N}|\P{N}+/gu;

// GPT-2's letters for the 256 bytes: printable ones stand for themselves, the others follow from U+0100 on.
function byteLetters() {
  const letters = [];
  let next = 0x100;
  for (let byte = 0; byte < 256; byte++) {
    const isPrintable = (byte > 32 && byte < 127) || (byte > 160 && byte < 173) || byte > 173;
    letters.push(String.fromCharCode(isPrintable ? byte : next++));
  }
  return letters;
}

export class Tokenizer {
  // tables: { words, merges, special }; separateDigits: every digit is a token of its own.
  constructor({ words, merges, special }, separateDigits = false) {
    this.words = words;
    this.ids = new Map(words.map((word, id) => [word, id]));
    this.ranks = new Map(merges.map((pair, rank) => [pair, rank]));
    this.special = new Set(special);
    this.separateDigits = separateDigits;
    this.letters = byteLetters();
    this.bytes = new Map(this.letters.map((letter, byte) => [letter, byte]));
    this.known = new Map();
  }

  // Strings that look like special tokens are encoded as the letters they are.
  encode(text) {
    const pieces = this.separateDigits ? text.match(DIGITS) || [] : [text];
    const ids = [];
    for (const piece of pieces) for (const word of piece.match(CUTS) || []) ids.push(...this.encodeWord(word));
    return ids;
  }

  encodeWord(word) {
    let ids = this.known.get(word);
    if (!ids) {
      const letters = [...new TextEncoder().encode(word)].map((byte) => this.letters[byte]);
      ids = this.merge(letters).map((part) => this.ids.get(part));
      this.known.set(word, ids);
    }
    return ids;
  }

  // Join the neighbours of the lowest rank until none is in the list.
  merge(parts) {
    for (;;) {
      let best = Infinity;
      let at = -1;
      for (let i = 0; i + 1 < parts.length; i++) {
        const rank = this.ranks.get(`${parts[i]} ${parts[i + 1]}`);
        if (rank < best) [best, at] = [rank, i];
      }
      if (at < 0) return parts;
      const [left, right] = [parts[at], parts[at + 1]];
      const joined = [];
      for (let i = 0; i < parts.length; i++) {
        const isPair = parts[i] === left && parts[i + 1] === right;
        joined.push(isPair ? left + right : parts[i]);
        i += Number(isPair);
      }
      parts = joined;
    }
  }

  // Special tokens are dropped.
  decode(ids) {
    const bytes = [];
    for (const id of ids) {
      if (this.special.has(id)) continue;
      for (const letter of this.words[id]) bytes.push(this.bytes.get(letter));
    }
    return new TextDecoder().decode(new Uint8Array(bytes));
  }
}

// Token ids to text that is certain: whole characters only.
export class TextStream {
  constructor(tokenizer) {
    this.tokenizer = tokenizer;
    this.context = [];
    this.open = [];
  }

  push(id) {
    this.open.push(id);
    const text = this.text();
    return text.endsWith("\uFFFD") && this.open.length < 8 ? "" : this.release(text);
  }

  flush() {
    return this.release(this.text().replace(/\uFFFD+$/, ""));
  }

  text() {
    const before = this.tokenizer.decode(this.context);
    return this.tokenizer.decode([...this.context, ...this.open]).slice(before.length);
  }

  release(text) {
    if (this.open.length) [this.context, this.open] = [this.open, []];
    return text;
  }
}
