// The page: a conversation by typing, and live calls. Words are in texts.js, calls to the server in api.js and live.js.
import { chat, models, voices } from "./api.js";
import { Call } from "./live.js";
import { forgetAll, loadConversation, loadSettings, saveConversation, saveSettings } from "./store.js";
import { languageOfDevice, text, useLanguage } from "./words.js";

const $ = (id) => document.getElementById(id);
const MOST_MB = 40;
const MOST_SIDE_PX = 1280;
const SENT_MESSAGES = 16;
const RATE_HZ = 24000;
const PARTS = {
  image: (url) => ({ type: "image_url", image_url: { url } }),
  audio: (url) => ({ type: "input_audio", input_audio: { data: url.split(",")[1], format: "wav" } }),
  video: (url) => ({ type: "video_url", video_url: { url } }),
};

const settings = { language: languageOfDevice(), theme: "auto", speak: false, ...loadSettings() };
let messages = [];
let attached = [];
let running = null;
let call = null;
let speaker = null;

// --- settings ---------------------------------------------------------------------------------------------------------

function applySettings() {
  useLanguage(settings.language);
  if (settings.theme === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = settings.theme;
  for (const node of $("messages").children) nameMessage(node);
}

function bindSettings() {
  const fields = { language: "value", theme: "value", speak: "checked", voice: "value", instructions: "value", key: "value",
    microphone: "value", "camera-device": "value" };
  for (const [id, property] of Object.entries(fields)) {
    const name = id === "camera-device" ? "camera" : id;
    if (settings[name] !== undefined) $(id)[property] = settings[name];
    $(id).addEventListener("change", () => {
      settings[name] = $(id)[property];
      saveSettings(settings);
      applySettings();
      if (name === "key") greet();
    });
  }
  $("open-settings").addEventListener("click", async () => {
    $("settings").showModal();
    await fillDevices();
  });
  $("forget").addEventListener("click", async () => {
    await forgetAll();
    begin([]);
    $("settings").close();
  });
}

async function fillDevices() {
  const devices = (await navigator.mediaDevices?.enumerateDevices?.()) || [];
  for (const [id, kind, name] of [["microphone", "audioinput", "microphone"], ["camera-device", "videoinput", "camera"]]) {
    fillOptions($(id), devices.filter((device) => device.kind === kind && device.deviceId)
      .map((device) => [device.deviceId, device.label || device.deviceId.slice(0, 8)]), settings[name]);
  }
}

function fillOptions(select, options, chosen) {
  while (select.options.length > 1) select.remove(1);
  for (const [value, label] of options) select.add(new Option(label, value, false, value === chosen));
}

async function greet() {
  try {
    const [model] = await models(settings.key);
    settings.model = model.id;
    tell(text("ready", { model: model.id }));
    const found = await voices(settings.key);
    fillOptions($("voice"), found.map((voice) => [voice.id, `${voice.name} (${voice.language})`]), settings.voice);
  } catch (error) {
    tell(why(error));
    if (error.status === 401) $("settings").showModal();
  }
}

function tell(words) {
  $("status").textContent = words;
}

function why(error) {
  if (error.status === 401) return text("needsKey");
  if (error instanceof TypeError) return text("offline");
  return text("failed", { why: error.message });
}

// --- conversation -----------------------------------------------------------------------------------------------------

function begin(found) {
  messages = found;
  $("messages").replaceChildren(...messages.map(shown));
  $("welcome").hidden = messages.length > 0;
  scrollDown();
}

function add(message) {
  messages.push(message);
  const node = shown(message);
  $("messages").append(node);
  $("welcome").hidden = true;
  scrollDown();
  return node;
}

function shown(message) {
  const node = document.createElement("li");
  node.className = message.role;
  node.classList.toggle("error", Boolean(message.isError));
  node.classList.toggle("cut", Boolean(message.isCut));
  nameMessage(node);
  if (message.media?.length) {
    const media = document.createElement("div");
    media.className = "media";
    media.append(...message.media.map(shownMedium));
    node.append(media);
  }
  const words = document.createElement("p");
  words.className = "text";
  words.textContent = message.text;
  node.append(words);
  return node;
}

function nameMessage(node) {
  node.setAttribute("aria-label", text(node.classList.contains("user") ? "you" : "answer"));
}

function shownMedium({ kind, url, name }) {
  const node = document.createElement(kind === "image" ? "img" : kind);
  node.src = url;
  if (kind === "image") node.alt = name;
  else {
    node.controls = true;
    node.setAttribute("aria-label", name);
  }
  return node;
}

function scrollDown() {
  document.querySelector("main").scrollTop = 1e9;
}

function asRequest() {
  const sent = messages.filter((message) => !message.isError && (message.text || message.media?.length)).slice(-SENT_MESSAGES);
  const laid = sent.map(({ role, text: words, media = [] }) => ({
    role, content: media.length
      ? [...media.map(({ kind, url }) => PARTS[kind](url)), ...(words ? [{ type: "text", text: words }] : [])] : words,
  }));
  const system = settings.instructions ? [{ role: "system", content: settings.instructions }] : [];
  const spoken = settings.speak
    ? { modalities: ["text", "audio"], audio: { voice: settings.voice || "default", format: "pcm16" } } : {};
  return { model: settings.model || "default", messages: [...system, ...laid], ...spoken };
}

async function ask(event) {
  event.preventDefault();
  const words = $("question").value.trim();
  if (running || (!words && !attached.length)) return;
  add({ role: "user", text: words, media: attached });
  const body = asRequest();
  clearDraft();
  const answer = { role: "assistant", text: "" };
  const node = add(answer);
  node.classList.add("waiting");
  await answerInto(answer, node, body);
  saveConversation(messages);
}

async function answerInto(answer, node, body) {
  running = new AbortController();
  showRunning(true);
  const words = node.querySelector(".text");
  try {
    for await (const piece of chat({ key: settings.key, body, signal: running.signal })) {
      if (piece.position) tell(text("inLine", { position: piece.position }));
      if (piece.text) {
        node.classList.remove("waiting");
        answer.text += piece.text;
        words.textContent = answer.text;
        scrollDown();
      }
      if (piece.sound) await speak(piece.sound);
    }
    tell("");
  } catch (error) {
    if (error.name === "AbortError") answer.isCut = true;
    else Object.assign(answer, { text: why(error), isError: true });
    words.textContent = answer.text;
    node.classList.toggle("error", Boolean(answer.isError));
    node.classList.toggle("cut", Boolean(answer.isCut));
  } finally {
    node.classList.remove("waiting");
    running = null;
    showRunning(false);
  }
}

function showRunning(isRunning) {
  $("send").hidden = isRunning;
  $("stop").hidden = !isRunning;
}

async function speak(samples) {
  if (!speaker) {
    const context = new AudioContext({ sampleRate: RATE_HZ });
    await context.audioWorklet.addModule("player.worklet.js");
    const node = new AudioWorkletNode(context, "player", { numberOfInputs: 0, outputChannelCount: [1] });
    node.connect(context.destination);
    speaker = { context, node };
  }
  await speaker.context.resume();
  speaker.node.port.postMessage({ id: "chat", samples });
}

function stopAnswer() {
  running?.abort();
  speaker?.node.port.postMessage({ flush: true });
}

function clearDraft() {
  $("question").value = "";
  attached = [];
  showAttachments();
  fitQuestion();
}

// --- files ------------------------------------------------------------------------------------------------------------

async function attach(files) {
  for (const file of files) {
    const kind = file.type.split("/")[0];
    if (!PARTS[kind]) tell(text("notMedia", { name: file.name }));
    else if (file.size > MOST_MB * 1e6) tell(text("tooLarge", { name: file.name, mb: MOST_MB }));
    else attached.push({ kind, name: file.name, url: kind === "image" ? await smaller(file) : await asUrl(file) });
  }
  showAttachments();
  $("question").focus();
}

function asUrl(blob) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(blob);
  });
}

