// English words, letters and marks to phonemes (minicpm_o/runtime/speech/english.py, morphology.py, letters.py), with the
// same word lists. Phonemes are misaki's American ones.
const MARKS = ".!?…,;:—";
const PRIMARY = "ˈ";
const SECONDARY = "ˌ";
const VOWEL_ENDINGS = ["ed", "ing", "er", "est", "able"];
const CONSONANT_ENDINGS = ["ly", "ness", "less"];
const ALONE = { before: "", vowelFollows: null, shouting: false };

// Lines `word TAB phonemes TAB TAG=phonemes ...` by word.
export function lexicon(text) {
  const entries = new Map();
  for (const line of text.split("\n")) {
    const cut = line.indexOf("\t");
    if (cut > 0) entries.set(line.slice(0, cut), line.slice(cut + 1));
  }
  return entries;
}

export class English {
  // tables: reading.json; words and rules: of `lexicon`.
  constructor(tables, words, rules) {
    this.tables = tables;
    this.words = words;
    this.rules = rules;
    this.sets = Object.fromEntries(["determiners", "verb_cues", "past_cues", "always_spelled", "loud_short", "vowel_letters",
      "voiceless", "sibilants", "flapping_vowels", "vowels"].map((name) => [name, new Set(tables[name])]));
  }

  // One string: words parted by spaces, marks directly behind the word before them.
  phonemes(tokens) {
    const spoken = [];
    let vowelFollows = null;
    for (let i = tokens.length - 1; i >= 0; i--) {
      const before = tokens[i - 1]?.word?.toLowerCase() ?? "";
      const sounds = this.token(tokens[i], { before, vowelFollows, shouting: this.isShouted(tokens, i) });
      spoken.unshift(sounds);
      vowelFollows = this.startsWithVowel(sounds, vowelFollows);
    }
    return spoken.reduce((text, sounds) => text + (!text || !sounds || MARKS.includes(sounds) ? sounds : ` ${sounds}`), "");
  }

  token(token, context) {
    if (token.mark) return token.mark;
    return token.letters !== undefined ? this.letters(token.letters) : this.word(token.word, context);
  }

  find(word) {
    const line = this.words.get(word);
    if (line === undefined) return null;
    const [normal, ...tagged] = line.split("\t");
    return { normal, tagged: Object.fromEntries(tagged.map((item) => item.split(/=(.*)/s).slice(0, 2))) };
  }

  startsWithVowel(sounds, otherwise) {
    for (const sound of sounds) {
      if (MARKS.includes(sound)) return null;
      if (![PRIMARY, SECONDARY, " "].includes(sound)) return this.sets.vowels.has(sound);
    }
    return otherwise;
  }

  letters(text) {
    const names = [...text.toUpperCase()].map((letter) => this.find(letter)?.normal ?? "");
    return names.map((name, i) => (i + 1 < names.length ? name.replaceAll(PRIMARY, SECONDARY) : name)).join("");
  }

  word(word, context = ALONE) {
    const special = this.special(word, context);
    if (special !== null) return special;
    if (this.isInitialism(word, context)) return this.capitals(word);
    return this.known(word, context) ?? this.unknown(word, context);
  }

  special(word, { before, vowelFollows: follows, shouting }) {
    const lower = word.toLowerCase();
    if (lower === "a") return follows !== null && (word === "a" || !before) ? "ɐ" : "ˈA";
    if (lower === "i") return follows !== null ? "ˌI" : "ˈI";
    if (lower === "in" && follows === null) return "ˈɪn";
    const byNext = { an: ["ɐn", "ɐn", "ˈæn"], the: ["ðə", "ði", "ðə"], to: ["tə", "tʊ", "tu"] };
    if (!Object.hasOwn(byNext, lower) || (isUpper(word) && !shouting && lower !== "the")) return null;
    return byNext[lower][follows === null ? 2 : Number(follows)];
  }

