/**
 * The thread pool of the `threads` build. wasm-bindgen-rayon brings a starter of its own, which asks for a blob as a
 * worker's script and cannot be bundled; the package's build puts this one in its place (see build.mjs).
 */

import type { StartedCore } from './core.js';
import { internal } from './errors.js';
import type { PoolBuilder } from './uvit_web.js';

/** What a thread is told when it starts. */
export interface ThreadStart {
  /** Address of the glue. */
  glue: string;
  module: WebAssembly.Module;
  memory: WebAssembly.Memory;
  /** Where in that memory the thread finds its orders. */
  receiver: number;
}

// Some browsers collect a worker that nobody holds, shared memory or not.
const threads: Worker[] = [];

/** Starts `count` threads; rejects where the browser refuses one, and ends those that had started. */
export async function startPool({ core }: StartedCore, count: number): Promise<void> {
  const { setStartWorkers, initThreadPool } = core;
  if (!setStartWorkers || !initThreadPool) throw internal('this build of the core has no threads');
  setStartWorkers(startWorkers);
  try {
    await initThreadPool(count);
  } catch (thrown) {
    for (const thread of threads.splice(0)) thread.terminate();
    throw thrown;
  }
}

async function startWorkers(
  module: WebAssembly.Module,
  memory: WebAssembly.Memory,
  builder: PoolBuilder,
): Promise<void> {
  const start: ThreadStart = { glue: builder.mainJS(), module, memory, receiver: builder.receiver() };
  await Promise.all(Array.from({ length: builder.numThreads() }, () => startThread(start)));
  builder.build();
}

function startThread(start: ThreadStart): Promise<void> {
  return new Promise((resolve, reject) => {
    const thread = new Worker(new URL('./thread.js', import.meta.url), { type: 'module' });
    threads.push(thread);
    thread.onmessage = () => resolve();
    thread.onerror = (event) =>
      reject(internal(`a thread could not be started (${event.message ?? 'no reason given'})`));
    thread.postMessage(start);
  });
}
