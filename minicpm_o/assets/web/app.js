// The page: conversation, samples, camera and microphone. Words are in texts.js, nano's work in worker.js.
import { Camera, Player, Recorder, readSound } from "./media.js";
import { Nano } from "./nano.js";
import { languageOfDevice, text, useLanguage } from "./words.js";

const $ = (id) => document.getElementById(id);
const SETTINGS = "nano-settings";
const MOST_THREADS = 4;
const ISOLATED = "nano-isolated";

const settings = { language: languageOfDevice(), theme: "auto", device: "wasm", speak: false,
  ...JSON.parse(localStorage.getItem(SETTINGS) || "{}") };
const camera = new Camera($("camera"));
let nano = null;
let started = null;
let messages = [];
let attached = [];
let recorder = null;
let player = null;
let keys = 0;

// --- start ------------------------------------------------------------------------------------------------------------

// Keep the page for later; the worker's headers count from the next time on, so the page is opened again once.
async function isolate() {
  if (!navigator.serviceWorker) return;
  await navigator.serviceWorker.register("sw.js");
  await navigator.serviceWorker.ready;
  if (crossOriginIsolated || sessionStorage.getItem(ISOLATED)) return;
  sessionStorage.setItem(ISOLATED, "1");
  location.reload();
  await new Promise(() => {});
}

async function list() {
  return (await fetch("files.json")).json();
}

function megabytes(files) {
  return Math.round(Object.values(files).reduce((sum, bytes) => sum + bytes, 0) / 1e6);
}

async function isHere({ version, files }) {
  if (!self.caches || !await caches.has(`nano-${version}`)) return false;
  const kept = new Set((await (await caches.open(`nano-${version}`)).keys()).map(({ url }) => url));
  return Object.keys(files).every((name) => kept.has(new URL(name, location.href).href));
}

// Half of the logical processors: the other half are slower ones or share a core, and every step waits for the last.
function threadsOf(processors) {
  return Math.max(1, Math.min(MOST_THREADS, Math.floor(processors / 2)));
}

async function load() {
  const { version, files } = await list();
  const mb = megabytes(files);
  $("load").hidden = true;
  $("progress").hidden = false;
  nano = new Nano();
  const threads = crossOriginIsolated ? threadsOf(navigator.hardwareConcurrency || 1) : 1;
  try {
    started = await nano.call("load", { base: new URL(".", location.href).href, files, version, threads,
      device: settings.device }, {
      fetching: ({ bytes, total }) => showProgress(bytes / total,
        text("fetching", { done: Math.round(bytes / total * mb), mb })),
      opening: ({ part = 0, parts = 1 }) => showProgress(part / parts, text("opening")),
    });
  } catch (error) {
    nano.end();
    nano = null;
    offer({ version, files }, false);
    tell(text("failed", { why: error.message }));
    return;
  }
  $("loading").hidden = true;
  $("samples").hidden = false;
  $("device").querySelector("[value=webgpu]").disabled = !started.devices.includes("webgpu");
  greet();
  setReady();
}

function showProgress(share, words) {
  $("progress").value = share;
  tell(words);
}

function greet() {
  if (!started) return;
  const { device, threads } = started;
  const where = device === "webgpu" ? text("webgpu") : text(threads > 1 ? "wasm" : "wasm1", { threads });
  tell(text("ready", { where }));
  $("voice-note").textContent = text(started.voice ? "voiceNote" : "noVoice");
  $("speak").disabled = !started.voice;
}

function offer({ files }, isKept) {
  $("progress").hidden = true;
  $("load").hidden = false;
  $("load").textContent = isKept ? text("loadAgain") : text("load", { mb: megabytes(files) });
}

function tell(words) {
  $("status").textContent = words;
}

// --- settings ---------------------------------------------------------------------------------------------------------

