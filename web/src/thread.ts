/** One thread of the pool: it enters the shared memory and then runs what the pool hands it, for as long as it lives. */

import { importGlue } from './core.js';
import { holdForLife, lifeName } from './life.js';
import type { ThreadStart } from './pool.js';

self.onmessage = async ({ data }: MessageEvent<ThreadStart>) => {
  const core = await importGlue(data.glue);
  await core.default({ module_or_path: data.module, memory: data.memory });
  const lock = lifeName();
  const release = await holdForLife(lock);
  self.postMessage(lock);
  try {
    // Returns when the pool ends, which is never: from here on no message is seen.
    core.wbg_rayon_start_worker?.(data.receiver);
  } finally {
    // It trapped. Whoever waits for its work cannot be told, for it waits in the shared memory; the page can.
    release();
  }
};

// A rejection is not an error event by itself; this makes it one, which the pool's owner sees.
self.onunhandledrejection = (event) => {
  setTimeout(() => {
    throw event.reason;
  });
};
