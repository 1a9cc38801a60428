// Every word of the page, in both languages. `data-text`, `data-label` and `data-placeholder` name them in the HTML.
export const TEXTS = {
  en: {
    skip: "Skip to the question", tools: "Tools", newChat: "New conversation", settings: "Settings",
    liveCall: "Live call", latency: "Answered after", mute: "Mute the microphone", camera: "Show the camera",
    hangUp: "End the call", conversation: "Conversation", attachments: "Attachments", attach: "Add files",
    question: "Question", placeholder: "Ask …", startCall: "Start a live call", send: "Send", stop: "Stop the answer",
    welcome: "Ask something, drop in a picture, a sound or a video, or start a live call.",
    language: "Language", theme: "Look", themeAuto: "As the device", themeLight: "Light", themeDark: "Dark",
    speakAnswers: "Speak answers", voice: "Voice", voiceAuto: "Automatic", microphone: "Microphone",
    cameraDevice: "Camera", deviceAuto: "Automatic", instructions: "Instructions", apiKey: "API key",
    forget: "Delete all conversations", close: "Close", dropHere: "Drop pictures, sounds and videos here",
    remove: "Remove {name}", notMedia: "{name} is no picture, sound or video.", tooLarge: "{name} is larger than {mb} MB.",
    listening: "Listening – just speak", hearing: "You are speaking …", thinking: "Thinking …", speaking: "Speaking – talk to interrupt",
    muted: "The microphone is off", connecting: "Connecting …", ended: "The call has ended",
    noMicrophone: "No microphone: {why}", noCamera: "No camera: {why}", lost: "The connection was lost",
    inLine: "Waiting in line: number {position}", failed: "This did not work: {why}", offline: "The server cannot be reached",
    needsHttps: "Browsers give a page the microphone over https, or on this machine itself.", you: "You", answer: "Answer",
    cutShort: "cut short", needsKey: "This server needs an API key; enter it in the settings.", ready: "{model} is ready",
  },
  zh: {
    skip: "跳到提问", tools: "工具", newChat: "新对话", settings: "设置", liveCall: "实时通话", latency: "应答用时",
    mute: "关闭麦克风", camera: "打开摄像头", hangUp: "结束通话", conversation: "对话", attachments: "附件", attach: "添加文件",
    question: "问题", placeholder: "提问……", startCall: "开始实时通话", send: "发送", stop: "停止回答",
    welcome: "提个问题，拖入图片、声音或视频，或者开始实时通话。",
    language: "语言", theme: "外观", themeAuto: "跟随设备", themeLight: "浅色", themeDark: "深色", speakAnswers: "朗读回答",
    voice: "声音", voiceAuto: "自动", microphone: "麦克风", cameraDevice: "摄像头", deviceAuto: "自动", instructions: "指示",
    apiKey: "API 密钥", forget: "删除所有对话", close: "关闭", dropHere: "把图片、声音和视频拖到这里",
    remove: "移除 {name}", notMedia: "{name} 不是图片、声音或视频。", tooLarge: "{name} 超过 {mb} MB。",
    listening: "正在听，请说话", hearing: "您正在说话……", thinking: "正在思考……", speaking: "正在回答，可随时打断",
    muted: "麦克风已关闭", connecting: "正在连接……", ended: "通话已结束", noMicrophone: "没有麦克风：{why}", noCamera: "没有摄像头：{why}",
    lost: "连接中断", inLine: "正在排队：第 {position} 位", failed: "没有成功：{why}", offline: "无法连接服务器",
    needsHttps: "浏览器只在 https 或本机页面上开放麦克风。", you: "您", answer: "回答", cutShort: "被打断",
    needsKey: "此服务器需要 API 密钥，请在设置中填写。", ready: "{model} 已就绪",
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
