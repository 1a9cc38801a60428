// Keeps the page's own files, so that it opens without a network; calls always go to the server.
const CACHE = "minicpm-o-2";
const FILES = [".", "style.css", "app.js", "api.js", "live.js", "store.js", "texts.js", "words.js",
  "capture.worklet.js", "player.worklet.js", "icon.svg", "manifest.webmanifest"];

self.addEventListener("install", (event) => {
  event.waitUntil(caches.open(CACHE).then((cache) => cache.addAll(FILES)).then(() => self.skipWaiting()));
});

self.addEventListener("activate", (event) => {
  event.waitUntil(caches.keys().then((names) => Promise.all(
    names.filter((name) => name !== CACHE).map((name) => caches.delete(name)))).then(() => self.clients.claim()));
});

self.addEventListener("fetch", (event) => {
  const url = new URL(event.request.url);
  if (event.request.method !== "GET" || url.pathname.includes("/v1/")) return;
  event.respondWith(fetch(event.request).then((reply) => {
    if (reply.ok && url.origin === location.origin) {
      const copy = reply.clone();
      event.waitUntil(caches.open(CACHE).then((cache) => cache.put(event.request, copy)));
    }
    return reply;
  }).catch(() => caches.match(event.request, { ignoreSearch: true })));
});
