// The words of texts.js in the chosen language, put where the page names them. The exported page uses this file too.
import { TEXTS } from "./texts.js";

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
