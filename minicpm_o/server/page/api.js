// Calls to the server that this page came from: OpenAI's API, nothing else.
export class ApiError extends Error {
  constructor(message, status, code) {
    super(message);
    this.status = status;
    this.code = code;
  }
}

function headers(key, more = {}) {
  return key ? { ...more, Authorization: `Bearer ${key}` } : more;
}

async function checked(reply) {
  if (reply.ok) return reply;
  const told = await reply.json().catch(() => ({}));
  throw new ApiError(told.error?.message || reply.statusText, reply.status, told.error?.code);
}

export async function models(key) {
  return (await (await checked(await fetch("v1/models", { headers: headers(key) }))).json()).data;
}

export async function voices(key) {
  return (await (await checked(await fetch("v1/audio/voices", { headers: headers(key) }))).json()).voices;
}

// Yields {text}, {sound: Int16Array}, {position} and {finish} as the answer comes.
export async function* chat({ key, body, signal }) {
  const reply = await checked(await fetch("v1/chat/completions", {
    method: "POST", signal, headers: headers(key, { "Content-Type": "application/json" }),
    body: JSON.stringify({ ...body, stream: true }),
  }));
  for await (const line of lines(reply.body)) {
    const place = /^: position (\d+)/.exec(line);
    if (place) yield { position: Number(place[1]) };
    if (!line.startsWith("data: ")) continue;
    const data = line.slice(6);
    if (data === "[DONE]") return;
    const event = JSON.parse(data);
    if (event.error) throw new ApiError(event.error.message, 500, event.error.code);
    const choice = event.choices[0];
    if (!choice) continue;
    const { content, audio } = choice.delta;
    if (content) yield { text: content };
    if (audio?.transcript) yield { text: audio.transcript };
    if (audio?.data) yield { sound: fromBase64(audio.data) };
    if (choice.finish_reason) yield { finish: choice.finish_reason };
  }
}

async function* lines(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let open = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const pieces = (open + value).split("\n");
    open = pieces.pop();
    yield* pieces;
  }
}

export function fromBase64(textual) {
  const bytes = Uint8Array.from(atob(textual), (character) => character.charCodeAt(0));
  return new Int16Array(bytes.buffer);
}

export function toBase64(buffer) {
  const bytes = new Uint8Array(buffer);
  let textual = "";
  for (let start = 0; start < bytes.length; start += 0x8000) {
    textual += String.fromCharCode(...bytes.subarray(start, start + 0x8000));
  }
  return btoa(textual);
}
