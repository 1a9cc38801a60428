// Written English to what is said: { word } | { letters } | { mark } (minicpm_o/runtime/speech/reading.py).
// Patterns and word lists are Python's own, in reading.json. Letters of other scripts are said as far as a table has
// them; emoji and other signs without one, which Python calls by their Unicode names, are passed over here.
import * as numbers from "./numbers.js";

const SENTENCE_ENDS = ".!?…";
const MARKS = `${SENTENCE_ENDS},;:—`;

export class Reader {
  constructor(tables) {
    this.tables = tables;
    this.rules = tables.rules.map(([name, pattern]) => ({ pattern: new RegExp(pattern, "uy"), read: READINGS[name] }));
  }

  read(text) {
    return tidy(this.scan(this.plain(text)));
  }

  // Without markdown's marks and invisible characters; line ends that part sentences become marks.
  plain(text) {
    return [...text.replaceAll("\r\n", "\n").normalize("NFC")].map((one) => this.plainCharacter(one)).join("")
      .replace(/!?\[([^\]\n]+)\]\((?:[^)\s]+)\)/g, "$1")
      .replace(/^ *(?:#{1,6} |> ?|```.*$) */gm, "")
      .replace(/(\*\*|__|~~|`+)(?=\S)(.+?)(?<=\S)\1/g, "$2")
      .replace(/(?<!\w)([*_])(?=\S)([^*_\n]+?)(?<=\S)\1(?!\w)/g, "$2")
      .replace(/^ *[-*+•] +/gm, "\n")
      .replace(/^ *(?:[-*_=] *){3,}$/gm, "")
      .replace(/([^\s.!?…,;:—])[ \t]*\n(?=\s*\n|\s*\d+[.)] )/g, "$1.\n")
      .replace(/([^\s.!?…,;:—])[ \t]*\n(?=[A-Z])/g, "$1,\n")
      .replace(/\s+/g, " ").trim();
  }

  plainCharacter(character) {
    if (/\p{Cf}/u.test(character)) return "";
    if (/[\p{Cc}\p{Zs}\p{Zl}\p{Zp}]/u.test(character)) return character === "\n" ? character : " ";
    if ("‘’ʼ＇".includes(character)) return "'";
    const { pauses, symbols } = this.tables;
    const plain = character.normalize("NFKC");
    const isSign = character in pauses || character in symbols || character in this.tables.vulgar_fractions;
    if (plain === character || isSign || /[²³⁰¹⁴-⁹]/.test(character)) return character;
    return /^(?: |\p{M})/u.test(plain) ? character : plain;
  }

  scan(plain) {
    const tokens = [];
    for (let at = 0; at < plain.length;) {
      const [found, stop] = this.readAt(plain, at);
      tokens.push(...found);
      at = stop;
    }
    return tokens;
  }

  readAt(text, at) {
    for (const { pattern, read } of this.rules) {
      pattern.lastIndex = at;
      const match = pattern.exec(text);
      if (match && match[0]) return [read(new Found(match, text), this), at + match[0].length];
    }
    const run = text.slice(at).match(/^\p{L}[\p{L}\p{M}]*/u);
    if (run) return [this.foreign(run[0]), at + run[0].length];
    const character = String.fromCodePoint(text.codePointAt(at));
    return [this.sign(character), at + character.length];
  }

  sign(character) {
    const { pauses, symbols, silent } = this.tables;
    if (/\s/.test(character) || silent.includes(character)) return [];
    if (MARKS.includes(character)) return [mark(character)];
    if (character in pauses) return pauses[character] ? [mark(pauses[character])] : [];
    if (character in symbols) return words(symbols[character]);
    const name = this.tables.emoji_names[character];
    return name ? [mark(","), ...words(name.replace(/[^a-z ]/g, " ")), mark(",")] : [];
  }

  foreign(word) {
    const { letter_sounds: sounds, greek_names: greek } = this.tables;
    if (word.toLowerCase() in greek) return words(greek[word.toLowerCase()]);
    const names = [...word.toLowerCase()].map((letter) => sounds[letter] ?? sounds[letter.normalize("NFD")[0]] ?? "");
    return words(names.join(""));
  }
}

// What a rule matched, and what stands around it.
class Found {
  constructor(match, text) {
    this.all = match[0];
    this.groups = match;
    this.named = match.groups || {};
    this.before = text.slice(0, match.index);
    this.rest = text.slice(match.index + match[0].length);
  }
}

const mark = (text) => ({ mark: text });
const word = (text) => ({ word: text });
const lettersOf = (text) => ({ letters: text });

function words(text) {
  return (text.match(/[A-Za-z]+(?:'[A-Za-z]+)*\.?/g) || []).map(word);
}

function signed(sign) {
  if (sign === "-" || sign === "−") return "minus ";
  return sign === "+" ? "plus " : "";
}

function endMark({ rest }) {
  return !rest.trim() || /^\s+(?!Ltd|Inc|Corp)[A-Z][a-z]/.test(rest) ? [mark(".")] : [];
}

function lastMark({ rest }) {
  return rest.trim() ? [] : [mark(".")];
}

function counted(digits, one, many) {
  return `${numbers.decimal(digits)} ${digits === "1" ? one : many}`;
}

function halfOfDay(found, half) {
  if (!half) return [];
  return [lettersOf(half.replaceAll(".", "").toUpperCase()), ...(half.endsWith(".") ? endMark(found) : [])];
}

function date(month, day, year) {
  const tokens = words(`${month} ${numbers.ordinal(day)}`);
  if (!year) return tokens;
  const full = year.length === 4 ? year : `${Number(year) > 50 ? "19" : "20"}${year}`;
  return [...tokens, mark(","), ...words(numbers.year(full))];
}

function checkedDate(written, month, day, year, { tables }) {
  if (month >= 1 && month <= 12 && Number(day) >= 1 && Number(day) <= 31) return date(tables.months[month - 1], day, year);
  const parts = written.split(/\D/).map((part) => numbers.cardinal(part.replace(/^0+/, "") || "0"));
  return words(parts.join(written.includes("/") ? " slash " : " dash "));
}

function addressPiece(piece, reader) {
  if (/^\d+$/.test(piece)) return words(piece.length < 3 ? numbers.cardinal(piece) : numbers.spellDigits(piece));
  if (/^[A-Za-z]+$/.test(piece)) {
    const isSpelled = ["www", "http", "html", "io", "ai", "uk"].includes(piece.toLowerCase());
    return [isSpelled ? lettersOf(piece.toUpperCase()) : word(piece)];
  }
  const called = { ".": "dot", "-": "dash", "?": "question mark", ":": "colon" }[piece];
  return called ? words(called) : reader.sign(piece);
}

// By the names of Python's functions.
const READINGS = {
  word: ({ all }) => [word(all)],
  dotted_letters: (found) => [lettersOf(found.all.replace(/[^A-Za-z]/g, "").toUpperCase()), ...endMark(found)],
  abbreviation: (found, { tables }) => {
    const short = found.groups[1].toLowerCase();
    const end = tables.abbreviations_that_may_end.includes(short) ? endMark(found) : lastMark(found);
    return [...words(tables.abbreviations[short]), ...end];
  },
  without_dot: ({ all }, { tables }) => words(tables.without_dot[all.toLowerCase()] ?? tables.without_dot[all]),
  saint_or_street: (found) => {
    const followsName = /\d\S*(?: [A-Z]\w+)* $/.test(found.before.slice(-32));
    const isSaint = /^\s+[A-Z]/.test(found.rest) && !followsName;
    return isSaint ? [word("saint")] : [word("street"), ...lastMark(found)];
  },
  initial: ({ all }) => [lettersOf(all[0])],
  number_sign: () => [word("number")],
  address: ({ all }, reader) => (all.replace(/^[a-z]+:\/\//i, "").match(/[A-Za-z]+|\d+|[^A-Za-z\d]/gu) || [])
    .flatMap((piece) => addressPiece(piece, reader)),
  hashtag: ({ groups }, reader) => [word("hashtag"), ...reader.scan(groups[1].replace(/(?<=[a-z])(?=[A-Z])/g, " "))],
  mention: ({ groups }, reader) => [word("at"), ...reader.scan(groups[1].replaceAll("_", " "))],
  number: ({ groups }) => words(signed(groups[1]) + numbers.decimal(groups[2])),
  year: ({ all }) => words(numbers.year(all)),
  decade: ({ groups }) => words(numbers.decade(groups[1])),
  ordinal: ({ groups }) => words(numbers.ordinal(groups[1])),
  money: ({ named: { sign, minus, amount, scale } }, { tables }) => {
    const [one, many, cent, cents] = tables.currencies[sign];
    const lead = signed(minus);
    if (scale) {
      const size = tables.magnitudes[scale.trim().toLowerCase()] ?? scale.trim().toLowerCase();
      return words(`${lead}${numbers.decimal(amount)} ${size} ${many}`);
    }
    const [whole, rest = ""] = amount.split(".");
    if (rest.length !== 2 || !cent) return words(lead + counted(amount, one, many));
    const parts = Number(whole.replaceAll(",", "") || 0) ? [counted(whole, one, many)] : [];
    if (Number(rest)) parts.push(counted(rest.replace(/^0+/, ""), cent, cents));
    return words(lead + (parts.join(" and ") || `zero ${many}`));
  },
  with_unit: (found, { tables }) => {
    const [, sign, amount, unit] = found.groups;
    const [one, many] = tables.units[unit];
    return [...words(signed(sign) + counted(amount, one, many)), ...(unit.endsWith(".") ? endMark(found) : [])];
  },
  feet_and_inches: ({ groups }) => words(`${counted(groups[1], "foot", "feet")} ${counted(groups[2], "inch", "inches")}`),
  range: ({ groups }) => {
    const said = (part) => (/^(?:1[1-9]\d\d|20\d\d)$/.test(part) ? numbers.year(part) : numbers.decimal(part));
    return words(`${said(groups[1])} to ${said(groups[2])}`);
  },
  fraction: ({ groups }, { tables }) => {
    const [above, below] = [Number(groups[2]), Number(groups[3])];
    const lead = groups[1] ? `${numbers.cardinal(groups[1])} and ` : "";
    if (above > 0 && above < below && tables.spoken_denominators.includes(below)) {
      return words(lead + numbers.fraction(above, below));
    }
    return words(`${lead}${numbers.cardinal(groups[2])} over ${numbers.cardinal(groups[3])}`);
  },
  vulgar_fraction: ({ groups }, { tables }) => {
    const spoken = numbers.fraction(...tables.vulgar_fractions[groups[2]]);
    return words(groups[1] ? `${numbers.cardinal(groups[1])} and ${spoken}` : spoken);
  },
  idiom: ({ all }, { tables }) => words(tables.idioms[all]),
  dotted_number: ({ all }) => words(all.split(".").map(numbers.cardinal).join(" point ")),
  phone: ({ all }) => {
    const groups = all.match(/\d+/g).flatMap((group) => [...words(numbers.spellDigits(group)), mark(",")]);
    return [...(all.startsWith("+") ? [word("plus")] : []), ...groups].slice(0, -1);
  },
  numbered: ({ groups }) => words(`number ${numbers.cardinal(groups[1])}`),
  squared: ({ all }) => {
    const raised = all.normalize("NFKC");
    return words({ 2: "squared", 3: "cubed" }[raised] ?? `to the power of ${numbers.cardinal(raised)}`);
  },
  power: ({ groups }) => words(`to the power of ${signed(groups[1])}${numbers.cardinal(groups[2])}`),
  times: ({ all }) => [word(["x", "X", "×"].includes(all) ? "by" : "times")],
  minus: () => [word("minus")],
  about: () => [word("about")],
  roman: ({ groups: [, cue, numeral] }, { tables }) => {
    const isAfter = tables.roman_after.includes(cue.toLowerCase());
    if (numeral.length === 1 && !isAfter) return [word(cue), lettersOf(numeral)];
    const value = String(numbers.roman(numeral));
    if (isAfter) return [word(cue), ...words(numbers.cardinal(value))];
    return [word(cue), word("the"), ...words(numbers.ordinal(value))];
  },
  time: (found) => {
    const [, hours, minute, second, half] = found.groups;
    const hour = Number(hours);
    let spoken = numbers.cardinal(String(hour));
    if (Number(minute) || second) {
      spoken += ` ${minute[0] === "0" ? `oh ${numbers.cardinal(minute[1])}` : numbers.cardinal(minute)}`;
    } else if (!half) spoken += hour > 12 || !hour ? " hundred" : " o'clock";
    if (second) spoken += ` and ${counted(second.replace(/^0+/, "") || "0", "second", "seconds")}`;
    return [...words(spoken), ...halfOfDay(found, half)];
  },
  hour: (found) => [...words(numbers.cardinal(found.groups[1])), ...halfOfDay(found, found.groups[2])],
  month_day: ({ groups: [, month, day, year] }, { tables }) => date(tables.month_names[month.toLowerCase()], day, year),
  day_month: ({ groups: [, day, month, year] }, { tables }) => {
    const tokens = words(`the ${numbers.ordinal(day)} of ${tables.month_names[month.toLowerCase()]}`);
    return year ? [...tokens, mark(","), ...words(numbers.year(year))] : tokens;
  },
  iso_date: ({ all, groups: [, year, month, day] }, reader) => checkedDate(all, Number(month), day, year, reader),
  slash_date: ({ all, groups: [, first, second, year] }, reader) => {
    const [month, day] = Number(first) > 12 ? [second, first] : [first, second];
    return checkedDate(all, Number(month), day, year, reader);
  },
  dots: () => [mark("…")],
  dash: () => [mark("—")],
  blank: () => [word("blank")],
  flag: ({ all }) => [word("flag"), word("of"), lettersOf([...all].map((one) => String.fromCharCode(one.codePointAt(0)
    - 0x1F1E6 + 65)).join(""))],
};

// No mark at the beginning, the strongest of several in a row, a sentence end at the end.
function tidy(tokens) {
  const kept = [];
  for (const token of tokens) {
    if (!token.mark) kept.push(token);
    else if (kept.at(-1)?.mark) kept.push(stronger(kept.pop(), token));
    else if (kept.length) kept.push(token);
  }
  const last = kept.at(-1);
  if (!last || (last.mark && SENTENCE_ENDS.includes(last.mark))) return kept;
  if (last.mark) kept.pop();
  return [...kept, mark(".")];
}

function stronger(first, second) {
  return SENTENCE_ENDS.includes(second.mark) && !"?!".includes(first.mark) ? second : first;
}