// Large photos are made smaller before they are sent; what the browser cannot draw goes as it is.
async function smaller(file) {
  try {
    const picture = await createImageBitmap(file);
    const scale = MOST_SIDE_PX / Math.max(picture.width, picture.height);
    if (scale >= 1) return await asUrl(file);
    const canvas = new OffscreenCanvas(picture.width * scale, picture.height * scale);
    canvas.getContext("2d").drawImage(picture, 0, 0, canvas.width, canvas.height);
    return await asUrl(await canvas.convertToBlob({ type: "image/jpeg", quality: 0.9 }));
  } catch {
    return asUrl(file);
  }
}

function showAttachments() {
  $("attachments").replaceChildren(...attached.map((medium, place) => {
    const node = document.createElement("li");
    if (medium.kind === "image") node.append(shownMedium(medium));
    const name = document.createElement("span");
    name.textContent = medium.name;
    const remove = document.createElement("button");
    remove.type = "button";
    remove.textContent = "×";
    remove.setAttribute("aria-label", text("remove", { name: medium.name }));
    remove.addEventListener("click", () => {
      attached.splice(place, 1);
      showAttachments();
    });
    node.append(name, remove);
    return node;
  }));
}

function bindDrop() {
  let depth = 0;
  const show = (change) => {
    depth = Math.max(0, depth + change);
    $("drop").hidden = !depth;
  };
  addEventListener("dragenter", (event) => event.dataTransfer?.types.includes("Files") && show(1));
  addEventListener("dragleave", () => show(-1));
  addEventListener("dragover", (event) => event.preventDefault());
  addEventListener("drop", (event) => {
    event.preventDefault();
    show(-depth);
    attach(event.dataTransfer.files);
  });
  addEventListener("paste", (event) => attach([...event.clipboardData.files]));
}

