/**
 * The worker: owns the wasm core, fetches the model for it and runs one generation after the other. All maths,
 * checks of files and choices of devices are the core's; here are only bytes, order and messages.
 */

import { aborted, internal, toUvitError, UvitError } from './errors.js';
import { fetchBytes, fetchText } from './fetch.js';
import type { FromWorker, Request, ResultMetadata } from './protocol.js';
import type { LoadProgress, PipelineInfo } from './types.js';
import init, { capabilities, Loader, type WasmPipeline } from './uvit_web.js';

type GenerateRequest = Extract<Request, { type: 'generate' }>;
type LoadRequest = Extract<Request, { type: 'load' }>;

let pipeline: WasmPipeline | undefined;
const queue: GenerateRequest[] = [];
let running: number | undefined;

self.onmessage = (message: MessageEvent<Request>) => {
  const request = message.data;
  switch (request.type) {
    case 'capabilities':
      void answer(request.id, async () => {
        await startCore();
        send({ type: 'capabilities', id: request.id, capabilities: JSON.parse(await capabilities()) });
      });
      break;
    case 'load':
      void answer(request.id, () => loadModel(request));
      break;
    case 'generate':
      queue.push(request);
      void drain();
      break;
    case 'abort':
      abort(request.id);
      break;
  }
};

// An uncaught exception reaches the page as the worker's error event; a rejection nobody waits for would not.
self.onunhandledrejection = (event) => send({ type: 'crash', error: toUvitError(event.reason).parts() });

/** Runs the work of one request and replies with the error if it throws. */
async function answer(id: number, work: () => Promise<void>): Promise<void> {
  try {
    await work();
  } catch (thrown) {
    send({ type: 'error', id, error: toUvitError(thrown).parts() });
  }
}

async function startCore(): Promise<void> {
  try {
    await init({ module_or_path: new URL('./uvit_web_bg.wasm', import.meta.url) });
  } catch (thrown) {
    throw new UvitError(
      'IO',
      `the runtime's wasm module could not be started (${toUvitError(thrown).cause})`,
      'Check that uvit_web_bg.wasm is served beside the worker, and that this browser has WebAssembly with SIMD',
    );
  }
}

async function loadModel({ id, manifestUrl, device, dtype }: LoadRequest): Promise<void> {
  const progress: LoadProgress = { phase: 'runtime', loadedBytes: 0, totalBytes: 0 };
  const report = (changes: Partial<LoadProgress>) => {
    Object.assign(progress, changes);
    send({ type: 'progress', id, progress });
  };
  report({});
  await startCore();
  report({ phase: 'manifest' });
  const manifest = await fetchText(manifestUrl);
  const loader = await Loader.create(manifest, JSON.stringify({ device, dtype }));
  const shards: { file: string; bytes: number }[] = JSON.parse(loader.shards());
  report({ phase: 'weights', totalBytes: shards.reduce((sum, shard) => sum + shard.bytes, 0) });
  for (const [index, { file, bytes }] of shards.entries()) {
    const before = progress.loadedBytes;
    const url = new URL(file, manifestUrl).href;
    const data = await fetchBytes(url, bytes, (received) => report({ loadedBytes: before + received }));
    await loader.addShard(index, data);
  }
  report({ phase: 'compile' });
  pipeline = await loader.finish();
  const info: PipelineInfo = JSON.parse(pipeline.info());
  send({ type: 'loaded', id, info });
}

/** Runs queued generations, in order, until there are none. */
async function drain(): Promise<void> {
  if (running !== undefined) return;
  for (let next = queue.shift(); next; next = queue.shift()) {
    const request = next;
    running = request.id;
    await answer(request.id, () => generate(request));
    running = undefined;
  }
}

async function generate({ id, options, startLatents }: GenerateRequest): Promise<void> {
  if (!pipeline) throw internal('generate came before a model was loaded');
  const result = await pipeline.generate(JSON.stringify(options), startLatents, (json, bytes) => {
    const preview = bytes && owned(bytes);
    send({ type: 'step', id, ...JSON.parse(json), ...(preview && { preview }) }, preview ? [preview.buffer] : []);
  });
  const metadata: ResultMetadata = JSON.parse(result.metadata());
  const rgba = owned(result.rgba());
  const floats = options.floatPixels ? owned(result.floats()) : undefined;
  result.free();
  send(
    { type: 'result', id, metadata, rgba, ...(floats && { floats }) },
    floats ? [rgba.buffer, floats.buffer] : [rgba.buffer],
  );
}

function abort(id: number): void {
  if (id === running) {
    pipeline?.abort();
    return;
  }
  const place = queue.findIndex((request) => request.id === id);
  if (place < 0) return;
  queue.splice(place, 1);
  send({ type: 'error', id, error: aborted('This generation').parts() });
}

/** Bytes that may be transferred: a view into wasm memory is copied first, for that memory cannot leave. */
function owned<T extends Uint8Array | Float32Array>(bytes: T): T {
  return bytes.byteLength === bytes.buffer.byteLength ? bytes : (bytes.slice() as T);
}

function send(message: FromWorker, transfer: Transferable[] = []): void {
  self.postMessage(message, { transfer });
}
