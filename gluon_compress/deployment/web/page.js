/** The page: takes a photo, a file or the camera, and shows what the worker finds in it. */

const PAUSE = 2000; // ms between two summaries of the camera, which screen readers speak
const SETTLED = 400; // ms after which the slider counts as let go
const NARROW = 500; // pixels of the page; photos of less get smaller labels
const SHARPEST = 2; // canvas pixels for each pixel of the page, at most
const SECURE = "The camera needs a page of https:// or http://localhost.";
const CAMERA_ERRORS = {
  NotAllowedError: "The browser did not allow the camera. Allow it for this page",
  NotFoundError: "No camera was found. Connect one",
  NotReadableError: "The camera is in use by another program. Close that",
};

const find = (id) => document.getElementById(id);
const canvas = find("canvas");
// What the page shows; results are null until the net has run.
const shown = { bitmap: null, results: null, marked: null };
let manifest, hasBoxes, stream;
let latest = 0; // number of the last photo that was asked for
let spoken = 0; // when the camera's summary was last put into words
let settling; // the timer of the slider

// ------------------------------------------------------------------------ the worker

const worker = new Worker("worker.js", { type: "module" });
const waiting = new Map(); // those who wait for an answer, by its number
let asked = 0;
worker.onmessage = ({ data: { id, value, error, progress } }) => {
  if (progress) return showProgress(progress);
  const { resolve, reject } = waiting.get(id);
  waiting.delete(id);
  return error === undefined ? resolve(value) : reject(new Error(error));
};
worker.onerror = () => fail("The page's scripts cannot be loaded. Use a current browser, and copy the exported folder to the server as a whole.");

function ask(task, value) {
  const id = (asked += 1);
  return new Promise((resolve, reject) => {
    waiting.set(id, { resolve, reject });
    worker.postMessage({ id, task, value });
  });
}

// ------------------------------------------------------------------------ words

function say(text) {
  if (find("status").textContent !== text) find("status").textContent = text;
}

const busy = (is) => find("photo").setAttribute("aria-busy", is);

function fail(text) {
  stopCamera();
  busy(false);
  find("error").textContent = text;
  find("error").hidden = false;
  find("progress").hidden = true;
}

function clearError() {
  find("error").hidden = true;
  find("error").textContent = "";
}

function showProgress({ name, bytes, total }) {
  const bar = find("progress");
  bar.hidden = false;
  if (total) Object.assign(bar, { max: total, value: Math.min(bytes, total) });
  else bar.removeAttribute("value");
  say(`Loading ${name} …`);
}

/** Return for example "3 objects: 2 cat, 1 dog". */
function summary(results) {
  if (!hasBoxes) return results.slice(0, 1).map((r) => `${nameOf(r)}, ${percent(r.score)}`).join("");
  const counts = new Map();
  for (const result of results) counts.set(nameOf(result), (counts.get(nameOf(result)) ?? 0) + 1);
  const parts = [...counts].map(([name, count]) => `${count} ${name}`);
  const noun = results.length === 1 ? "object" : "objects";
  return results.length ? `${results.length} ${noun}: ${parts.join(", ")}` : "No object";
}

const nameOf = ({ id }) => manifest.classes[id];
const percent = (score) => `${(100 * score).toFixed(1)} %`;

// ------------------------------------------------------------------------ start

async function start() {
  ({ manifest, boxes: hasBoxes } = await ask("open"));
  const names = manifest.classes;
  const last = names.length > 8 ? `${names.length - 7} more` : names[names.length - 1];
  const some = names.length < 2 ? names[0] : `${names.slice(0, Math.min(names.length - 1, 7)).join(", ")} and ${last}`;
  find("title").textContent = document.title = hasBoxes ? "Object detector" : "Image classifier";
  find("about").textContent = `${manifest.name} ${hasBoxes ? "finds" : "knows"} ${some}. Photos do not leave this device.`;
  if (hasBoxes) find("score").min = manifest.postprocess.least_score;
  for (const [file, precision] of models()) {
    const size = (manifest.files[file].bytes / 1e6).toFixed(1);
    find("model").add(new Option(`${precision}, ${size} MB`, file));
  }
  find("models").hidden = find("model").length < 2;
  await load();
}

/** Return the model files that ONNX Runtime runs, each once, with its precision. */
function models() {
  const rows = Object.values(manifest.formats).filter(({ files }) => files[0].endsWith(".onnx"));
  const files = new Map(rows.map(({ files: [file], precision }) => [file, precision]));
  // Of files of one precision the first will do.
  return [...files].filter(([, precision], i, all) => all.findIndex((row) => row[1] === precision) === i);
}

