// Files of the folder to open graphs of onnxruntime-web, each when first needed; and what they take.
const MODEL = "model/";
const WITH_DATA = ["vision", "hearing_encoder", "hearing_projector", "recogniser", "recogniser_cross", "voice"];
const LIBRARIES = {
  wasm: { module: "ort/ort.wasm.min.mjs", loader: "ort-wasm-simd-threaded" },
  webgpu: { module: "ort/ort.jspi.min.mjs", loader: "ort-wasm-simd-threaded.jspi" },
};

// What this browser can use: "webgpu" needs the adapter and WebAssembly's suspending.
export async function availableDevices() {
  const canSuspend = typeof WebAssembly.Suspending === "function";
  const adapter = canSuspend && navigator.gpu ? await navigator.gpu.requestAdapter().catch(() => null) : null;
  return adapter ? ["wasm", "webgpu"] : ["wasm"];
}

// Remembers the memories that are made from now on: onnxruntime's is among them, and it does not show it.
function watchMemory() {
  const made = [];
  const { Memory } = WebAssembly;
  WebAssembly.Memory = function watched(...given) {
    const memory = new Memory(...given);
    made.push(memory);
    return memory;
  };
  WebAssembly.Memory.prototype = Memory.prototype;
  return made;
}

export class Model {
  // base: address of the folder; files: sizes by name; store: a Cache, or null where the browser has none.
  constructor(base, files, store) {
    this.base = base;
    this.files = files;
    this.store = store;
    this.sessions = new Map();
    this.keepsPast = true;
    this.openMs = 0;
  }

  // device: "wasm" or "webgpu"; threads: 1 where the page is not isolated from others.
  async start(device, threads) {
    const { module, loader } = LIBRARIES[device];
    this.device = device;
    this.threads = threads;
    this.memories = watchMemory();
    this.ort = await import(new URL(module, this.base).href);
    const { wasm } = this.ort.env;
    wasm.numThreads = threads;
    wasm.wasmPaths = { mjs: new URL(`ort/${loader}.mjs`, this.base).href };
    wasm.wasmBinary = await this.bytes(`ort/${loader}.wasm.gz`).then(unzip);
    this.ort.env.logLevel = "error";
  }

  // Bring every file here; onProgress gets bytes so far and in all.
  async fetchAll(onProgress) {
    const names = Object.keys(this.files).filter((name) => name.startsWith(MODEL) || name.startsWith("ort/"));
    const total = names.reduce((sum, name) => sum + this.files[name], 0);
    let done = 0;
    for (const name of names) {
      const before = done;
      if (this.store && !(await this.store.match(this.address(name)))) {
        await this.keep(name, (bytes) => onProgress(before + bytes, total));
      }
      done = before + this.files[name];
      onProgress(done, total);
    }
  }

  // Fetch a file into the store; what arrives incomplete is not kept.
  async keep(name, onBytes) {
    const reply = await fetch(this.address(name));
    if (!reply.ok) throw new Error(`${name}: ${reply.status}`);
    let bytes = 0;
    const counted = reply.body.pipeThrough(new TransformStream({
      transform(chunk, controller) {
        bytes += chunk.length;
        onBytes(bytes);
        controller.enqueue(chunk);
      },
    }));
    await this.store.put(this.address(name), new Response(counted, { headers: reply.headers }));
  }

  address(name) {
    return new URL(name, this.base).href;
  }

  async bytes(name) {
    const kept = this.store && await this.store.match(this.address(name));
    const reply = kept || await fetch(this.address(name));
    if (!reply.ok) throw new Error(`${name}: ${reply.status}`);
    return new Uint8Array(await reply.arrayBuffer());
  }

  async json(name) {
    const bytes = await this.bytes(name);
    return JSON.parse(new TextDecoder().decode(name.endsWith(".gz") ? await unzip(bytes) : bytes));
  }

  // Bytes of WebAssembly's memory: all open graphs, and what they work in.
  get wasmBytes() {
    return this.memories.reduce((sum, memory) => sum + memory.buffer.byteLength, 0);
  }

  tensor(type, data, dims) {
    return new this.ort.Tensor(type, data, dims);
  }

  async run(name, feeds) {
    return (await this.session(name)).run(feeds);
  }

  session(name) {
    if (!this.sessions.has(name)) this.sessions.set(name, this.open(name));
    return this.sessions.get(name);
  }

  async open(name) {
    const started = performance.now();
    const data = WITH_DATA.includes(name) ? [await this.external(`${name}.onnx.data`)] : [];
    const session = await this.create(name, data);
    this.openMs += performance.now() - started;
    return session;
  }

  async external(path) {
    return { path, data: await this.bytes(MODEL + path) };
  }

