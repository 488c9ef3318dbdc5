/**
 * Checks that need no model: types, and numbers that JSON cannot carry (NaN would silently become null). What
 * depends on the model (labels, steps, samplers) is the core's to check, with the same code.
 */

import { invalidArgument, toUvitError, UvitError } from './errors.js';
import type { CoreGenerateOptions, CoreLoadOptions } from './protocol.js';
import type {
  Component,
  ComputeChoice,
  DeviceChoice,
  Dtype,
  ForwardOptions,
  ForwardTensors,
  GenerateOptions,
  LoadOptions,
  Mode,
  Port,
  Preset,
  TuneChoice,
  VariationOptions,
  WasmChoice,
} from './types.js';
import type { Tensors } from './uvit_web.js';

const DEVICES: readonly DeviceChoice[] = ['auto', 'webgpu', 'cpu'];
const DTYPES: readonly Dtype[] = ['f32', 'f16', 'q8', 'q4'];
const COMPUTE: readonly ComputeChoice[] = ['auto', 'f32', 'quality', 'fast', 'f16', 'w8a8'];
const PRESETS: readonly Preset[] = ['fast', 'draft'];
const MODES: readonly Mode[] = ['t2i', 'i2t', 'joint', 'i', 't', 'i2t2i', 't2i2t'];
const TUNE: readonly TuneChoice[] = ['auto', 'off', 'again'];
const WASM: readonly WasmChoice[] = ['auto', 'webgpu', 'simd128', 'relaxed-simd', 'threads'];
const SEEDS = 2 ** 32;

/** What `check` gives; what it throws is about the arguments, and so is what they themselves throw when they are read. */
export function checked<T>(check: () => T): T {
  try {
    return check();
  } catch (thrown) {
    if (thrown instanceof UvitError) throw thrown;
    throw invalidArgument(
      `the arguments cannot be read (${toUvitError(thrown).cause})`,
      'Give a plain object of options, or leave it out',
    );
  }
}

/** The address of a manifest, in full. */
export function checkUrl(url: unknown): string {
  const remedy = 'Give the URL of a manifest.json';
  if (typeof url !== 'string' && !(url instanceof URL)) throw invalidArgument(`manifestUrl is ${show(url)}`, remedy);
  // Workers have no document: there, addresses are relative to their script.
  const base = globalThis.document?.baseURI ?? location.href;
  try {
    return new URL(url, base).href;
  } catch {
    throw invalidArgument(`manifestUrl is ${show(String(url))}, and addresses here are relative to ${base}`, remedy);
  }
}

/** The options of `load()`, checked. */
export function checkLoadOptions(options: LoadOptions): CoreLoadOptions {
  object(options);
  const {
    device = 'auto',
    wasm = 'auto',
    dtype,
    compute,
    threads,
    tune,
    keepLoaded,
    tiling,
    signal,
    onProgress,
  } = options;
  oneOf('device', device, DEVICES);
  oneOf('wasm', wasm, WASM);
  if (dtype !== undefined) oneOf('dtype', dtype, DTYPES);
  if (compute !== undefined) oneOf('compute', compute, COMPUTE);
  if (tune !== undefined) oneOf('tune', tune, TUNE);
  if (threads !== undefined) whole('threads', threads, 1, Number.MAX_SAFE_INTEGER);
  aFlag('keepLoaded', keepLoaded);
  aFlag('tiling', tiling);
  aSignal(signal);
  aFunction('onProgress', onProgress);
  return {
    device,
    wasm,
    ...(dtype !== undefined && { dtype }),
    ...(compute !== undefined && { compute }),
    ...(threads !== undefined && { threads }),
    ...(tune !== undefined && { tune }),
    ...(keepLoaded !== undefined && { keepLoaded }),
    ...(tiling !== undefined && { tiling }),
  };
}

/** What the core gets for the arguments of `forward()`. */
export function checkForward(
  given: ForwardTensors,
  options: ForwardOptions,
  components: Component[],
): { component: string; tensors: Tensors } {
  object(given);
  object(options);
  const { component = 'denoiser' } = options;
  const names = components.map(({ name }) => name);
  oneOf('component', component, names);
  const ports = components[names.indexOf(component)]?.ports ?? [];
  const inputs = ports.filter((port) => port.kind !== 'output');
  const remedy = `Give ${inputs.map(({ name, shape }) => `${name} [${['n', ...shape].join(', ')}]`).join(', ')}`;
  const tensors: Tensors = {};
  let items = 0;
  for (const { name, kind, shape } of inputs) {
    const values = typed(name, kind, given[name], remedy);
    const count = values.length / shape.reduce((product, size) => product * size, 1);
    items ||= count;
    if (count < 1 || !Number.isInteger(count) || count !== items) {
      throw invalidArgument(`${name} has ${values.length} values`, remedy);
    }
    tensors[name] = values;
  }
  const stranger = Object.keys(given).find((name) => !(name in tensors) && given[name] !== undefined);
  if (stranger !== undefined) throw invalidArgument(`the network takes no tensor ${show(stranger)}`, remedy);
  return { component, tensors };
}

