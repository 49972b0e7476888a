// Calls functions of the page with arguments from a JSON file, and prints what they return.
//
//   node web.mjs FOLDER CASES.json
//
// CASES.json is a list of {name, arguments}. Arrays of float32 or of bytes are objects
// {float32: base64} or {bytes: base64}, here and in the answers.
import { readFileSync } from "node:fs";
import { pathToFileURL } from "node:url";

const [folder, cases] = process.argv.slice(2);
const load = (name) => import(pathToFileURL(`${folder}/${name}.js`));
const functions = { ...(await load("preprocess")), ...(await load("postprocess")) };

const bytesOf = (text) => Uint8Array.from(Buffer.from(text, "base64"));
const textOf = (array) => Buffer.from(array.buffer, array.byteOffset, array.byteLength).toString("base64");

function revived(_, value) {
  if (value?.float32 !== undefined) return new Float32Array(bytesOf(value.float32).buffer);
  if (value?.bytes !== undefined) return bytesOf(value.bytes);
  if (value?.buffer !== undefined) return bytesOf(value.buffer).buffer;
  return value;
}

function written(_, value) {
  if (value instanceof Float32Array) return { float32: textOf(value) };
  if (ArrayBuffer.isView(value)) return { bytes: textOf(value) };
  return typeof value === "number" && !Number.isFinite(value) ? String(value) : value;
}

const answers = JSON.parse(readFileSync(cases), revived).map(({ name, arguments: given }) => {
  try {
    return { value: functions[name](...given) };
  } catch (error) {
    return { error: error.message };
  }
});
console.log(JSON.stringify(answers, written));
