/**
 * The thread pool of the `threads` build. wasm-bindgen-rayon brings a starter of its own, which asks for a blob as a
 * worker's script and cannot be bundled; the package's build puts this one in its place (see build.mjs).
 */

import type { StartedCore } from './core.js';
import { internal } from './errors.js';

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

/**
 * Starts `count` threads; rejects where the browser refuses one, and ends those that had started. `onStarted` gets the
 * locks that they hold: from then on this worker waits for them in the shared memory, and sees nothing else.
 */
export async function startPool(
  { core }: StartedCore,
  count: number,
  onStarted: (locks: string[]) => void,
): Promise<void> {
  const { setStartWorkers, initThreadPool } = core;
  if (!setStartWorkers || !initThreadPool) throw internal('this build of the core has no threads');
  setStartWorkers(async (module, memory, builder) => {
    const start: ThreadStart = { glue: builder.mainJS(), module, memory, receiver: builder.receiver() };
    onStarted(await Promise.all(Array.from({ length: builder.numThreads() }, () => startThread(start))));
    builder.build();
  });
  try {
    await initThreadPool(count);
  } catch (thrown) {
    for (const thread of threads.splice(0)) thread.terminate();
    throw thrown;
  }
}

/** Resolves with the thread's lock. */
function startThread(start: ThreadStart): Promise<string> {
  return new Promise((resolve, reject) => {
    const thread = new Worker(new URL('./thread.js', import.meta.url), { type: 'module' });
    threads.push(thread);
    thread.onmessage = (message: MessageEvent<string>) => resolve(message.data);
    thread.onerror = (event) => {
      event.preventDefault();
      reject(internal(`a thread could not be started (${event.message || 'its script could not be loaded'})`));
    };
    thread.postMessage(start);
  });
}
