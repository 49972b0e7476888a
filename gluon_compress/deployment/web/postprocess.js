/**
 * Turns a net's outputs into boxes or classes, as gluon_compress/postprocess does.
 *
 * To add a kind, add its function to DECODERS: (outputs, manifest, arrays) -> results, best
 * first. One that has "mirrors" may ask for the outputs of the mirrored image, too, and makes
 * one of both. Here outputs and arrays are typed arrays by name. A result has the id of a class,
 * a score, and for a detector a corner box in pixels of the input.
 */

const ANCHORS = "anchors.npy";
const SMALLEST = 1e-6; // pixels; a box with a shorter side is empty
const float = Math.fround;

export const DECODERS = {
  ssd: {
    boxes: true,
    arrays: [ANCHORS],
    decode: (outputs, { classes, postprocess }, arrays) =>
      ssd(outputs.predictions, arrays[ANCHORS], classes.length, postprocess),
  },
  refinedet: {
    boxes: true,
    arrays: [ANCHORS],
    decode: (outputs, { classes, postprocess }, arrays) =>
      refinedet(outputs.predictions, arrays[ANCHORS], classes.length, postprocess),
  },
  centernet: {
    boxes: true,
    arrays: [],
    mirrors: ({ postprocess }) => postprocess.flip_test,
    averaged: (outputs, mirrored, manifest) => averaged(outputs, mirrored, sidesOf(manifest).columns),
    decode: (outputs, manifest) => peaks(outputs, sidesOf(manifest), manifest.postprocess),
  },
  softmax: {
    boxes: false,
    arrays: [],
    decode: (outputs, { postprocess }) => topClasses(outputs.class_scores, postprocess.top_k),
  },
};

/** Return rows and columns of the maps that a manifest states. */
function sidesOf({ outputs }) {
  const [, , rows, columns] = outputs.find(({ name }) => name === "heat_map").shape;
  return { rows, columns };
}

/** Return the decoder of a manifest, or throw an Error that says why there is none. */
export function decoderOf(manifest) {
  const kind = manifest.postprocess?.kind;
  if (Object.hasOwn(DECODERS, kind)) return DECODERS[kind];
  const kinds = Object.keys(DECODERS).join(" and ");
  throw new Error(`This page decodes ${kinds}, but manifest.json states postprocess "${kind}".`);
}

/**
 * Return the boxes that an SSD finds, those with a corner that is not finite left out.
 *
 * predictions: (anchors, classes + 5): scores of the background and of the classes before
 * softmax, then four box deltas. anchors: (anchors, 4), center boxes in pixels of the input.
 */
export function ssd(predictions, anchors, classes, settings) {
  const width = classes + 5;
  if (predictions.length !== (anchors.length / 4) * width) {
    throw new Error("The model's output does not fit anchors.npy and the classes.");
  }
  const least = settings.least_score;
  // A score exceeds the threshold only if its logit exceeds the background's by this.
  const margin = Math.log(least) - Math.log1p(-least) - 1e-3;
  const byClass = Array.from({ length: classes }, () => []);
  for (let a = 0, start = 0; a < anchors.length / 4; a++, start += width) {
    const needed = predictions[start] + margin;
    let possible = false;
    for (let i = start + 1; i <= start + classes; i++) possible ||= predictions[i] > needed;
    if (!possible) continue;
    const scores = softmax(predictions.subarray(start, start + classes + 1));
    for (let id = 0; id < classes; id++) {
      if (scores[id + 1] > least) byClass[id].push({ id, score: scores[id + 1], anchor: a });
    }
  }
  // Sorting keeps equals in their order: by class, then by anchor.
  const sorted = byClass.flat().sort((one, other) => other.score - one.score);
  const candidates = sorted.slice(0, settings.nms_topk).map(({ id, score, anchor }) => {
    const from = anchor * width + classes + 1;
    const deltas = predictions.subarray(from, from + 4);
    const box = decoded(deltas, anchors.subarray(anchor * 4, anchor * 4 + 4), settings.stds);
    return { id, score, box };
  });
  const finite = candidates.filter(({ box }) => box.every(Number.isFinite));
  return nms(finite, settings.nms_thresh).slice(0, settings.post_nms);
}

