// Numbers to English words, as Americans say them (minicpm_o/runtime/speech/numbers.py). Digits come as text.
const SMALL = ("zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
  + "seventeen eighteen nineteen").split(" ");
const TENS = "_ _ twenty thirty forty fifty sixty seventy eighty ninety".split(" ");
const SCALES = [[1e12, "trillion"], [1e9, "billion"], [1e6, "million"], [1e3, "thousand"], [100, "hundred"]];
const ORDINALS = { one: "first", two: "second", three: "third", five: "fifth", eight: "eighth", nine: "ninth",
  twelve: "twelfth" };
const MOST_DIGITS = 15;
const ROMAN = { I: 1, V: 5, X: 10, L: 50, C: 100 };

function inWords(value) {
  if (value < 20) return SMALL[value];
  if (value < 100) return TENS[Math.floor(value / 10)] + (value % 10 ? `-${SMALL[value % 10]}` : "");
  const [size, name] = SCALES.find(([scale]) => value >= scale);
  const rest = value % size;
  return `${inWords(Math.floor(value / size))} ${name}${rest ? ` ${inWords(rest)}` : ""}`;
}

export function spellDigits(digits) {
  return [...digits].map((digit) => SMALL[Number(digit)]).join(" ");
}

export function cardinal(written) {
  const digits = written.replaceAll(",", "");
  if ((digits.length > 1 && digits[0] === "0") || digits.length > MOST_DIGITS) return spellDigits(digits);
  return inWords(Number(digits));
}

export function decimal(digits) {
  const [whole, rest] = digits.split(".");
  const spoken = whole ? cardinal(whole) : "";
  return rest ? `${spoken} point ${spellDigits(rest)}`.trim() : spoken;
}

export function ordinal(digits) {
  const words = inWords(Number(digits.replaceAll(",", "")));
  return words.replace(/[a-z]+$/, (last) => ORDINALS[last] || (last.endsWith("y") ? `${last.slice(0, -1)}ieth` : `${last}th`));
}

export function year(digits) {
  const [century, rest] = [Math.floor(Number(digits) / 100), Number(digits) % 100];
  if (century % 10 === 0 && rest < 10) return cardinal(digits);
  if (rest === 0) return `${inWords(century)} hundred`;
  return `${inWords(century)} ${rest < 10 ? "oh " : ""}${inWords(rest)}`;
}

export function decade(digits) {
  const spoken = digits.length === 4 ? year(digits) : cardinal(digits);
  return spoken.endsWith("y") ? `${spoken.slice(0, -1)}ies` : `${spoken}s`;
}

export function fraction(above, below) {
  const named = { 2: ["half", "halves"], 4: ["quarter", "quarters"] }[below];
  const [one, many] = named || [ordinal(String(below)), `${ordinal(String(below))}s`];
  return `${inWords(above)} ${above === 1 ? one : many}`;
}

export function roman(numeral) {
  const values = [...numeral].map((letter) => ROMAN[letter]);
  return values.reduce((sum, value, i) => sum + (value < Math.max(...values.slice(i)) ? -value : value), 0);
}
