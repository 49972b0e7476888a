/**
 * Turns an image of any size into a net's input, as gluon_compress/data/preprocess.py does.
 *
 * Resizing follows OpenCV's arithmetic for 8-bit images: nets were trained on such pixels,
 * and a browser's own resizing moves scores. An image is {data, width, height}, where data
 * holds RGBA bytes as a canvas returns them; alpha is dropped.
 */

const ONE = 2048; // OpenCV's weights of linear interpolation are integers of 11 bits
const CUBIC = -0.75; // its parameter of cubic interpolation, which it computes in floating point on x86
const float = Math.fround;
export const MOST_PIXELS = 2 ** 26; // of an image, before and after resizing

/** Return the input of a net, Float32Array (3, height, width), and where the image lies. */
export function prepare(image, preprocess) {
  const { height, width } = preprocess;
  const [rows, columns] = resizedSize(image, preprocess);
  if (rows * columns > MOST_PIXELS) {
    throw new Error(`This image of ${image.width} × ${image.height} pixels is too narrow.`);
  }
  const resized = resize(image, rows, columns, methodFor(image, rows, columns, preprocess));
  const cropped = preprocess.keep_ratio && preprocess.crop != null;
  const placement = {
    height: image.height,
    width: image.width,
    rows,
    columns,
    top: cropped ? Math.floor((rows - height) / 2) : 0,
    left: cropped ? Math.floor((columns - width) / 2) : 0,
  };
  const input = new Float32Array(3 * height * width); // what the image leaves free is zero
  const shownRows = Math.min(rows, height);
  const shownColumns = Math.min(columns, width);
  for (let channel = 0; channel < 3; channel++) {
    const std = float(preprocess.std[channel]);
    const scale = float(1 / float(255 * std));
    const shift = float(float(preprocess.mean[channel]) / std);
    for (let y = 0; y < shownRows; y++) {
      let from = ((y + placement.top) * columns + placement.left) * 3 + channel;
      let to = (channel * height + y) * width;
      for (let x = 0; x < shownColumns; x++, from += 3, to++) {
        input[to] = float(resized[from] * scale) - shift;
      }
    }
  }
  return { input, placement };
}

/** Return a corner box of the input in pixels of the image. */
export function toImage(box, placement) {
  const { width, columns, left, height, rows, top } = placement;
  const [x, y] = [width / columns, height / rows];
  return [(box[0] + left) * x, (box[1] + top) * y, (box[2] + left) * x, (box[3] + top) * y];
}

/** Return the height and width that an image is resized to. */
export function resizedSize(image, { height, width, keep_ratio: keepRatio, crop }) {
  if (!keepRatio) return [height, width];
  if (crop == null) {
    const factor = Math.min(height / image.height, width / image.width);
    return [image.height, image.width].map((side) => Math.max(roundEven(side * factor), 1));
  }
  const factor = Math.max(
    Math.ceil(height / crop) / image.height,
    Math.ceil(width / crop) / image.width,
  );
  return [roundEven(image.height * factor), roundEven(image.width * factor)];
}

function methodFor(image, rows, columns, { interpolation }) {
  if (image.width > columns && image.height > rows) return interpolation.larger;
  if (image.width < columns && image.height < rows) return interpolation.smaller;
  return interpolation.otherwise;
}

/** Return an image resized as OpenCV does it: Uint8ClampedArray (height, width, 3), RGB. */
export function resize(image, height, width, method) {
  // OpenCV computes the scale in this way, which may differ in the last bit.
  const scaleX = 1 / (width / image.width);
  const scaleY = 1 / (height / image.height);
  const shrinks = scaleX >= 1 && scaleY >= 1;
  if (method === "nearest") return nearest(image, height, width, scaleX, scaleY);
  if (shrinks && (method === "area" || (method === "linear" && scaleX === 2 && scaleY === 2))) {
    return area(image, height, width, scaleX, scaleY);
  }
  if (!["area", "linear", "cubic"].includes(method)) {
    throw new Error(`interpolation "${method}"; allowed: area, cubic, linear, nearest`);
  }
  const across = taps(width, image.width, scaleX, method, true);
  const down = taps(height, image.height, scaleY, method, false);
  return interpolate(image, height, width, across, down);
}

function nearest(image, height, width, scaleX, scaleY) {
  const out = new Uint8ClampedArray(height * width * 3);
  for (let y = 0, to = 0; y < height; y++) {
    const row = Math.min(Math.floor(y * scaleY), image.height - 1) * image.width;
    for (let x = 0; x < width; x++, to += 3) {
      const from = (row + Math.min(Math.floor(x * scaleX), image.width - 1)) * 4;
      for (let c = 0; c < 3; c++) out[to + c] = image.data[from + c];
    }
  }
  return out;
}

/**
 * Return which pixels of a line each pixel of the resized line is made of: for pixel i those
 * at index[i * n + k], times weight[i * n + k], k < n.
 */
function taps(size, from, scale, method, horizontal) {
  const n = method === "cubic" ? 4 : 2;
  const index = new Int32Array(size * n);
  const weight = new Float64Array(size * n);
  for (let i = 0; i < size; i++) {
    let first, share;
    if (method === "area") {
      // Enlarged by "area": a pixel is mixed only if it covers two.
      first = Math.floor(i * scale);
      const reach = float(i + 1 - (first + 1) * (size / from));
      share = reach <= 0 ? 0 : float(reach - Math.floor(reach));
    } else {
      const centre = (i + 0.5) * scale - 0.5;
      const rounded = n === 4 ? centre : float(centre);
      first = Math.floor(rounded);
      share = rounded - first;
    }
    if (horizontal && n === 2 && (first < 0 || first >= from - 1)) {
      first = first < 0 ? 0 : from - 1;
      share = 0;
    }
    const weights = n === 4 ? cubicWeights(share) : [float(1 - share), share];
    for (let k = 0; k < n; k++) {
      const at = first + k - (n === 4 ? 1 : 0);
      index[i * n + k] = Math.min(Math.max(at, 0), from - 1);
      weight[i * n + k] = n === 4 ? weights[k] : roundEven(float(weights[k] * ONE));
    }
  }
  return { n, index, weight };
}