async function load() {
  const enable = (enabled) => {
    for (const id of ["take", "choose", "camera"]) find(id).disabled = !enabled;
  };
  enable(false);
  const { threads } = await ask("load", find("model").value);
  enable(true);
  find("progress").hidden = true;
  say(`Ready, on ${threads} ${threads === 1 ? "thread" : "threads"} of this device.`);
}

// ------------------------------------------------------------------------ photos and the camera

/** Show a photo and what the net finds in it. */
async function showFile(file) {
  stopCamera();
  clearError();
  const number = ++latest;
  let bitmap;
  try {
    // As OpenCV decodes it: turned as EXIF says, colours as they are stored.
    bitmap = await createImageBitmap(file, { imageOrientation: "from-image", colorSpaceConversion: "none", premultiplyAlpha: "none" });
  } catch {
    return fail(`“${file.name}” is not an image that this browser can read. Choose a JPEG or PNG file.`);
  }
  if (number !== latest) return bitmap.close();
  show(bitmap, null);
  say("Looking …");
  busy(true);
  return detect(bitmap, number);
}

/** Run the net on a bitmap; show the result unless another one was asked for meanwhile. */
async function detect(bitmap, number) {
  try {
    const { results, times } = await ask("run", bitmap);
    if (number !== latest) return;
    show(bitmap, results, times);
    say(`${summary(visible())}.`);
    busy(false);
  } catch (error) {
    if (number === latest) fail(error.message);
  }
}

async function startCamera() {
  clearError();
  if (!navigator.mediaDevices?.getUserMedia) return fail(`${SECURE} You can choose a photo instead.`);
  try {
    stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
  } catch (error) {
    const words = CAMERA_ERRORS[error.name] ?? `The camera cannot be used (${error.message})`;
    return fail(`${words}, or choose a photo instead.`);
  }
  find("camera").textContent = "Stop the camera";
  const video = find("video");
  video.srcObject = stream;
  await video.play();
  return follow(video, ++latest);
}

/** Run the net on one frame after the other; those that come meanwhile are dropped. */
async function follow(video, number) {
  let before = performance.now();
  let interval;
  find("rate").hidden = false;
  while (stream && number === latest) {
    try {
      const bitmap = await createImageBitmap(video);
      const { results, times } = await ask("run", bitmap);
      if (!stream || number !== latest) return bitmap.close();
      show(bitmap, results, times);
      const now = performance.now();
      interval = interval === undefined ? now - before : 0.8 * interval + 0.2 * (now - before);
      before = now;
      find("frames").textContent = (1000 / interval).toFixed(1);
      if (now - spoken > PAUSE) {
        say(`${summary(visible())}.`);
        spoken = now;
      }
    } catch (error) {
      return number === latest ? fail(error.message) : undefined;
    }
    await new Promise(requestAnimationFrame); // rests while the page is hidden
  }
}

function stopCamera() {
  stream?.getTracks().forEach((track) => track.stop());
  stream = undefined;
  find("rate").hidden = true;
  find("camera").textContent = "Start the camera";
}

// ------------------------------------------------------------------------ results

function show(bitmap, results, times) {
  if (shown.bitmap !== bitmap) shown.bitmap?.close();
  Object.assign(shown, { bitmap, results, marked: null });
  for (const [name, time] of Object.entries(times ?? {})) {
    find(name).textContent = time < 10 ? time.toFixed(1) : Math.round(time);
  }
  find("hint").hidden = true;
  find("stage").classList.remove("empty");
  for (const id of ["figures", "table"]) find(id).hidden = false;
  find("scores").hidden = !hasBoxes;
  list();
  draw();
}

/** Return the results whose score is high enough. */
function visible() {
  const least = hasBoxes ? Number(find("score").value) : 0;
  return (shown.results ?? []).filter(({ score }) => score >= least);
}

function list() {
  const rows = visible().map((result) => {
    const row = document.createElement("tr");
    const name = cell("th", nameOf(result));
    name.scope = "row";
    name.style.setProperty("--colour", colourOf(result));
    row.append(name, number(cell("td"), result.score, hasBoxes ? result.score.toFixed(2) : percent(result.score)));
    if (result.box) {
      const [left, top, right, bottom] = result.box;
      const [x, y, width, height] = [left, top, right - left, bottom - top].map(Math.round);
      row.append(number(cell("td"), result.box.join(" "), `${x}, ${y}, ${width}\u00a0×\u00a0${height}`));
      row.onpointerenter = () => mark(result);
      row.onpointerleave = () => mark(null);
    }
    return row;
  });
  find("rows").replaceChildren(...rows);
  find("table").classList.toggle("boxes", hasBoxes);
  const all = (shown.results ?? []).length;
  const boxes = `${rows.length} of ${all} results. Boxes: left, top, width × height, pixels`;
  find("caption").textContent = hasBoxes ? boxes : "The most probable classes";
  canvas.setAttribute("aria-label", shown.results ? `Photo. ${summary(visible())}.` : "Photo");
}

