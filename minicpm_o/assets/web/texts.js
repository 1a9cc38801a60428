// Every word of the page, in both languages. `data-text`, `data-label` and `data-placeholder` name them in the HTML.
export const TEXTS = {
  en: {
    skip: "Skip to the question", tools: "Tools", newChat: "New conversation", settings: "Settings",
    conversation: "Conversation", attachments: "Attachments", attach: "Add a photo or a sound", progress: "Progress",
    question: "Question", placeholder: "Ask …", send: "Send", stop: "Stop the answer",
    welcome: "A small model that sees, hears and answers on this device. Nothing you show or say leaves it.",
    load: "Load nano ({mb} MB)", loadAgain: "Start nano", fetching: "Fetching: {done} of {mb} MB", opening: "Opening nano …",
    ready: "nano is ready · {where}", wasm: "processor, {threads} threads", wasm1: "processor, 1 thread", webgpu: "graphics (WebGPU)",
    samplePhoto: "Describe the sample photo", sampleSpeech: "Answer the sample question",
    camera: "Take a photo with the camera", record: "Record a question", recording: "Recording – press again to send",
    language: "Language", theme: "Look", themeAuto: "As the device", themeLight: "Light", themeDark: "Dark",
    device: "Computed on", deviceWasm: "Processor", deviceWebgpu: "Graphics (WebGPU)", noWebgpu: "not in this browser",
    speakAnswers: "Speak answers", voiceNote: "The voice, Piper's joe, is computed on this device too. It speaks English.",
    noVoice: "This copy of the page was made without a voice.",
    forget: "Delete nano's files", close: "Close", remove: "Remove {name}", heard: "Heard: {text}", heardNothing: "No speech was heard.",
    thinking: "Thinking …", speaking: "Speaking …", noMicrophone: "No microphone: {why}", noCamera: "No camera: {why}",
    notMedia: "{name} is no picture or sound.", notPicture: "{name} cannot be read as a picture; take JPEG, PNG or WebP.",
    notSound: "{name} cannot be read as a sound; take WAV, MP3 or M4A.", failed: "This did not work: {why}",
    needsHttps: "Browsers give a page the microphone and the camera over https, or on this machine itself.",
    figures: "{tokens} tokens · {speed} tokens/s · first word after {first} s · {memory} MB of memory",
    you: "You", answer: "Answer", describe: "Describe this picture in one sentence.",
  },
  zh: {
    skip: "跳到提问", tools: "工具", newChat: "新对话", settings: "设置", conversation: "对话", attachments: "附件",
    attach: "添加照片或声音", progress: "进度", question: "问题", placeholder: "提问……", send: "发送", stop: "停止回答",
    welcome: "一个小模型，就在这台设备上看、听、回答。您展示的和说的都不会离开设备。它的英文最好。",
    load: "加载 nano（{mb} MB）", loadAgain: "启动 nano", fetching: "正在下载：{done} / {mb} MB", opening: "正在打开 nano……",
    ready: "nano 已就绪 · {where}", wasm: "处理器，{threads} 个线程", wasm1: "处理器，1 个线程", webgpu: "显卡（WebGPU）",
    samplePhoto: "描述示例照片", sampleSpeech: "回答示例问题", camera: "用摄像头拍照", record: "录下问题",
    recording: "正在录音，再按一次发送", language: "语言", theme: "外观", themeAuto: "跟随设备", themeLight: "浅色", themeDark: "深色",
    device: "计算设备", deviceWasm: "处理器", deviceWebgpu: "显卡（WebGPU）", noWebgpu: "此浏览器不支持", speakAnswers: "朗读回答",
    voiceNote: "语音（Piper 的 joe）也在这台设备上合成，只会说英语。", noVoice: "此页面导出时没有带语音。",
    forget: "删除 nano 的文件", close: "关闭", remove: "移除 {name}", heard: "听到：{text}", heardNothing: "没有听到说话声。",
    thinking: "正在思考……", speaking: "正在朗读……", noMicrophone: "没有麦克风：{why}", noCamera: "没有摄像头：{why}",
    notMedia: "{name} 不是图片或声音。", notPicture: "无法把 {name} 读作图片，请用 JPEG、PNG 或 WebP。",
    notSound: "无法把 {name} 读作声音，请用 WAV、MP3 或 M4A。", failed: "没有成功：{why}",
    needsHttps: "浏览器只在 https 或本机页面上开放麦克风和摄像头。",
    figures: "{tokens} 个词元 · 每秒 {speed} 个 · {first} 秒后出第一个词 · 内存 {memory} MB",
    you: "您", answer: "回答", describe: "Describe this picture in one sentence.",
  },
};

let current = "en";

export function useLanguage(name) {
  current = TEXTS[name] ? name : "en";
  document.documentElement.lang = current === "zh" ? "zh-CN" : "en";
  for (const node of document.querySelectorAll("[data-text]")) node.textContent = text(node.dataset.text);
  for (const node of document.querySelectorAll("[data-label]")) {
    node.setAttribute("aria-label", text(node.dataset.label));
    if (node.tagName === "BUTTON") node.title = text(node.dataset.label);
  }
  for (const node of document.querySelectorAll("[data-placeholder]")) node.placeholder = text(node.dataset.placeholder);
}

export function text(name, values = {}) {
  return TEXTS[current][name].replace(/\{(\w+)\}/g, (_, key) => values[key]);
}

export function languageOfDevice() {
  return (navigator.language || "en").toLowerCase().startsWith("zh") ? "zh" : "en";
}
