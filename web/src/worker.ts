/**
 * The worker: owns the wasm core, fetches the model for it and runs one call after the other. All maths, checks of
 * files and choices of devices are the core's; here are only bytes, order and messages.
 */

import { buffersOf, owned } from './core.js';
import { aborted, internal, toUvitError, type UvitError } from './errors.js';
import { fetchBytes, fetchText } from './fetch.js';
import { holdForLife, lifeName } from './life.js';
import { type Part, Parts, plannedWorkers } from './parts.js';
import type { CoreLoadOptions, FromWorker, Request, ResultMetadata } from './protocol.js';
import { readRecords, writeRecords } from './records.js';
import { type Runtime, refusal, startRuntime } from './runtime.js';
import type { LoadProgress, PipelineInfo, Port } from './types.js';
import type { Outputs, Tensors, WasmPipeline } from './uvit_web.js';
import { cpuFacts } from './variant.js';

type LoadRequest = Extract<Request, { type: 'load' }>;
type Call = Extract<Request, { type: 'generate' | 'forward' | 'profile' }>;
type GenerateCall = Extract<Request, { type: 'generate' }>;
type ForwardCall = Extract<Request, { type: 'forward' }>;

/** The component that is sampled. */
const DENOISER = 'denoiser';

let pipeline: WasmPipeline | undefined;
let info: PipelineInfo | undefined;
let parts: Parts | undefined;
const queue: Call[] = [];
let running: { id: number; stop: AbortController } | undefined;