// --- live call --------------------------------------------------------------------------------------------------------

async function startCall() {
  if (call) return;
  if (!navigator.mediaDevices) {
    tell(text("needsHttps"));
    return;
  }
  stopAnswer();
  tell("");
  const answers = new Map();
  $("call").hidden = false;
  $("latency").hidden = true;
  call = new Call(settings, {
    state: (name) => {
      $("call").dataset.state = name;
      $("call-state").textContent = text(call?.isMuted && name === "listening" ? "muted" : name);
    },
    level: (level) => $("orb").style.setProperty("--level", 0.8 + level),
    heard: (_, words) => words && add({ role: "user", text: words }),
    answer: (id, words) => {
      if (!answers.has(id)) {
        const message = { role: "assistant", text: "" };
        answers.set(id, { message, node: add(message) });
      }
      const { message, node } = answers.get(id);
      message.text += words;
      node.querySelector(".text").textContent = message.text;
      scrollDown();
    },
    cut: (id, kept) => {
      const known = answers.get(id);
      if (!known) return;
      Object.assign(known.message, { text: kept, isCut: true });
      known.node.querySelector(".text").textContent = kept;
      known.node.classList.add("cut");
    },
    latency: (ms) => {
      $("latency").hidden = false;
      $("latency-ms").textContent = `${(ms / 1000).toFixed(1)} s`;
    },
    inLine: (position) => ($("call-state").textContent = text("inLine", { position })),
    error: (words) => tell(text("failed", { why: words })),
    ended: (reason) => {
      call = null;
      $("call").hidden = true;
      $("camera").hidden = true;
      $("toggle-camera").setAttribute("aria-pressed", "false");
      tell(reason ? text(reason) : text("ended"));
      saveConversation(messages);
      $("start-call").focus();
    },
  });
  window.call = call;
  try {
    await call.start();
    $("hang-up").focus();
  } catch (error) {
    call?.stop();
    tell(error.message === "lost" ? text("lost") : text("noMicrophone", { why: error.message }));
  }
}

async function toggleCamera() {
  const isShown = $("toggle-camera").getAttribute("aria-pressed") === "true";
  try {
    if (isShown) call.hideCamera($("camera"));
    else await call.showCamera($("camera"));
    $("camera").hidden = isShown;
    $("orb").hidden = !isShown;
    $("toggle-camera").setAttribute("aria-pressed", String(!isShown));
  } catch (error) {
    tell(text("noCamera", { why: error.message }));
  }
}

function toggleMute() {
  call.mute(!call.isMuted);
  $("mute").setAttribute("aria-pressed", String(call.isMuted));
  $("call-state").textContent = text(call.isMuted ? "muted" : "listening");
}

// --- all together -----------------------------------------------------------------------------------------------------

function fitQuestion() {
  const field = $("question");
  field.style.height = "auto";
  field.style.height = `${field.scrollHeight}px`;
}

function bind() {
  $("ask").addEventListener("submit", ask);
  $("question").addEventListener("input", fitQuestion);
  $("question").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) ask(event);
  });
  $("attach").addEventListener("click", () => $("files").click());
  $("files").addEventListener("change", async () => {
    await attach($("files").files);
    $("files").value = "";
  });
  $("stop").addEventListener("click", stopAnswer);
  $("new").addEventListener("click", () => {
    stopAnswer();
    begin([]);
    saveConversation([]);
    $("question").focus();
  });
  $("start-call").addEventListener("click", startCall);
  $("hang-up").addEventListener("click", () => call?.stop());
  $("mute").addEventListener("click", toggleMute);
  $("toggle-camera").addEventListener("click", toggleCamera);
  addEventListener("keydown", (event) => event.key === "Escape" && !document.querySelector("dialog[open]") && stopAnswer());
  addEventListener("pagehide", () => call?.stop());
}

bindSettings();
applySettings();
bind();
bindDrop();
begin(await loadConversation());
greet();
if ("serviceWorker" in navigator && isSecureContext) navigator.serviceWorker.register("sw.js").catch(() => {});
