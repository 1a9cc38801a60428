// What the page remembers, in this browser alone: settings in localStorage, conversations in IndexedDB.
const SETTINGS = "minicpm-o.settings";
const DATABASE = "minicpm-o";
const KEPT_MESSAGES = 200;

export function loadSettings() {
  try {
    return JSON.parse(localStorage.getItem(SETTINGS)) || {};
  } catch {
    return {};
  }
}

export function saveSettings(settings) {
  try {
    localStorage.setItem(SETTINGS, JSON.stringify(settings));
  } catch {
    // private windows may refuse; the settings then last as long as the page
  }
}

function database() {
  return new Promise((resolve, reject) => {
    const asked = indexedDB.open(DATABASE, 1);
    asked.onupgradeneeded = () => asked.result.createObjectStore("conversations");
    asked.onsuccess = () => resolve(asked.result);
    asked.onerror = () => reject(asked.error);
  });
}

async function inStore(mode, act) {
  const opened = await database();
  return new Promise((resolve, reject) => {
    const change = opened.transaction("conversations", mode);
    const asked = act(change.objectStore("conversations"));
    change.oncomplete = () => resolve(asked.result);
    change.onerror = () => reject(change.error);
  }).finally(() => opened.close());
}

export async function loadConversation() {
  try {
    return (await inStore("readonly", (store) => store.get("latest"))) || [];
  } catch {
    return [];
  }
}

export async function saveConversation(messages) {
  try {
    await inStore("readwrite", (store) => store.put(messages.slice(-KEPT_MESSAGES), "latest"));
  } catch {
    // full or refused: the conversation then lasts as long as the page
  }
}

export async function forgetAll() {
  await inStore("readwrite", (store) => store.clear()).catch(() => {});
}
