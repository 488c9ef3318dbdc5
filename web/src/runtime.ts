/** Starts the best build of the wasm core that this browser runs, with its pool of threads where it has one. */

import { type StartedCore, startCore } from './core.js';
import { toUvitError } from './errors.js';
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
  const variants = variantsFor(options.wasm, cpu);
  for (const [place, variant] of variants.entries()) {
    try {
      const started = await startCore(variant);
      const threads = variant === 'threads' ? await startThreads(started, options, wanted, onThreads) : 1;
      return { ...started, variant, threads, wanted };
    } catch (thrown) {
      if (place === variants.length - 1) throw thrown;
      console.warn(`uvit-web: goes on without ${variant}: ${toUvitError(thrown).cause}`);
    }
  }
  throw new Error('there is always a last variant');
}

/** The pool has to be there before the core first computes on the CPU; a GPU needs none. */
async function startThreads(
  started: StartedCore,
  { device }: CoreLoadOptions,
  wanted: number,
  onThreads: (locks: string[]) => void,
): Promise<number> {
  if (wanted < 2 || device === 'webgpu') return 1;
  if (device === 'auto' && JSON.parse(await started.core.capabilities()).auto.device === 'webgpu') return 1;
  await startPool(started, wanted, onThreads);
  return wanted;
}
