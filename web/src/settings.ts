/**
 * Checks that need no model: types, and numbers that JSON cannot carry (NaN would silently become null). What
 * depends on the model (labels, steps, samplers) is the core's to check, with the same code.
 */

import { invalidArgument } from './errors.js';
import type { CoreGenerateOptions } from './protocol.js';
import type { DeviceChoice, Dtype, GenerateOptions } from './types.js';

const DEVICES: readonly DeviceChoice[] = ['auto', 'webgpu', 'cpu'];
const DTYPES: readonly Dtype[] = ['f32', 'f16', 'q8', 'q4'];
const SEEDS = 2 ** 32;

/** The device and dtype of `load()`. */
export function checkLoadOptions(options: { device?: unknown; dtype?: unknown }): {
  device: DeviceChoice;
  dtype?: Dtype;
} {
  const device = options.device ?? 'auto';
  if (!DEVICES.includes(device as DeviceChoice)) {
    throw invalidArgument(`device is ${show(device)}`, `Use one of ${DEVICES.join(', ')}`);
  }
  if (options.dtype === undefined) return { device: device as DeviceChoice };
  if (!DTYPES.includes(options.dtype as Dtype)) {
    throw invalidArgument(`dtype is ${show(options.dtype)}`, `Use one of ${DTYPES.join(', ')}`);
  }
  return { device: device as DeviceChoice, dtype: options.dtype as Dtype };
}

/** What the core gets for the options of `generate()`; a missing seed is drawn here. */
export function coreOptions(options: GenerateOptions): CoreGenerateOptions {
  const { label, steps, guidanceScale, sampler, startLatents } = options;
  const count = options.count ?? 1;
  if (label !== undefined && typeof label !== 'string') whole('label', label, 0, Number.MAX_SAFE_INTEGER);
  if (steps !== undefined) whole('steps', steps, 1, Number.MAX_SAFE_INTEGER);
  whole('count', count, 1, Number.MAX_SAFE_INTEGER);
  if (guidanceScale !== undefined && !Number.isFinite(guidanceScale)) {
    throw invalidArgument(`guidanceScale is ${show(guidanceScale)}`, 'Give a finite number; 1 switches guidance off');
  }
  if (options.seed !== undefined) whole('seed', options.seed, 0, SEEDS - 1);
  if (sampler !== undefined && typeof sampler !== 'string') {
    throw invalidArgument(`sampler is ${show(sampler)}`, 'Give one of pipeline.info.samplers');
  }
  if (startLatents !== undefined && !(startLatents instanceof Float32Array)) {
    throw invalidArgument('startLatents is not a Float32Array', 'Give [count, channels, height, width] values');
  }
  if (options.onStep !== undefined && typeof options.onStep !== 'function') {
    throw invalidArgument('onStep is not a function', 'Give a function of one argument, or leave it out');
  }
  return {
    ...(label !== undefined && { label }),
    ...(steps !== undefined && { steps }),
    ...(guidanceScale !== undefined && { guidanceScale }),
    ...(sampler !== undefined && { sampler }),
    seed: options.seed ?? randomSeed(count),
    count,
    // A preview that nobody listens for would cost a readback a step for nothing.
    preview: options.preview === true && options.onStep !== undefined,
    floatPixels: options.floatPixels === true,
  };
}

/** A seed such that seed + k is a seed for each of the pictures. */
function randomSeed(count: number): number {
  const word = crypto.getRandomValues(new Uint32Array(1))[0] ?? 0;
  return Math.max(0, Math.min(word, SEEDS - count));
}

function whole(name: string, value: unknown, least: number, most: number): void {
  if (Number.isInteger(value) && (value as number) >= least && (value as number) <= most) return;
  const range = most === Number.MAX_SAFE_INTEGER ? `at least ${least}` : `${least} to ${most}`;
  throw invalidArgument(`${name} is ${show(value)}`, `Give a whole number, ${range}`);
}

function show(value: unknown): string {
  return typeof value === 'string' ? JSON.stringify(value) : String(value);
}