function cell(tag, text = "") {
  const element = document.createElement(tag);
  element.textContent = text;
  return element;
}

function number(parent, value, text) {
  const data = cell("data", text);
  data.value = value;
  parent.append(data);
  return parent;
}

function mark(result) {
  shown.marked = result;
  draw();
}

/** Draw the photo and its boxes, in as many pixels as the page has for them. */
function draw() {
  const { bitmap, marked } = shown;
  if (!bitmap) return;
  const ratio = Math.min(window.devicePixelRatio || 1, SHARPEST);
  canvas.style.setProperty("--shape", bitmap.width / bitmap.height);
  canvas.width = Math.max(Math.round(canvas.clientWidth * ratio), 1);
  canvas.height = Math.max(Math.round(canvas.clientHeight * ratio), 1);
  const context = canvas.getContext("2d");
  context.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  if (!hasBoxes) return;
  const scale = [canvas.width / bitmap.width, canvas.height / bitmap.height];
  const size = canvas.clientWidth < NARROW ? 10 : 13;
  context.font = `600 ${size * ratio}px system-ui, sans-serif`;
  context.textBaseline = "middle";
  for (const part of [drawBox, drawLabel]) {
    for (const result of visible().reverse()) {
      context.globalAlpha = marked && marked !== result ? 0.15 : 1;
      const corners = result.box.map((value, i) => value * scale[i % 2]);
      part(context, result, corners, ratio);
    }
  }
  context.globalAlpha = 1;
}

function drawBox(context, result, [left, top, right, bottom], ratio) {
  context.lineWidth = 5 * ratio; // a rim, so that the line is seen on any colour
  context.strokeStyle = "rgb(255 255 255 / 75%)";
  context.strokeRect(left, top, right - left, bottom - top);
  context.lineWidth = 2.5 * ratio;
  context.strokeStyle = colourOf(result);
  context.strokeRect(left, top, right - left, bottom - top);
}

function drawLabel(context, result, [left, top], ratio) {
  const text = `${nameOf(result)} ${result.score.toFixed(2)}`;
  const { width: length, fontBoundingBoxAscent: above, fontBoundingBoxDescent: below } = context.measureText(text);
  const [width, height] = [length + 8 * ratio, above + below + 3 * ratio];
  const x = Math.max(Math.min(left - ratio, canvas.width - width), 0);
  const y = top - height >= 0 ? top - height : Math.max(top, 0);
  context.fillStyle = colourOf(result);
  context.fillRect(x, y, width, height);
  context.fillStyle = "white";
  context.fillText(text, x + 4 * ratio, y + height / 2);
}

/** Return a colour that white text is legible on; classes side by side differ much. */
const colourOf = ({ id }) => `oklch(50% 0.17 ${(255 + 137.5 * id) % 360})`;

// ------------------------------------------------------------------------ events

for (const [button, input] of [["take", "taken"], ["choose", "file"]]) {
  find(button).onclick = () => find(input).click();
  find(input).onchange = ({ target }) => {
    if (target.files[0]) showFile(target.files[0]);
    target.value = ""; // so that the same file can be chosen again
  };
}
find("camera").onclick = () => (stream ? stopCamera() : startCamera());
find("score").oninput = () => {
  find("least").textContent = Number(find("score").value).toFixed(2);
  list();
  draw();
  clearTimeout(settling);
  settling = setTimeout(() => shown.results && say(`${summary(visible())}.`), SETTLED);
};
find("model").onchange = async () => {
  clearError();
  try {
    await load();
    if (shown.bitmap && !stream) await detect(shown.bitmap, ++latest);
  } catch (error) {
    latest++; // what the camera still waits for is of no interest
    fail(error.message);
  }
};
document.onpaste = (event) => take(event, event.clipboardData);
document.ondragover = (event) => event.preventDefault();
document.ondrop = (event) => take(event, event.dataTransfer);

function take(event, { files }) {
  if (!files.length || find("choose").disabled) return;
  event.preventDefault();
  showFile(files[0]);
}

new ResizeObserver(draw).observe(find("stage"));
start().catch((error) => {
  say("The page cannot be used yet.");
  fail(error.message);
});