  isInitialism(word, { shouting }) {
    const stem = withoutS(word);
    if (shouting || this.sets.loud_short.has(stem) || !/^[A-Z]{2,}$/.test(stem)) return false;
    return this.sets.always_spelled.has(stem) || this.words.has(stem) || !this.words.has(stem.toLowerCase());
  }

  isShouted(tokens, i) {
    return [tokens[i - 1], tokens[i + 1]].some((token) => token?.word !== undefined && this.isLoud(token.word));
  }

  isLoud(word) {
    const loud = word.length > 1 && isUpper(word) && !this.sets.always_spelled.has(word);
    return (loud && !this.words.has(word) && this.words.has(word.toLowerCase())) || this.sets.loud_short.has(word);
  }

  capitals(word) {
    const stem = withoutS(word);
    const entry = this.sets.always_spelled.has(stem) ? null : this.find(stem);
    const sounds = (entry && (entry.tagged.NOUN ?? entry.normal)) || this.letters(stem);
    return stem === word ? sounds : this.attach(sounds, "s");
  }

  known(word, context) {
    const lower = word.toLowerCase();
    for (const form of new Set([word, lower, lower.charAt(0).toUpperCase() + lower.slice(1)])) {
      const entry = this.find(form);
      if (entry?.normal) return this.tags(context).map((tag) => entry.tagged[tag]).find((x) => x !== undefined) ?? entry.normal;
    }
    for (const [stem, ending] of splits(lower)) {
      const sounds = this.stem(stem);
      if (sounds) return this.attach(sounds, ending);
    }
    return null;
  }

  stem(stem) {
    if (stem.length < 2) return null;
    return (this.find(stem) || this.find(stem.charAt(0).toUpperCase() + stem.slice(1)))?.normal ?? null;
  }

  tags({ before, vowelFollows }) {
    const end = vowelFollows === null ? ["END"] : [];
    if (this.sets.determiners.has(before)) return ["NOUN", "ADJ", ...end];
    if (this.sets.past_cues.has(before)) return ["VBN", "VBD", "ADJ", ...end];
    return this.sets.verb_cues.has(before) ? ["VERB", ...end] : end;
  }

  unknown(word, context) {
    const plain = this.withoutAccents(word);
    if (plain !== word) return this.word(plain, context);
    const parts = word.split("-").flatMap((piece) => piece.match(/[A-Z]+(?![a-z])|[A-Z]?[^A-Z]+|[A-Z]/g) || []);
    if (parts.length > 1) return parts.map((part) => this.word(part)).join("");
    const lower = word.toLowerCase().replace(/[^a-z]/g, "");
    if (![...lower].some((letter) => this.sets.vowel_letters.has(letter))) return this.letters(lower);
    return this.withClitic(word) || this.prefixed(lower) || this.compound(lower) || this.soundOut(lower);
  }

  withoutAccents(word) {
    const folded = [...word].map((letter) => this.tables.folded[letter.codePointAt(0)] ?? letter).join("");
    return folded.normalize("NFD").replace(/\p{M}/gu, "").replace(/[^\x00-\x7F]/g, "");
  }

  withClitic(word) {
    const cut = word.lastIndexOf("'");
    if (cut < 1) return null;
    const [stem, ending] = [word.slice(0, cut), word.slice(cut)];
    if (!Object.hasOwn(this.tables.clitics, ending)) return ending === "'" ? this.word(stem) : null;
    return this.word(stem) + this.tables.clitics[ending];
  }

  prefixed(word) {
    for (const [prefix, sounds] of Object.entries(this.tables.prefixes)) {
      if (!word.startsWith(prefix) || word.length - prefix.length <= this.tables.shortest_part) continue;
      const rest = this.known(word.slice(prefix.length), ALONE);
      if (rest) return sounds + rest;
    }
    return null;
  }

  compound(word) {
    const least = this.tables.shortest_part;
    if (word.length < this.tables.shortest_compound) return null;
    for (let cut = word.length - least; cut >= least; cut--) {
      const first = this.find(word.slice(0, cut));
      const second = first?.normal ? this.known(word.slice(cut), ALONE) : null;
      if (second) return first.normal + second.replaceAll(PRIMARY, SECONDARY);
    }
    return null;
  }

