// The page's end of worker.js: one promise for each request, and events on the way.
export class Nano {
  constructor() {
    this.worker = new Worker("worker.js", { type: "module" });
    this.waiting = new Map();
    this.next = 0;
    this.worker.addEventListener("message", ({ data }) => this.hear(data));
    this.worker.addEventListener("error", (event) => this.failAll(event.message));
  }

  // on: { event: function } for what comes before the end.
  call(verb, given = {}, on = {}) {
    const id = this.next++;
    return new Promise((resolve, reject) => {
      this.waiting.set(id, { resolve, reject, on });
      this.worker.postMessage({ id, verb, ...given });
    });
  }

  hear({ id, event, ...values }) {
    const { resolve, reject, on } = this.waiting.get(id);
    if (event !== "done" && event !== "failed") {
      on[event]?.(values);
      return;
    }
    this.waiting.delete(id);
    if (event === "done") resolve(values);
    else reject(new Error(values.why));
  }

  failAll(why) {
    for (const { reject } of this.waiting.values()) reject(new Error(why));
    this.waiting.clear();
  }

  end() {
    this.worker.terminate();
  }
}
