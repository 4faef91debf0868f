// Runs .tflite files on LiteRT.js in Node, for litert_web.py: `node litert_web.mjs job.json answer.json`.
// The job names files of raw numbers; the last of the answer's words are `error`, or what was asked for.
import fs from 'node:fs';
import {createRequire} from 'node:module';
import path from 'node:path';
import {pathToFileURL} from 'node:url';
import vm from 'node:vm';

const [jobPath, answerPath] = process.argv.slice(2);
const job = JSON.parse(fs.readFileSync(jobPath, 'utf8'));
const TYPES = {float32: Float32Array, int32: Int32Array, uint8: Uint8Array};

async function library() {
  const wasm = path.join(job.package, 'wasm') + path.sep;
  // The library is written for browsers: it loads its scripts as a worker does.
  globalThis.self = globalThis;
  globalThis.require = createRequire(path.join(wasm, 'litert.js'));
  globalThis.__dirname = wasm;
  globalThis.__filename = path.join(wasm, 'litert.js');
  globalThis.importScripts = (script) => {
    vm.runInThisContext(fs.readFileSync(script, 'utf8') + '\n;globalThis.ModuleFactory ??= ModuleFactory;');
  };
  const found = await import(pathToFileURL(path.join(job.package, 'dist', 'index.js')).href);
  await found.loadLiteRt(wasm);
  return found;
}

const elements = (shape) => shape.reduce((product, size) => product * size, 1);

async function compiled(lib, file) {
  return lib.loadAndCompile(new Uint8Array(fs.readFileSync(file)), {accelerator: 'wasm'});
}

function tensors(lib, model, read) {
  return model.getInputDetails().map((detail, index) => {
    const shape = [...detail.shape];
    return new lib.Tensor(read(TYPES[detail.dtype], elements(shape), index), shape);
  });
}

async function run(lib) {
  const model = await compiled(lib, job.models[0]);
  const data = job.inputs.map((file) => fs.readFileSync(file));
  const parts = model.getOutputDetails().map(() => []);
  for (let sample = 0; sample < job.samples; sample++) {
    const given = tensors(lib, model, (type, count, index) => {
      const bytes = count * type.BYTES_PER_ELEMENT;
      return new type(new Uint8Array(data[index].subarray(sample * bytes, (sample + 1) * bytes)).buffer);
    });
    const made = await model.run(given);
    made.forEach((tensor, index) => parts[index].push(Buffer.from(tensor.toTypedArray().slice().buffer)));
    [...given, ...made].forEach((tensor) => tensor.delete());
  }
  const outputs = model.getOutputDetails().map((detail, index) => {
    fs.writeFileSync(job.outputs + index, Buffer.concat(parts[index]));
    return {shape: [...detail.shape], dtype: detail.dtype};
  });
  return {outputs};
}

async function latency(lib) {
  const models = await Promise.all(job.models.map((file) => compiled(lib, file)));
  const inputs = models.map((model) => tensors(lib, model, (type, count) => new type(count)));
  const times = models.map(() => []);
  for (let round = -job.warmup; round < job.runs; round++) {
    for (const [index, model] of models.entries()) {
      const start = process.hrtime.bigint();
      const made = await model.run(inputs[index]);
      const end = process.hrtime.bigint();
      made.forEach((tensor) => tensor.delete());
      if (round >= 0) times[index].push([Number(start - origin), Number(end - origin)]);
    }
  }
  return {times};
}

async function memory(lib) {
  const before = process.memoryUsage().rss;
  const model = await compiled(lib, job.models[0]);
  const made = await model.run(tensors(lib, model, (type, count) => new type(count)));
  made.forEach((tensor) => tensor.toTypedArray());
  return {memory: {resident_memory_bytes: Math.max(0, process.memoryUsage().rss - before)}};
}

const origin = process.hrtime.bigint();
let answer;
try {
  answer = await {run, latency, memory}[job.op](await library());
} catch (error) {
  answer = {error: String(error.message ?? error)};
}
fs.writeFileSync(answerPath, JSON.stringify({...answer, node: process.version}));
process.exit(0);