self.onmessage = (message: MessageEvent<Request>) => {
  const request = message.data;
  switch (request.type) {
    case 'capabilities':
      void answer(request.id, () => reportCapabilities(request.id));
      break;
    case 'load':
      void answer(request.id, () => loadModel(request));
      break;
    case 'generate':
    case 'forward':
    case 'profile':
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

async function reportCapabilities(id: number): Promise<void> {
  const { core } = await startRuntime({ device: 'webgpu', wasm: 'auto' });
  send({ type: 'capabilities', id, capabilities: { ...JSON.parse(await core.capabilities()), cpu: cpuFacts() } });
}

/** Lets the page notice if a worker is gone that this one cannot do without: a thread, or itself. */
function live(locks: string[]): void {
  for (const lock of locks) send({ type: 'alive', lock });
}

async function loadModel({ id, manifestUrl, options }: LoadRequest): Promise<void> {
  const progress: LoadProgress = { phase: 'runtime', loadedBytes: 0, totalBytes: 0 };
  const report = (changes: Partial<LoadProgress>) => {
    Object.assign(progress, changes);
    send({ type: 'progress', id, progress });
  };
  report({});
  const lock = lifeName();
  await holdForLife(lock);
  live([lock]);
  const runtime = await startRuntime(options, live);
  report({ phase: 'manifest' });
  const manifest = await fetchText(manifestUrl);
  const bring = ({ file, bytes }: StoredFile, onProgress: (received: number) => void) =>
    fetchBytes(new URL(file, manifestUrl).href, bytes, onProgress);
  /** A device that fails does so mostly over the first file, or before: the next one takes what has come. */
  let last: { file: string; data: Promise<Uint8Array> } | undefined;
  const fetchFile = async (needed: NeededFile, before: number) => {
    if (last?.file !== needed.file) {
      const data = bring(needed, (received) => report({ loadedBytes: before + received }));
      last = { file: needed.file, data };
    }
    const data = await last.data;
    report({ loadedBytes: before + needed.bytes });
    return data;
  };
  const model = { id, manifest, options, report, bring, fetchFile };
  try {
    await loadOn(runtime, model);
  } catch (thrown) {
    const reason = refusal(options, runtime, thrown);
    if (reason === undefined) throw thrown;
    console.warn(`uvit-web: goes on without ${runtime.variant}: ${reason}`);
    report({ phase: 'runtime', loadedBytes: 0 });
    await loadOn(await startRuntime(options, live, reason), model);
  }
}

/** A model on its way, whatever device takes it. */
interface Arriving {
  /** The request's. */
  id: number;
  manifest: string;
  options: CoreLoadOptions;
  report(changes: Partial<LoadProgress>): void;
  bring(stored: StoredFile, onProgress: (received: number) => void): Promise<Uint8Array>;
  /** With progress, after so many bytes of other files. */
  fetchFile(needed: NeededFile, before: number): Promise<Uint8Array>;
}

async function loadOn(runtime: Runtime, model: Arriving): Promise<void> {
  const { id, manifest, options, report, bring, fetchFile } = model;
  const { device, dtype, compute, tune, keepLoaded, tiling } = options;
  const { core, variant, threads, reason } = runtime;
  const asked = { device, reason, dtype, compute, threads, tune, keepLoaded, tiling };
  const files: NeededFile[] = JSON.parse(core.files(manifest, JSON.stringify(asked)));
  const sizeOf = (some: NeededFile[]) => some.reduce((sum, { bytes }) => sum + bytes, 0);
  report({ phase: 'weights', totalBytes: sizeOf(files) });
  // Helpers compute forwards of the denoiser, and nothing else.
  const ofDenoiser = files.filter(({ of }) => of === DENOISER);
  const workers = variant === 'webgpu' || ofDenoiser.length === 0 ? 1 : affordableWorkers(runtime, sizeOf(ofDenoiser));
  /** What the helpers will need; where there are to be none, nothing is kept. */
  const kept: Uint8Array[] = [];
  // The device opens, compiles and is tested while the first weights are on their way.
  const open = async () => {
    const records = variant === 'webgpu' ? await readRecords() : undefined;
    return core.Loader.create(manifest, JSON.stringify({ ...asked, records }));
  };
  const opening = open();
  for (const [index, needed] of files.entries()) {
    const [loader, data] = await Promise.all([opening, fetchFile(needed, sizeOf(files.slice(0, index)))]);
    await loader.addFile(index, data).catch((thrown: unknown) => {
      loader.free();
      throw thrown;
    });
    if (workers > 1 && needed.of === DENOISER) kept.push(data);
  }
  report({ phase: 'compile' });
  pipeline = await (await opening).finish((json) => bring(JSON.parse(json), () => {}));
  const found: PipelineInfo & { tuned?: { records?: string } | null } = JSON.parse(pipeline.info());
  if (found.tuned?.records) {
    await writeRecords(found.tuned.records);
    delete found.tuned.records;
  }
  for (const { error } of found.tuned?.trials ?? []) {
    if (error) console.warn(`uvit-web: a variant of the kernels is not used here: ${error}`);
  }
  const ports = found.components.find(({ name }) => name === DENOISER)?.ports ?? [];
  info = { ...found, ports, wasm: variant, threads, workers };
  send({ type: 'loaded', id, info });
  if (workers > 1) startParts(runtime, manifest, info, kept);
}

interface StoredFile {
  file: string;
  bytes: number;
}

interface NeededFile extends StoredFile {
  /** The component, or the asset. */
  of: string;
}

/** How many workers may share the items of a batch, if the CPU is to compute them. */
function affordableWorkers({ variant, wanted }: Runtime, weightBytes: number): number {
  // Threads share the work inside a forward already. Some browsers do not let a worker start others.
  if (variant === 'threads' || typeof Worker !== 'function') return 1;
  // Not in TypeScript's library, nor in every browser.
  const { deviceMemory } = navigator as { deviceMemory?: number };
  return plannedWorkers(wanted, navigator.hardwareConcurrency || 1, weightBytes, deviceMemory);
}

/** Starts the helpers once the model is ready, so that they delay nothing: `generate()` waits for them if it must. */
function startParts(runtime: Runtime, manifest: string, found: PipelineInfo, files: Uint8Array[]): void {
  const { dtype, compute, workers } = found;
  const options = JSON.stringify({ device: 'cpu', dtype, compute, threads: 1, onlyDenoiser: true });
  const load = { variant: runtime.variant, manifest, options, files };
  parts = new Parts(workers - 1, runtime, load, (left) => send({ type: 'workers', workers: left + 1 }));
}

/** Runs queued calls, in order, until there are none. */
async function drain(): Promise<void> {
  if (running) return;
  for (let next = queue.shift(); next; next = queue.shift()) {
    const call = next;
    const stop = new AbortController();
    running = { id: call.id, stop };
    await answer(call.id, () => work(call, stop.signal));
    running = undefined;
  }
}

function work(call: Call, stop: AbortSignal): Promise<void> {
  switch (call.type) {
    case 'generate':
      return generate(call, stop);
    case 'forward':
      return forward(call, stop);
    case 'profile':
      return profile(call.id, call.count);
  }
}

async function profile(id: number, count: number): Promise<void> {
  if (!pipeline) throw internal('profile came before a model was loaded');
  // Builds for the CPU have none.
  const json = info?.device === 'webgpu' ? await pipeline.profile(count) : 'null';
  send({ type: 'profile', id, profile: JSON.parse(json) });
}

async function forward({ id, component, tensors }: ForwardCall, stop: AbortSignal): Promise<void> {
  if (!pipeline || !info) throw internal('forward came before a model was loaded');
  const items = component === DENOISER ? itemsOf(tensors, info.ports) : 1;
  const team = await helpers(items, stop);
  if (team.length === 0) {
    const outputs = await pipeline.forward(component, tensors);
    send({ type: 'tensors', id, tensors: outputs }, buffersOf(outputs));
    return;
  }
  /** Items for the k-th of the workers: as even as can be. */
  const share = (k: number): Tensors => {
    const [from, to] = [k, k + 1].map((at) => Math.round((at * items) / (team.length + 1))) as [number, number];
    const rows = ([name, values]: [string, Tensors[string]]) => {
      const size = values.length / items;
      return [name, values.slice(from * size, to * size)] as const;
    };
    return Object.fromEntries(Object.entries(tensors).map(rows));
  };
  const outcomes = await Promise.allSettled([
    pipeline.forward(component, share(0)),
    ...team.map((part, k) => part.forward(share(k + 1))),
  ]);
  const shares = outcomes.map((outcome) => {
    if (outcome.status === 'rejected') throw outcome.reason;
    return outcome.value;
  });
  const outputs: Outputs = {};
  for (const name of Object.keys(shares[0] ?? {})) {
    outputs[name] = joined(shares.map((values) => values[name] ?? new Float32Array()));
  }
  send({ type: 'tensors', id, tensors: outputs }, buffersOf(outputs));
}

/** How many items tensors hold that fit the network's ports; 1 where they do not, which the core then refuses. */
function itemsOf(tensors: Tensors, ports: Port[]): number {
  const counts = ports
    .filter((port) => port.kind !== 'output')
    .map(({ name, shape }) => (tensors[name]?.length ?? 0) / shape.reduce((product, n) => product * n, 1));
  const [first] = counts;
  return first && Number.isInteger(first) && counts.every((count) => count === first) ? first : 1;
}

function joined(parts: Float32Array[]): Float32Array<ArrayBuffer> {
  const all = new Float32Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    all.set(part, at);
    at += part.length;
  }
  return all;
}

/** The helpers that take a part of so many items, ready to work. */
async function helpers(items: number, stop: AbortSignal): Promise<Part[]> {
  if (items < 2 || !parts) return [];
  const stopped = new Promise<never>((_, reject) => {
    stop.addEventListener('abort', () => reject(aborted('This generation')), { once: true });
  });
  // An abort after this moment is somebody else's to act on.
  stopped.catch(() => {});
  return Promise.race([parts.team(items - 1), stopped]);
}

/** How many forwards a step takes for each item. */
function branches({ options, arrays }: GenerateCall, { defaults, modes }: PipelineInfo): number {
  const { mode, prompt, guidanceScale = defaults.guidanceScale } = options;
  if (guidanceScale === 1 || mode === 'i' || mode === 't') return 1;
  const nothing = prompt === undefined && !arrays.image && !arrays.imageRgba;
  return mode === 'joint' || (!mode && modes.includes('joint') && nothing) ? 3 : 2;
}

async function generate(call: GenerateCall, stop: AbortSignal): Promise<void> {
  const { id, options, arrays } = call;
  if (!pipeline || !info) throw internal('generate came before a model was loaded');
  const team = await helpers(options.count * branches(call, info), stop);
  stop.addEventListener('abort', () => {
    pipeline?.abort();
    for (const part of team) part.abort();
  });
  /** What a helper died of: the core may word it in its own way. */
  let lost: UvitError | undefined;
  const remote = (worker: number, tensors: Tensors) => {
    const part = team[worker - 1];
    const work = part ? part.forward(tensors) : Promise.reject(internal(`there is no worker ${worker}`));
    // The core may have stopped listening; that is no crash.
    work.catch((error: UvitError) => {
      lost ??= error;
    });
    return work;
  };
  const onStep = (json: string, bytes?: Uint8Array) => {
    const preview = bytes && owned(bytes);
    send({ type: 'step', id, ...JSON.parse(json), ...(preview && { preview }) }, preview ? [preview.buffer] : []);
  };
  const workers = team.length + 1;
  const result = await pipeline
    .generate(JSON.stringify(options), arrays, onStep, workers, remote)
    .catch((thrown: unknown) => {
      for (const part of team) part.abort();
      throw stop.aborted ? aborted('This generation') : (lost ?? thrown);
    });
  const metadata: ResultMetadata = { workers, ...JSON.parse(result.metadata()) };
  const rgba = owned(result.rgba());
  const floats = options.floatPixels ? owned(result.floats()) : undefined;
  const latents = options.latents ? result.latents() : undefined;
  result.free();
  send({ type: 'result', id, metadata, rgba, ...(floats && { floats }), ...(latents && { latents }) }, [
    rgba.buffer,
    ...(floats ? [floats.buffer] : []),
    ...buffersOf(latents ?? {}),
  ]);
}

function abort(id: number): void {
  if (id === running?.id) {
    running.stop.abort();
    return;
  }
  const place = queue.findIndex((call) => call.id === id);
  if (place < 0) return;
  queue.splice(place, 1);
  send({ type: 'error', id, error: aborted('This generation').parts() });
}

function send(message: FromWorker, transfer: Transferable[] = []): void {
  self.postMessage(message, { transfer });
}
