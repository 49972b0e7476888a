/**
 * Loads the net and runs it, so that the page stays quick meanwhile.
 *
 * Messages to it: {id, task, value}. Its answers: {id, value} or {id, error}, where error is
 * a sentence for the reader; and {progress: {name, bytes, total}} while a file comes in.
 */
import { decoderOf, readNpy } from "./postprocess.js";
import { MOST_PIXELS, prepare, toImage } from "./preprocess.js";

const RUNTIME = "./node_modules/onnxruntime-web/dist/";
const SCRIPT = "ort.wasm.bundle.min.mjs";
const WASM = "ort-wasm-simd-threaded.wasm";
const STRIPE = 512; // rows read from a canvas at once: phones limit a canvas's size
const INSTALL = "Run “npm install” in the folder of this page, then reload it.";
const COPY = "Copy the exported folder to the server as a whole, then reload the page.";

let manifest, decoder, arrays, ort, session;

const TASKS = { open, load, run };

let queue = Promise.resolve(); // tasks run one after the other
self.onmessage = ({ data }) => {
  queue = queue.then(() => answer(data));
};

async function answer({ id, task, value }) {
  try {
    self.postMessage({ id, value: await TASKS[task](value) });
  } catch (error) {
    self.postMessage({ id, error: error.message || String(error) });
  }
}

/** Read the manifest; return it. */
async function open() {
  const bytes = await fetched("manifest.json", COPY);
  try {
    manifest = JSON.parse(new TextDecoder().decode(bytes));
  } catch {
    throw new Error(`manifest.json is damaged. ${COPY}`);
  }
  decoder = decoderOf(manifest);
  arrays = {};
  for (const name of decoder.arrays) arrays[name] = readNpy(await verified(name), name);
  return { manifest, boxes: decoder.boxes };
}

/** Load a model file in place of the one before; return the number of threads. */
async function load(file) {
  ort ??= await runtime();
  const bytes = await verified(file);
  await session?.release();
  session = undefined;
  try {
    session = await ort.InferenceSession.create(bytes, { executionProviders: ["wasm"] });
  } catch (error) {
    throw new Error(`ONNX Runtime Web cannot open ${file}: ${error.message ?? error}`);
  }
  await infer(new Float32Array(manifest.input.shape.reduce((a, b) => a * b))); // warms it up
  return { threads: ort.env.wasm.numThreads || 1 };
}

/** Return what the net finds in a bitmap, and the milliseconds of each step. */
async function run(bitmap) {
  if (!session) throw new Error("The model is not loaded.");
  const image = pixels(bitmap);
  const start = performance.now();
  const { input, placement } = prepare(image, manifest.preprocess);
  const prepared = performance.now();
  let outputs = await infer(input);
  if (decoder.mirrors?.(manifest)) {
    outputs = decoder.averaged(outputs, await infer(mirror(input)), manifest);
  }
  const ran = performance.now();
  const results = decoder.decode(outputs, manifest, arrays).map(({ box, ...result }) => ({
    ...result,
    ...(box && { box: toImage(box, placement) }),
  }));
  const end = performance.now();
  return { results, times: { prepare: prepared - start, net: ran - prepared, decode: end - ran } };
}

/** Return an input mirrored from left to right. */
function mirror(input) {
  const columns = manifest.input.shape.at(-1);
  return input.map((_, i) => input[i - (i % columns) + columns - 1 - (i % columns)]);
}

async function infer(input) {
  const tensor = new ort.Tensor("float32", input, manifest.input.shape);
  const outputs = await session.run({ [session.inputNames[0]]: tensor });
  const named = session.outputNames.map((name, i) => [manifest.outputs[i].name, outputs[name].data]);
  return Object.fromEntries(named);
}

/** Return the pixels of a bitmap, RGBA. */
function pixels(bitmap) {
  const { width, height } = bitmap;
  if (width * height > MOST_PIXELS) {
    throw new Error(`This image has ${width} × ${height} pixels; at most ${MOST_PIXELS} are read.`);
  }
  const canvas = new OffscreenCanvas(width, Math.min(height, STRIPE));
  const context = canvas.getContext("2d", { willReadFrequently: true });
  const data = new Uint8ClampedArray(width * height * 4);
  for (let top = 0; top < height; top += STRIPE) {
    const rows = Math.min(STRIPE, height - top);
    context.clearRect(0, 0, width, rows);
    context.drawImage(bitmap, 0, -top);
    data.set(context.getImageData(0, 0, width, rows).data, top * width * 4);
  }
  bitmap.close();
  return { data, width, height };
}

/** Load ONNX Runtime Web. */
async function runtime() {
  if (typeof WebAssembly === "undefined") {
    throw new Error("This browser has no WebAssembly, which the model needs. Use a current one.");
  }
  let module;
  try {
    module = await import(RUNTIME + SCRIPT);
  } catch {
    throw new Error(`ONNX Runtime Web is missing: ${RUNTIME}${SCRIPT} cannot be loaded. ${INSTALL}`);
  }
  module.env.wasm.wasmBinary = await fetched(RUNTIME + WASM, INSTALL);
  return module;
}

/** Return the bytes of a file that the manifest lists, checked against it. */
async function verified(name) {
  const stated = manifest.files?.[name];
  const bytes = await fetched(name, COPY, stated?.bytes);
  const differs = stated && (stated.bytes !== bytes.byteLength || (await digest(bytes, stated)) !== stated.sha256);
  if (differs) throw new Error(`${name} is not the file that manifest.json lists. ${COPY}`);
  return bytes;
}

/** Return the sha256 of bytes; where the browser computes none, the one that is stated. */
async function digest(bytes, { sha256 }) {
  if (!self.crypto?.subtle) return sha256; // only pages of https and of localhost have it
  const hash = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
  return Array.from(hash, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** Return the bytes of a file of the server, telling the page how many there are so far. */
async function fetched(path, advice, total) {
  const name = path.split("/").pop();
  let response;
  try {
    response = await fetch(path, { cache: "no-cache" });
  } catch {
    throw new Error(`${name} cannot be loaded: the server does not answer.`);
  }
  if (!response.ok) throw new Error(`${name} is missing on the server (${response.status}). ${advice}`);
  total ??= Number(response.headers.get("Content-Length")) || undefined;
  const parts = [];
  let bytes = 0;
  const reader = response.body.getReader();
  for (let part = await reader.read(); !part.done; part = await reader.read()) {
    parts.push(part.value);
    bytes += part.value.length;
    self.postMessage({ progress: { name, bytes, total } });
  }
  return new Blob(parts).arrayBuffer();
}