/** Values as the core takes those of a port, in a copy that may be transferred. */
function typed(name: string, kind: Port['kind'], values: unknown, remedy: string): Tensors[string] {
  if (values === undefined) throw invalidArgument(`there is no tensor ${name}`, remedy);
  if (kind === 'floats') {
    if (!(values instanceof Float32Array)) throw invalidArgument(`${name} is not a Float32Array`, remedy);
    return own(values);
  }
  if (kind === 'times') {
    if (!isNumbers(values, Float32Array, Float64Array)) {
      throw invalidArgument(`${name} is no list of numbers`, 'Give a Float32Array, a Float64Array or an array');
    }
    const times = Float64Array.from(values as number[]);
    const odd = times.find((time) => !Number.isFinite(time));
    if (odd !== undefined) throw invalidArgument(`${name} holds ${odd}`, 'Give finite numbers');
    return times;
  }
  if (!isNumbers(values, Uint32Array)) {
    throw invalidArgument(`${name} is no list of numbers`, 'Give a Uint32Array or an array');
  }
  for (const index of values as number[]) whole(name, index, 0, 2 ** 32 - 1);
  return Uint32Array.from(values as number[]);
}

/** What the core gets for the options of `generate()`; a missing seed is drawn here. */
export function coreOptions(options: GenerateOptions): CoreGenerateOptions {
  object(options);
  const { label, steps, guidanceScale, guidanceRescale, sampler, grid, eta, churn } = options;
  const { preset, guidanceInterval, strength, mode, beams, frames, overlap, count = 1 } = options;
  if (label !== undefined && typeof label !== 'string') whole('label', label, 0, Number.MAX_SAFE_INTEGER);
  if (steps !== undefined) whole('steps', steps, 1, Number.MAX_SAFE_INTEGER);
  whole('count', count, 1, Number.MAX_SAFE_INTEGER);
  for (const [name, value] of Object.entries({ beams, frames, overlap })) {
    if (value !== undefined) whole(name, value, 1, Number.MAX_SAFE_INTEGER);
  }
  for (const [name, value, remedy] of [
    ['guidanceScale', guidanceScale, 'Give a finite number; 1 switches guidance off'],
    ['guidanceRescale', guidanceRescale, 'Give a number from 0 to 1; 0 switches it off'],
    ['eta', eta, 'Give a number from 0 to 1'],
    ['churn', churn, 'Give a number of at least 0'],
    ['strength', strength, 'Give a number above 0, at most 1'],
  ] as const) {
    if (value !== undefined && !Number.isFinite(value)) throw invalidArgument(`${name} is ${show(value)}`, remedy);
  }
  if (options.seed !== undefined) whole('seed', options.seed, 0, SEEDS - 1);
  if (sampler !== undefined && typeof sampler !== 'string') {
    throw invalidArgument(`sampler is ${show(sampler)}`, 'Give one of pipeline.info.samplers');
  }
  if (grid !== undefined && typeof grid !== 'string') {
    throw invalidArgument(`grid is ${show(grid)}`, 'Give one of pipeline.info.grids');
  }
  if (preset !== undefined) oneOf('preset', preset, PRESETS);
  if (mode !== undefined) oneOf('mode', mode, MODES);
  if (guidanceInterval !== undefined && !isInterval(guidanceInterval)) {
    throw invalidArgument(
      `guidanceInterval is ${show(guidanceInterval)}`,
      'Give two numbers from 0 (the picture) to 1 (noise), the smaller first',
    );
  }
  aFunction('onStep', options.onStep);
  aFunction('onText', options.onText);
  aSignal(options.signal);
  for (const name of ['cache', 'preview', 'floatPixels', 'freshNoise', 'latents'] as const) {
    aFlag(name, options[name]);
  }
  const prompt = aPrompt('prompt', options.prompt);
  const prompt2 = aPrompt('prompt2', options.prompt2);
  const negativePrompt = aPrompt('negativePrompt', options.negativePrompt);
  return {
    ...(label !== undefined && { label }),
    ...(mode !== undefined && { mode }),
    ...(prompt !== undefined && { prompt }),
    ...(prompt2 !== undefined && { prompt2 }),
    ...(negativePrompt !== undefined && { negativePrompt }),
    ...(steps !== undefined && { steps }),
    ...(guidanceScale !== undefined && { guidanceScale }),
    ...(guidanceRescale !== undefined && { guidanceRescale }),
    ...(sampler !== undefined && { sampler }),
    ...(grid !== undefined && { grid }),
    ...(eta !== undefined && { eta }),
    ...(churn !== undefined && { churn }),
    ...(strength !== undefined && { strength }),
    ...(options.freshNoise && { freshNoise: true }),
    ...(preset !== undefined && { preset }),
    ...(beams !== undefined && { beams }),
    ...(frames !== undefined && { frames }),
    ...(overlap !== undefined && { overlap }),
    ...(options.latents && { latents: true }),
    ...(guidanceInterval !== undefined && { guidanceInterval }),
    cache: options.cache === true,
    seed: options.seed ?? randomSeed(count),
    count,
    // A preview that nobody listens for would cost a readback a step for nothing.
    preview: options.preview === true && options.onStep !== undefined,
    floatPixels: options.floatPixels === true,
  };
}