  // By the widest rule that matches at each letter; exactly one main stress.
  soundOut(word) {
    const sounds = [...word].map((_, i) => this.letterSound(word, i)).join("");
    const first = sounds.indexOf(PRIMARY);
    if (first >= 0) return sounds.slice(0, first + 1) + sounds.slice(first + 1).replaceAll(PRIMARY, SECONDARY);
    if (sounds.includes(SECONDARY)) return sounds.replace(SECONDARY, PRIMARY);
    const vowel = [...sounds].findIndex((sound) => this.sets.vowels.has(sound));
    return vowel < 0 ? sounds : sounds.slice(0, vowel) + PRIMARY + sounds.slice(vowel);
  }

  letterSound(word, i) {
    for (const [left, right] of this.tables.windows.toReversed()) {
      const before = word.slice(Math.max(0, i - left), i).padStart(left, "#");
      const behind = word.slice(i + 1, i + 1 + right).padEnd(right, "#");
      const line = this.rules.get(before + word[i].toUpperCase() + behind);
      if (line !== undefined) return line.split("\t")[0];
    }
    return "";
  }

  attach(sounds, ending) {
    const last = sounds.at(-1);
    const { voiceless, sibilants } = this.sets;
    if (ending === "s") return sounds + (voiceless.has(last) ? "s" : sibilants.has(last) ? "ᵻz" : "z");
    if (ending === "ed") {
      if ("td".includes(last)) return `${this.flapped(sounds)}ᵻd`;
      return sounds + (voiceless.has(last) || "sʃʧ".includes(last) ? "t" : "d");
    }
    const simple = this.tables.simple_sounds[ending];
    return simple === undefined ? this.flapped(sounds) + this.tables.vowel_sounds[ending] : sounds + simple;
  }

  flapped(sounds) {
    const isFlap = sounds.length > 1 && sounds.at(-1) === "t" && this.sets.flapping_vowels.has(sounds.at(-2));
    return isFlap ? `${sounds.slice(0, -1)}ɾ` : sounds;
  }
}

function isUpper(word) {
  return word === word.toUpperCase() && word !== word.toLowerCase();
}

function withoutS(word) {
  return word.endsWith("s") ? word.slice(0, -1).replace(/'+$/, "") : word;
}

// Possible stems of a lower-case word with their endings, likeliest first.
function splits(word) {
  if (word.endsWith("'s") || word.endsWith("s'")) return [[word.endsWith("'s") ? word.slice(0, -2) : word.slice(0, -1), "s"]];
  const found = plural(word);
  for (const ending of [...VOWEL_ENDINGS, ...CONSONANT_ENDINGS]) {
    if (!word.endsWith(ending) || word.length <= ending.length + 2) continue;
    const stem = word.slice(0, -ending.length);
    found.push(...(VOWEL_ENDINGS.includes(ending) ? vowelStems(stem) : consonantStems(stem)).map((one) => [one, ending]));
  }
  return found;
}

function plural(word) {
  if (word.length < 3 || !word.endsWith("s") || word.endsWith("ss")) return [];
  const found = [[word.slice(0, -1), "s"]];
  if (word.endsWith("ies") && word.length > 4) found.push([`${word.slice(0, -3)}y`, "s"]);
  if (word.endsWith("es") && word.length > 3) found.push([word.slice(0, -2), "s"]);
  return found;
}

function consonantStems(stem) {
  return stem.endsWith("i") ? [stem, `${stem.slice(0, -1)}y`] : [stem];
}

function vowelStems(stem) {
  const isDoubled = stem.length > 2 && stem.at(-1) === stem.at(-2) && !"aeiou".includes(stem.at(-1));
  const found = [...(isDoubled ? [stem.slice(0, -1)] : []), `${stem}e`, stem];
  if (stem.endsWith("i")) found.push(`${stem.slice(0, -1)}y`);
  if (stem.endsWith("ck")) found.push(stem.slice(0, -1));
  return found;
}
