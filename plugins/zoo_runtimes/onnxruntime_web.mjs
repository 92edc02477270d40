// Runs ONNX models with onnxruntime-web's WebAssembly backend under node, for `zoo_runtimes.node_process`.
//
// A message, in both directions: the length of a header (uint32, little-endian), the header (JSON), and the bytes whose
// number the header has under `bytes`. Arguments: the file of the package that node imports.

import fs from 'node:fs';
import { pathToFileURL } from 'node:url';

for (const name of ['log', 'info', 'debug']) console[name] = console.error; // stdout is for answers alone

const ARRAYS = {
  float32: Float32Array, float64: Float64Array, uint8: Uint8Array, int8: Int8Array, int32: Int32Array,
  int64: BigInt64Array, bool: Uint8Array, float16: globalThis.Float16Array ?? Uint16Array,
};

let ort, session, resident = [];

const answers = {
  // Opens the model in the bytes with at most `threads` threads
  async open({ threads }, bytes) {
    ort = await import(pathToFileURL(process.argv[2]));
    ort = ort.default?.InferenceSession ? ort.default : ort;
    ort.env.wasm.numThreads = threads;
    session = await ort.InferenceSession.create(bytes, { executionProviders: ['wasm'] });
    return [{ version: ort.env.versions.web, threads: ort.env.wasm.numThreads, outputs: session.outputNames }, []];
  },
  // Computes the named outputs of one input
  async run({ input, outputs }, bytes) {
    const found = await session.run({ [input.name]: tensor(input, bytes) }, outputs);
    const given = outputs.map((name) => found[name]);
    const described = given.map((one) => ({ dtype: one.type, shape: one.dims }));
    return [{ outputs: described }, given.map(({ data }) => new Uint8Array(data.buffer, data.byteOffset, data.byteLength))];
  },
  // Keeps an input, whose number the answer has
  async keep({ input }, bytes) {
    return [{ kept: resident.push({ [input.name]: tensor(input, bytes) }) - 1 }, []];
  },
  // Computes the named outputs of an input that was kept; they stay here
  async call({ kept, outputs }) {
    await session.run(resident[kept], outputs);
    return [{}, []];
  },
};

function tensor({ dtype, shape }, bytes) {
  const array = ARRAYS[dtype];
  return new ort.Tensor(dtype, new array(bytes.buffer, 0, bytes.byteLength / array.BYTES_PER_ELEMENT), shape);
}

// Reads so many bytes into memory of their own; ends the process where the pipe is closed
function read(count) {
  const bytes = new Uint8Array(count);
  for (let done = 0; done < count; ) {
    const more = fs.readSync(0, bytes, done, count - done, null);
    if (more === 0) process.exit(0);
    done += more;
  }
  return bytes;
}

function write(bytes) {
  for (let done = 0; done < bytes.byteLength; ) done += fs.writeSync(1, bytes, done);
}

for (;;) {
  const header = JSON.parse(Buffer.from(read(new DataView(read(4).buffer).getUint32(0, true))).toString());
  const bytes = read(header.bytes);
  let answer, parts = [];
  try {
    [answer, parts] = await answers[header.do](header, bytes);
  } catch (error) {
    answer = { error: String(error?.message ?? error) };
  }
  const text = Buffer.from(JSON.stringify({ ...answer, bytes: parts.reduce((sum, one) => sum + one.byteLength, 0) }));
  const length = Buffer.alloc(4);
  length.writeUInt32LE(text.byteLength);
  for (const part of [length, text, ...parts]) write(part);
}