/** The options of `variations()` as those of `generate()`. */
export function variationOptions(options: VariationOptions): GenerateOptions {
  object(options);
  const mode = options.image !== undefined ? 'i2t2i' : 't2i2t';
  if ((options.image !== undefined) !== (options.prompt !== undefined)) return { ...options, mode };
  const given = options.image !== undefined ? 'both an image and a prompt' : 'neither an image nor a prompt';
  throw invalidArgument(`variations() got ${given}`, 'Give the one that is to be varied');
}

/** A seed such that seed + k is a seed for each of the pictures. */
function randomSeed(count: number): number {
  const word = crypto.getRandomValues(new Uint32Array(1))[0] ?? 0;
  return Math.max(0, Math.min(word, SEEDS - count));
}

function oneOf<T extends string>(name: string, value: T, allowed: readonly T[]): T {
  if (allowed.includes(value)) return value;
  throw invalidArgument(`${name} is ${show(value)}`, `Use one of ${allowed.join(', ')}`);
}

function isInterval(value: unknown): boolean {
  if (!Array.isArray(value) || value.length !== 2) return false;
  const [low, high] = value;
  return typeof low === 'number' && typeof high === 'number' && low >= 0 && low <= high && high <= 1;
}

function isNumbers(value: unknown, ...types: (new () => object)[]): boolean {
  if (Array.isArray(value)) return value.every((item) => typeof item === 'number');
  return types.some((type) => value instanceof type);
}

/** The value, if it is a whole number from `least` to `most`. */
export function whole(name: string, value: unknown, least: number, most: number): number {
  if (Number.isInteger(value) && (value as number) >= least && (value as number) <= most) return value as number;
  const range = most === Number.MAX_SAFE_INTEGER ? `at least ${least}` : `${least} to ${most}`;
  throw invalidArgument(`${name} is ${show(value)}`, `Give a whole number, ${range}`);
}

/** A copy that may be transferred: the caller keeps its own, which may lie in a memory that cannot leave. */
export function own(values: Float32Array): Float32Array<ArrayBuffer> {
  return new Float32Array(values);
}

function object(options: unknown): void {
  if (typeof options === 'object' && options !== null) return;
  throw invalidArgument(`the options are ${show(options)}`, 'Give an object, or leave it out');
}

function aFunction(name: string, value: unknown): void {
  if (value === undefined || typeof value === 'function') return;
  throw invalidArgument(`${name} is not a function`, 'Give a function of one argument, or leave it out');
}

function aFlag(name: string, value: unknown): void {
  if (value === undefined || typeof value === 'boolean') return;
  throw invalidArgument(`${name} is ${show(value)}`, 'Give true or false, or leave it out');
}

/** A text or several. Halves of a character that JSON cannot carry become the sign for what cannot be read. */
function aPrompt(name: string, value: unknown): string | string[] | undefined {
  const whole = (text: string) => text.replace(/\p{Surrogate}/gu, '\ufffd');
  if (value === undefined) return undefined;
  if (typeof value === 'string') return whole(value);
  if (Array.isArray(value) && value.every((text) => typeof text === 'string')) return value.map(whole);
  throw invalidArgument(`${name} is ${show(value)}`, 'Give a text, or an array with one for each picture');
}

function aSignal(value: unknown): void {
  // Another realm's is as good.
  const { aborted, addEventListener } = (value ?? {}) as Partial<AbortSignal>;
  if (value === undefined || (typeof aborted === 'boolean' && typeof addEventListener === 'function')) return;
  throw invalidArgument(`signal is ${show(value)}`, 'Give the signal of an AbortController, or leave it out');
}

function show(value: unknown): string {
  if (typeof value === 'string') return JSON.stringify(value.length > 80 ? `${value.slice(0, 80)}...` : value);
  return typeof value === 'object' && value !== null ? kindOf(value) : String(value);
}

/** Objects may refuse to become text. */
function kindOf(value: object): string {
  return Array.isArray(value) ? 'an array' : 'an object';
}