function cubicWeights(x) {
  const a = CUBIC;
  const far = ((a * (x + 1) - 5 * a) * (x + 1) + 8 * a) * (x + 1) - 4 * a;
  const near = ((a + 2) * x - (a + 3)) * x * x + 1;
  const next = ((a + 2) * (1 - x) - (a + 3)) * (1 - x) * (1 - x) + 1;
  return [far, near, next, 1 - far - near - next];
}

/** Mix pixels across, then down: linear in OpenCV's integers, cubic in floating point. */
function interpolate(image, height, width, across, down) {
  const out = new Uint8ClampedArray(height * width * 3);
  const { n } = across;
  const lines = new Map(); // rows mixed across, by their number in the image
  for (let y = 0; y < height; y++) {
    const used = Array.from(down.index.subarray(y * n, y * n + n));
    for (const row of lines.keys()) if (row < used[0]) lines.delete(row);
    for (const row of used) if (!lines.has(row)) lines.set(row, mixedAcross(image, row, width, across));
    const rows = used.map((row) => lines.get(row));
    const weights = down.weight.subarray(y * n, y * n + n);
    const to = y * width * 3;
    if (n === 2) {
      for (let i = 0; i < width * 3; i++) {
        const upper = (weights[0] * (rows[0][i] >> 4)) >> 16;
        const lower = (weights[1] * (rows[1][i] >> 4)) >> 16;
        out[to + i] = (upper + lower + 2) >> 2;
      }
    } else {
      for (let i = 0; i < width * 3; i++) {
        let sum = 0;
        for (let k = 0; k < 4; k++) sum += weights[k] * rows[k][i];
        out[to + i] = roundEven(sum); // clamped to a byte
      }
    }
  }
  return out;
}

function mixedAcross(image, row, width, { n, index, weight }) {
  const line = new Float64Array(width * 3);
  const start = row * image.width;
  for (let x = 0; x < width; x++) {
    for (let k = 0; k < n; k++) {
      const from = (start + index[x * n + k]) * 4;
      const w = weight[x * n + k];
      for (let c = 0; c < 3; c++) line[x * 3 + c] += w * image.data[from + c];
    }
  }
  return line;
}

/** Average what each pixel of a smaller image covers. */
function area(image, height, width, scaleX, scaleY) {
  const across = coverage(width, image.width, scaleX);
  const down = coverage(height, image.height, scaleY);
  const out = new Uint8ClampedArray(height * width * 3);
  const line = new Float32Array(width * 3);
  const sums = new Float32Array(width * 3);
  const whole = Number.isInteger(scaleX) && Number.isInteger(scaleY);
  const count = scaleX * scaleY;
  const average = (sum) => roundEven(whole ? float(sum * float(1 / count)) : sum);
  // Half as large is the one case in which OpenCV rounds halves up.
  const round = whole && scaleX === 2 && scaleY === 2 ? (sum) => (sum + 2) >> 2 : average;
  for (let y = 0; y < height; y++) {
    sums.fill(0);
    for (let j = down.start[y]; j < down.start[y + 1]; j++) {
      const share = whole ? 1 : down.share[j];
      averageAcross(image, down.from[j], across, line, whole);
      for (let i = 0; i < line.length; i++) sums[i] += float(share * line[i]);
    }
    for (let i = 0; i < sums.length; i++) out[y * width * 3 + i] = round(sums[i]);
  }
  return out;
}

function averageAcross({ data, width }, row, { start, from, share }, line, whole) {
  for (let x = 0; x < start.length - 1; x++) {
    let [red, green, blue] = [0, 0, 0];
    for (let k = start[x]; k < start[x + 1]; k++) {
      const at = (row * width + from[k]) * 4;
      const part = whole ? 1 : share[k];
      red = float(red + float(part * data[at]));
      green = float(green + float(part * data[at + 1]));
      blue = float(blue + float(part * data[at + 2]));
    }
    line[x * 3] = red;
    line[x * 3 + 1] = green;
    line[x * 3 + 2] = blue;
  }
}

/**
 * Return which pixels of a line each pixel of a shorter one covers: pixel i those at from[k],
 * each by share[k], for k from start[i] to before start[i + 1].
 */
function coverage(size, length, scale) {
  const start = [0];
  const from = [];
  const share = [];
  for (let i = 0; i < size; i++) {
    const begin = i * scale;
    const end = begin + scale;
    const cell = Math.min(scale, length - begin);
    const last = Math.min(Math.floor(end), length - 1);
    const first = Math.min(Math.ceil(begin), last);
    const add = (pixel, part) => from.push(pixel) && share.push(part / cell);
    if (first - begin > 1e-3) add(first - 1, first - begin);
    for (let k = first; k < last; k++) add(k, 1);
    if (end - last > 1e-3) add(last, Math.min(end - last, 1, cell));
    start.push(from.length);
  }
  return { start: Int32Array.from(start), from: Int32Array.from(from), share: Float32Array.from(share) };
}

/** Round halves to the even neighbour, as Python and OpenCV do. */
export function roundEven(value) {
  const below = Math.floor(value);
  const rest = value - below;
  if (rest !== 0.5) return Math.round(value);
  return below % 2 === 0 ? below : below + 1;
}
