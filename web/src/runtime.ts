/** Starts the best build of the wasm core for a device that this browser has, with its pool of threads where it has one. */

import { type StartedCore, startCore } from './core.js';
import { type ErrorCode, toUvitError } from './errors.js';
import { startPool } from './pool.js';
import type { CoreLoadOptions } from './protocol.js';
import type { WasmVariant } from './types.js';
import { cpuFacts, variantsFor } from './variant.js';

/** More threads than this gain little on matrices as small as a picture's. */
const MOST_THREADS = 8;

/** A core that runs. */
export interface Runtime extends StartedCore {
  variant: WasmVariant;
  /** Threads in the pool; 1 without one. */
  threads: number;
  /** Threads or workers that the CPU device may use. */
  wanted: number;
  /** Why the CPU, where `auto` took it. */
  reason?: string;
}

/** Of a GPU, not of the model or of what was asked for: with these, `auto` goes on with the CPU. */
const OF_GPUS: readonly ErrorCode[] = [
  'NO_WEBGPU',
  'INSECURE_CONTEXT',
  'LIMIT_TOO_SMALL',
  'SHADER_FAILED',
  'WRONG_RESULT',
  'DEVICE_LOST',
  'OUT_OF_MEMORY',
];

/**
 * Starts the build for the device that is asked for; `auto` goes on to the next best where one does not start. `onThreads`
 * gets the locks of the pool's threads as soon as they are there. `refused` says why no GPU, where that is known.
 */
export async function startRuntime(
  { device, wasm, threads: most }: CoreLoadOptions,
  onThreads: (locks: string[]) => void = () => {},
  refused?: string,
): Promise<Runtime> {
  const cpu = cpuFacts();
  const wanted = Math.min(most ?? cpu.hardwareConcurrency, MOST_THREADS);
  let variants = variantsFor(wasm, device, cpu);
  let reason = refused;
  if (device === 'auto' && wasm !== 'webgpu') {
    reason ??= wasm === 'auto' ? await whyNoGpu() : `the build ${wasm} was asked for, which is the CPU's`;
    if (reason !== undefined) variants = variants.filter((variant) => variant !== 'webgpu');
  }
  for (const [place, variant] of variants.entries()) {
    try {
      const started = await startCore(variant);
      const threads = variant === 'threads' ? await startThreads(started, wanted, onThreads) : 1;
      return { ...started, variant, threads, wanted, ...(reason !== undefined && { reason }) };
    } catch (thrown) {
      if (place === variants.length - 1) throw thrown;
      const { cause } = toUvitError(thrown);
      if (variant === 'webgpu') reason = cause;
      console.warn(`uvit-web: goes on without ${variant}: ${cause}`);
    }
  }
  throw new Error('there is always a last variant');
}

/** Why `auto` goes on with the CPU after loading on a GPU has failed so; nothing if the CPU would not help, or was ruled out. */
export function refusal({ device, wasm }: CoreLoadOptions, { variant }: Runtime, thrown: unknown): string | undefined {
  const { code, cause } = toUvitError(thrown);
  const other = device === 'auto' && wasm === 'auto' && variant === 'webgpu';
  return other && OF_GPUS.includes(code) ? cause : undefined;
}

/** Why `auto` takes the CPU, or nothing if there is a real GPU. The sentences are those of the core (`src/pipeline/device.rs`). */
async function whyNoGpu(): Promise<string | undefined> {
  const { gpu } = navigator;
  if (!gpu) {
    return isSecureContext
      ? 'this browser has no WebGPU'
      : 'this page is no secure context (https or localhost), so the browser hides WebGPU';
  }
  // As the core asks for it.
  const adapter = await gpu.requestAdapter({ powerPreference: 'high-performance' }).catch(() => null);
  if (!adapter) return 'there is no GPU adapter';
  // Older browsers have it on the adapter itself.
  const { isFallbackAdapter } = adapter as { isFallbackAdapter?: boolean };
  const { info } = adapter as { info?: { isFallbackAdapter?: boolean } };
  if (!(info?.isFallbackAdapter ?? isFallbackAdapter)) return undefined;
  return 'the only GPU adapter is a software one, which is slower than the CPU itself';
}

/** The pool has to be there before the core first computes on the CPU. */
async function startThreads(
  started: StartedCore,
  wanted: number,
  onThreads: (locks: string[]) => void,
): Promise<number> {
  if (wanted < 2) return 1;
  await startPool(started, wanted, onThreads);
  return wanted;
}