/**
 * Return the boxes that a refinement detector finds: ssd, from anchors that are moved.
 *
 * predictions: (anchors, classes + 11): two scores of the first step, background and object,
 * and four deltas that move the anchor, then what an SSD predicts.
 */
export function refinedet(predictions, anchors, classes, settings) {
  const [width, ahead] = [classes + 11, 6];
  if (predictions.length !== (anchors.length / 4) * width) {
    throw new Error("The model's output does not fit anchors.npy and the classes.");
  }
  const least = settings.least_objectness;
  const limit = float(Math.log(least) - Math.log1p(-least));
  const rows = [];
  const moved = [];
  for (let a = 0, start = 0; a < anchors.length / 4; a++, start += width) {
    if (!(float(float(predictions[start + 1] - predictions[start]) - limit) > 0)) continue;
    const deltas = predictions.subarray(start + 2, start + ahead);
    moved.push(...centred(deltas, anchors.subarray(a * 4, a * 4 + 4), settings.stds));
    rows.push(...predictions.subarray(start + ahead, start + width));
  }
  return ssd(Float32Array.from(rows), Float32Array.from(moved), classes, settings);
}

/** Return the corner box that deltas make of a center box, in float32. */
function decoded(deltas, anchor, stds) {
  const [x, y, width, height] = centred(deltas, anchor, stds);
  const half = [width / 2, height / 2];
  return [x - half[0], y - half[1], x + half[0], y + half[1]].map(float);
}

/** Return the center box that deltas make of a center box, in float32. */
function centred(deltas, [x, y, width, height], stds) {
  const [dx, dy, dw, dh] = stds.map((std, i) => float(deltas[i] * float(std)));
  const centre = [float(x + float(dx * width)), float(y + float(dy * height))];
  return [...centre, float(float(Math.exp(dw)) * width), float(float(Math.exp(dh)) * height)];
}

/**
 * Return the boxes that stay, of boxes that are sorted best first.
 *
 * A box goes if a better one of its class that stays overlaps it by more than maxIou. Empty
 * boxes and boxes with a corner that is not finite overlap none.
 */
export function nms(boxes, maxIou) {
  const kept = [];
  const byClass = new Map();
  for (const one of boxes) {
    const [width, height] = [one.box[2] - one.box[0], one.box[3] - one.box[1]];
    const measurable = one.box.every(Number.isFinite) && width > SMALLEST && height > SMALLEST;
    const better = byClass.get(one.id) ?? [];
    if (measurable && better.some((other) => iou(one.box, other) > float(maxIou))) continue;
    if (measurable) byClass.set(one.id, [...better, one.box]);
    kept.push(one);
  }
  return kept;
}

function iou(one, other) {
  const width = Math.min(one[2], other[2]) - Math.max(one[0], other[0]);
  const height = Math.min(one[3], other[3]) - Math.max(one[1], other[1]);
  if (width <= 0 || height <= 0) return 0;
  const common = width * height;
  return float(common / (areaOf(one) + areaOf(other) - common));
}

const areaOf = (box) => (box[2] - box[0]) * (box[3] - box[1]);

/**
 * Return the boxes around the highest peaks of a heat map, those that are not finite left out.
 *
 * heat_map: (classes, rows, columns), scores before the sigmoid; box_sizes and center_offsets:
 * (2, rows, columns), x and y in cells.
 */