  async create(name, externalData, options = {}) {
    return this.ort.InferenceSession.create(await this.bytes(`${MODEL}${name}.onnx`), {
      executionProviders: ["wasm"], graphOptimizationLevel: "all", externalData, ...options });
  }

  async close(name) {
    const session = this.sessions.get(name);
    this.sessions.delete(name);
    await (await session)?.release();
  }

  // The language graph, on the graphics if they are chosen and can do it, else on the processor. Returns the word table.
  async openLanguage(tables, shape, onProgress) {
    const bits = await this.external("language.bits");
    const table = await this.external("embeddings.safetensors");
    const isOpen = this.device === "webgpu" && await this.tryGraphics([bits, table], shape);
    if (!isOpen) await this.openOnProcessor(bits.data, table, tables, onProgress);
    return readEmbeddings(table.data);
  }

  // False, and the processor from now on, where the graphics refuse the graph or its first token.
  async tryGraphics(externalData, { layers, kv_heads: heads, head_width: width, width: wide }) {
    try {
      const session = await this.create("language_webgpu", externalData, { executionProviders: ["webgpu"] });
      const feeds = { inputs_embeds: this.tensor("float32", new Float32Array(wide), [1, 1, wide]),
        seqlens_k: this.tensor("int32", Int32Array.of(0), [1]),
        total_sequence_length: this.tensor("int32", Int32Array.of(1), []) };
      for (let layer = 0; layer < layers; layer++) {
        for (const kind of ["key", "value"]) {
          const empty = this.tensor("float32", new Float32Array(0), [1, heads, 0, width]);
          feeds[`past_key_values.${layer}.${kind}`] = empty;
        }
      }
      const { logits } = await session.run(feeds);
      if (!logits.data.every(Number.isFinite)) throw new Error("not finite");
      this.sessions.set("language", Promise.resolve(session));
      return true;
    } catch (error) {
      console.warn(`WebGPU cannot be used here: ${error.message}`);
      this.device = "wasm";
      return false;
    }
  }

  // Its matrices are made of language.bits part by part, then the graph takes them all.
  async openOnProcessor(bits, table, { data_bytes: bytes, parts }, onProgress) {
    const data = new Uint8Array(bytes);
    for (const [index, part] of parts.entries()) {
      await this.unfold(bits, part, data);
      onProgress(index + 1, parts.length);
    }
    await this.close("unfold");
    const opened = this.create("language", [{ path: "language.onnx.data", data }, table]);
    this.sessions.set("language", opened);
    await opened;
  }

  async unfold(bits, { tensors, levels, scales, first_row: firstRow }, data) {
    const feeds = {};
    for (const [name, [offset, ...dims]] of Object.entries(tensors)) {
      const count = dims.reduce((a, b) => a * b, 1);
      feeds[name] = name === "levels" ? this.tensor("uint8", bits.subarray(offset, offset + count), dims)
        : this.tensor("float16", new Uint16Array(bits.buffer, bits.byteOffset + offset, count), dims);
    }
    const { whole, row_scales: found } = await this.run("unfold", feeds);
    const [height, columns] = whole.dims;
    turn(whole.data, height, columns, data.subarray(levels[0] + firstRow), scales[1]);
    new Float32Array(data.buffer, scales[0] + 4 * firstRow, height).set(found.data);
  }
}

// (height, columns) to (columns, rows) beside what stands there already, in tiles that stay in a core's cache.
function turn(from, height, columns, to, rows) {
  const tile = 64;
  for (let top = 0; top < height; top += tile) {
    for (let left = 0; left < columns; left += tile) {
      const [bottom, right] = [Math.min(height, top + tile), Math.min(columns, left + tile)];
      for (let column = left; column < right; column++) {
        for (let row = top; row < bottom; row++) to[column * rows + row] = from[row * columns + column];
      }
    }
  }
}

// A safetensors file with `embed_tokens` int8 (V, D) and `scales` float16 (V, 1).
function readEmbeddings(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset);
  const length = Number(view.getBigUint64(0, true));
  const infos = JSON.parse(new TextDecoder().decode(bytes.subarray(8, 8 + length)));
  const start = (name) => bytes.byteOffset + 8 + length + infos[name].data_offsets[0];
  const [count, width] = infos.embed_tokens.shape;
  const table = new Int8Array(bytes.buffer, start("embed_tokens"), count * width);
  const halves = new DataView(bytes.buffer, start("scales"), count * 2);
  return { table, scales: Float32Array.from({ length: count }, (_, i) => halfToFloat(halves.getUint16(2 * i, true))) };
}

function halfToFloat(bits) {
  const [sign, exponent, fraction] = [bits >> 15 ? -1 : 1, (bits >> 10) & 31, bits & 1023];
  if (exponent === 0) return sign * fraction * 2 ** -24;
  return sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
}

export async function unzip(bytes) {
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}
