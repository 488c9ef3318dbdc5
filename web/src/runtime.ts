/** Starts the best build of the wasm core that this browser runs, with its pool of threads where it has one. */

import { type StartedCore, startCore } from './core.js';
import { toUvitError } from './errors.js';
import { startPool } from './pool.js';
import type { CoreLoadOptions } from './protocol.js';
import type { DeviceChoice, WasmVariant } from './types.js';
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
  /** The device to ask the core for. */
  device: DeviceChoice;
  /** Why the CPU, where that was decided here. */
  reason?: string;
}

/**
 * Starts the build that is asked for; `auto` goes on to the next best where one does not start. `onThreads` gets the
 * locks of the pool's threads as soon as they are there.
 */
export async function startRuntime(
  options: CoreLoadOptions,
  onThreads: (locks: string[]) => void = () => {},
): Promise<Runtime> {
  const cpu = cpuFacts();
  const wanted = Math.min(options.threads ?? cpu.hardwareConcurrency, MOST_THREADS);
  const threadable = variantsFor(options.wasm, cpu);
  // The build with threads has no GPU device: where one is to be had, another build is the right one.
  const noGpu = threadable[0] === 'threads' && options.device === 'auto' ? await whyNoGpu() : undefined;
  const withGpu = options.device === 'webgpu' || (options.device === 'auto' && noGpu === undefined);
  const others = threadable.filter((variant) => variant !== 'threads');
  const variants = withGpu && others.length > 0 ? others : threadable;
  for (const [place, variant] of variants.entries()) {
    try {
      const started = await startCore(variant);
      const threads = variant === 'threads' ? await startThreads(started, wanted, onThreads) : 1;
      const chosen = noGpu === undefined ? { device: options.device } : { device: 'cpu' as const, reason: noGpu };
      return { ...started, ...chosen, variant, threads, wanted };
    } catch (thrown) {
      if (place === variants.length - 1) throw thrown;
      console.warn(`uvit-web: goes on without ${variant}: ${toUvitError(thrown).cause}`);
    }
  }
  throw new Error('there is always a last variant');
}

/** Why `auto` takes the CPU, or nothing if there is a real GPU. */
async function whyNoGpu(): Promise<string | undefined> {
  const adapter = await navigator.gpu?.requestAdapter().catch(() => null);
  if (!adapter) return 'this browser offers no WebGPU adapter';
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