export function peaks({ heat_map, box_sizes, center_offsets }, { rows, columns }, settings) {
  const cells = rows * columns;
  if (heat_map.length % cells || box_sizes.length !== 2 * cells || center_offsets.length !== 2 * cells) {
    throw new Error("The model's outputs do not fit one another.");
  }
  const least = Math.log(settings.least_score) - Math.log1p(-settings.least_score);
  const found = [];
  for (let i = 0; i < heat_map.length; i++) {
    const score = heat_map[i];
    if (!(score > least)) continue;
    const cell = i % cells;
    const [y, x] = [Math.floor(cell / columns), cell % columns];
    let highest = true;
    for (let dy = y > 0 ? -1 : 0; dy <= (y < rows - 1 ? 1 : 0); dy++) {
      for (let dx = x > 0 ? -1 : 0; dx <= (x < columns - 1 ? 1 : 0); dx++) {
        if (heat_map[i + dy * columns + dx] > score) highest = false;
      }
    }
    if (highest) found.push(i);
  }
  // Sorting keeps equals in their order.
  found.sort((one, other) => heat_map[other] - heat_map[one]);
  const results = found.slice(0, settings.peaks).map((i) => {
    const cell = i % cells;
    const centre = [cell % columns, Math.floor(cell / columns)].map((at, k) => at + center_offsets[k * cells + cell]);
    const half = [0, 1].map((k) => float(box_sizes[k * cells + cell] / 2));
    const box = [centre[0] - half[0], centre[1] - half[1], centre[0] + half[0], centre[1] + half[1]];
    const score = float(1 / (1 + Math.exp(-heat_map[i])));
    return { id: Math.floor(i / cells), score, box: box.map((side) => float(float(side) * settings.stride)) };
  });
  return results.filter(({ box }) => box.every(Number.isFinite));
}

/** Return outputs averaged with those of the mirrored image. */
export function averaged(outputs, mirrored, columns) {
  const turned = (values) => values.map((_, i) => values[i - (i % columns) + columns - 1 - (i % columns)]);
  const [heat, sizes] = [turned(mirrored.heat_map), turned(mirrored.box_sizes)];
  return {
    heat_map: outputs.heat_map.map((own, i) => logSum(own, heat[i]) - logSum(-own, -heat[i])),
    box_sizes: outputs.box_sizes.map((own, i) => (own + sizes[i]) / 2),
    center_offsets: outputs.center_offsets,
  };
}

/** Return the logarithm of the sum of the sigmoids of two numbers. */
function logSum(one, other) {
  const [a, b] = [one, other].map((x) => Math.min(x, 0) - Math.log1p(Math.exp(-Math.abs(x))));
  return Math.max(a, b) + Math.log1p(Math.exp(-Math.abs(a - b)));
}

/** Return the most probable classes, best first. */
export function topClasses(scores, topK) {
  const results = Array.from(softmax(scores), (score, id) => ({ id, score }));
  return results.sort((one, other) => other.score - one.score).slice(0, topK);
}

/** Return the probabilities of scores, float32. */
export function softmax(scores) {
  const largest = scores.reduce((one, other) => Math.max(one, other), -Infinity);
  const shares = scores.map((score) => Math.exp(float(score - largest)));
  const sum = shares.reduce((one, other) => float(one + other), 0);
  return shares.map((share) => share / sum);
}

/** Return the float32 values of a NumPy file (.npy), from its bytes. */
export function readNpy(bytes, name) {
  const view = new DataView(bytes);
  const isNumpy = bytes.byteLength > 10 && view.getUint32(0) === 0x934e554d;
  const long = isNumpy && view.getUint8(6) > 1; // later versions have longer headers
  const start = long ? 12 : 10;
  const length = isNumpy ? (long ? view.getUint32(8, true) : view.getUint16(8, true)) : 0;
  const header = new TextDecoder().decode(bytes.slice(start, start + length));
  if (!/'descr': '<f4'/.test(header) || !/'fortran_order': False/.test(header)) {
    throw new Error(`${name}: not an array of float32 in row order.`);
  }
  return new Float32Array(bytes.slice(start + length));
}
