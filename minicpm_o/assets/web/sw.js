// Keeps the page, so that it opens without a network; nano's own files are kept by worker.js, in the same place.
// Its headers isolate the page from others, which browsers want before they give a page several threads.
const STORE = "nano-VERSION";
const HEADERS = { "Cross-Origin-Opener-Policy": "same-origin", "Cross-Origin-Embedder-Policy": "require-corp",
  "Cross-Origin-Resource-Policy": "same-origin" };

self.addEventListener("install", (event) => event.waitUntil(keepPage().then(() => self.skipWaiting())));

self.addEventListener("activate", (event) => event.waitUntil(dropOlder().then(() => self.clients.claim())));

self.addEventListener("fetch", (event) => {
  const { method, url } = event.request;
  if (method === "GET" && new URL(url).origin === location.origin) event.respondWith(answer(event.request));
});

async function keepPage() {
  const list = await fetch("files.json", { cache: "no-store" });
  const { files } = await list.clone().json();
  const store = await caches.open(STORE);
  await store.put("files.json", list);
  const page = Object.keys(files).filter((name) => !name.startsWith("model/") && !name.startsWith("ort/"));
  await store.addAll([".", ...page].map((name) => new Request(name, { cache: "no-cache" })));
}

async function dropOlder() {
  const names = await caches.keys();
  await Promise.all(names.filter((name) => name.startsWith("nano-") && name !== STORE).map((name) => caches.delete(name)));
}

async function answer(request) {
  const store = await caches.open(STORE);
  const reply = await store.match(request, { ignoreSearch: true }) || await fetch(request);
  if (!reply.ok || reply.type === "opaque") return reply;
  const headers = new Headers(reply.headers);
  for (const [name, value] of Object.entries(HEADERS)) headers.set(name, value);
  return new Response(reply.body, { status: reply.status, statusText: reply.statusText, headers });
}