function applySettings() {
  useLanguage(settings.language);
  if (settings.theme === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = settings.theme;
  greet();
}

function bindSettings() {
  for (const [id, property] of Object.entries({ language: "value", theme: "value", device: "value", speak: "checked" })) {
    $(id)[property] = settings[id];
    $(id).addEventListener("change", async () => {
      settings[id] = $(id)[property];
      localStorage.setItem(SETTINGS, JSON.stringify(settings));
      applySettings();
      if (id === "device" && nano) await restart();
    });
  }
  $("open-settings").addEventListener("click", () => $("settings").showModal());
  $("forget").addEventListener("click", forget);
}

async function restart() {
  nano.end();
  nano = null;
  started = null;
  setReady();
  $("loading").hidden = false;
  $("welcome").hidden = false;
  await load();
  $("welcome").hidden = messages.length > 0;
}

async function forget() {
  for (const name of await caches.keys()) if (name.startsWith("nano-")) await caches.delete(name);
  for (const worker of await navigator.serviceWorker.getRegistrations()) await worker.unregister();
  sessionStorage.removeItem(ISOLATED);
  location.reload();
}

// --- conversation -----------------------------------------------------------------------------------------------------

function begin() {
  messages = [];
  $("messages").replaceChildren();
  $("welcome").hidden = false;
  $("figures").textContent = "";
}

function show(role, words, media = []) {
  const node = document.createElement("li");
  node.className = role;
  node.setAttribute("aria-label", text(role === "user" ? "you" : "answer"));
  if (media.length) {
    const row = document.createElement("div");
    row.className = "media";
    row.append(...media.map(shownMedium));
    node.append(row);
  }
  const line = document.createElement("p");
  line.className = "text";
  line.textContent = words;
  const heard = document.createElement("p");
  heard.className = "heard";
  node.append(line, heard);
  $("messages").append(node);
  $("welcome").hidden = true;
  document.querySelector("main").scrollTop = 1e9;
  return node;
}

function shownMedium({ type, url, name }) {
  const node = document.createElement(type === "image" ? "img" : "audio");
  node.src = url;
  if (type === "image") node.alt = name;
  else node.controls = true;
  return node;
}

function setReady(isBusy = false) {
  $("send").disabled = !nano || isBusy || !started;
  $("send").hidden = isBusy;
  $("stop").hidden = !isBusy;
  for (const id of ["sample-photo", "sample-speech", "record"]) $(id).disabled = !started || isBusy;
}

// One turn: what is attached, then the words; numBeams: 1, or "caption" for a description.
async function ask(words, media, numBeams = 1) {
  const parts = [...media.map(({ type, blob, samples, key }) => ({ type, blob, samples, key })),
    ...(words ? [{ type: "text", text: words }] : [])];
  const asked = show("user", words, media);
  const answer = show("assistant", "");
  answer.classList.add("waiting");
  const line = answer.querySelector(".text");
  const turn = [...messages, { role: "user", parts }];
  setReady(true);
  player?.stop();
  tell(text("thinking"));
  try {
    const reply = await nano.call("ask", { messages: turn, numBeams }, {
      heard: ({ key, text: found }) => {
        if (!media.some((item) => item.key === key)) return;
        asked.querySelector(".heard").textContent = found ? text("heard", { text: found }) : text("heardNothing");
      },
      text: ({ text: piece }) => {
        line.textContent += piece;
        document.querySelector("main").scrollTop = 1e9;
      },
    });
    line.textContent = reply.text;
    messages = [...turn, { role: "assistant", parts: [{ type: "text", text: reply.text }] }];
    $("figures").textContent = await figures(reply);
    greet();
    if (settings.speak && started.voice) await speak(reply.text);
    return reply;
  } catch (error) {
    answer.classList.add("error");
    line.textContent = text("failed", { why: error.message });
    return null;
  } finally {
    answer.classList.remove("waiting");
    greet();
    setReady();
  }
}

async function figures({ ids, tokensPerS, firstWordMs, wasmBytes }) {
  return text("figures", { tokens: ids.length, speed: tokensPerS.toFixed(1),
    first: ((firstWordMs ?? 0) / 1000).toFixed(2), memory: Math.round(wasmBytes / 1e6) });
}

async function speak(words) {
  player ||= new Player();
  tell(text("speaking"));
  return nano.call("speak", { text: words }, { sound: ({ samples, rateHz }) => player.add(samples, rateHz) });
}

// --- media ------------------------------------------------------------------------------------------------------------

async function attach(blob, name) {
  const type = blob.type.split("/")[0];
  if (type !== "image" && type !== "audio") throw new Error(text("notMedia", { name }));
  const medium = { type, blob, name, url: URL.createObjectURL(blob), key: `medium-${keys++}` };
  if (type === "image") {
    await createImageBitmap(blob).then((bitmap) => bitmap.close(), () => {
      throw new Error(text("notPicture", { name }));
    });
  } else {
    medium.samples = await readSound(blob).catch(() => { throw new Error(text("notSound", { name })); });
    medium.blob = undefined;
  }
  return medium;
}

async function attachAll(files) {
  for (const file of files) {
    try {
      attached.push(await attach(file, file.name));
    } catch (error) {
      tell(error.message);
    }
  }
  showAttached();
}

function showAttached() {
  $("attachments").replaceChildren(...attached.map((medium) => {
    const node = document.createElement("li");
    if (medium.type === "image") node.append(Object.assign(document.createElement("img"), { src: medium.url, alt: "" }));
    const name = document.createElement("span");
    name.textContent = medium.name;
    const remove = document.createElement("button");
    remove.type = "button";
    remove.textContent = "×";
    remove.setAttribute("aria-label", text("remove", { name: medium.name }));
    remove.addEventListener("click", () => {
      attached = attached.filter((other) => other !== medium);
      showAttached();
    });
    node.append(name, remove);
    return node;
  }));
}

async function sample(path, name) {
  const reply = await fetch(path);
  const blob = await reply.blob();
  return attach(new Blob([blob], { type: path.endsWith(".jpg") ? "image/jpeg" : "audio/wav" }), name);
}

async function pressRecord() {
  if (!navigator.mediaDevices) return tell(text("needsHttps"));
  if (!recorder) {
    recorder = new Recorder();
    try {
      await recorder.start();
    } catch (error) {
      recorder = null;
      return tell(text("noMicrophone", { why: error.message }));
    }
    $("record").setAttribute("aria-pressed", "true");
    return tell(text("recording"));
  }
  const ended = recorder;
  recorder = null;
  $("record").setAttribute("aria-pressed", "false");
  const samples = await ended.stop();
  const medium = { type: "audio", samples, name: "", url: soundUrl(samples), key: `medium-${keys++}` };
  const media = [...attached, medium];
  attached = [];
  showAttached();
  return ask("", media);
}

// A WAV file of samples at 16 kHz, for the page's own player.
function soundUrl(samples) {
  const view = new DataView(new ArrayBuffer(44 + 2 * samples.length));
  const letters = (at, word) => [...word].forEach((letter, i) => view.setUint8(at + i, letter.charCodeAt(0)));
  letters(0, "RIFF");
  view.setUint32(4, 36 + 2 * samples.length, true);
  letters(8, "WAVEfmt ");
  [[16, 16], [24, 16000], [28, 32000], [40, 2 * samples.length]].forEach(([at, value]) => view.setUint32(at, value, true));
  [[20, 1], [22, 1], [32, 2], [34, 16]].forEach(([at, value]) => view.setUint16(at, value, true));
  letters(36, "data");
  samples.forEach((x, i) => view.setInt16(44 + 2 * i, Math.max(-1, Math.min(1, x)) * 32767, true));
  return URL.createObjectURL(new Blob([view.buffer], { type: "audio/wav" }));
}

async function pressCamera() {
  if (!navigator.mediaDevices) return tell(text("needsHttps"));
  try {
    if (!camera.stream) {
      await camera.open();
      $("take-photo").setAttribute("aria-pressed", "true");
      return undefined;
    }
    attached.push(await attach(await camera.take(), "camera.png"));
    showAttached();
  } catch (error) {
    camera.close();
    tell(text("noCamera", { why: error.message }));
  }
  $("take-photo").setAttribute("aria-pressed", "false");
  return undefined;
}

function submit() {
  const words = $("question").value.trim();
  const media = attached;
  if (!nano || !started || $("send").disabled || (!words && !media.length)) return;
  $("question").value = "";
  attached = [];
  showAttached();
  const isDescription = !words && media.every(({ type }) => type === "image");
  ask(isDescription ? text("describe") : words, media, isDescription ? "caption" : 1);
}

function bind() {
  $("load").addEventListener("click", load);
  $("new").addEventListener("click", begin);
  $("ask").addEventListener("submit", (event) => {
    event.preventDefault();
    submit();
  });
  $("question").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      submit();
    }
  });
  $("stop").addEventListener("click", () => {
    player?.stop();
    nano.call("cancel");
  });
  $("attach").addEventListener("click", () => $("files").click());
  $("files").addEventListener("change", () => attachAll([...$("files").files]).then(() => { $("files").value = ""; }));
  $("take-photo").addEventListener("click", pressCamera);
  $("record").addEventListener("click", pressRecord);
  $("sample-photo").addEventListener("click", async () => {
    await ask(text("describe"), [await sample("samples/photo.jpg", "photo.jpg")], "caption");
  });
  $("sample-speech").addEventListener("click", async () => {
    await ask("", [await sample("samples/speech.wav", "speech.wav")]);
  });
}

applySettings();
bindSettings();
bind();
setReady();
await isolate();
const found = await list();
const kept = await isHere(found);
offer(found, kept);
if (kept) await load();

// For tests and measurements: the same calls that the buttons make.
self.page = { ask, attach, sample, speak, call: (...given) => nano.call(...given), started: () => started };
