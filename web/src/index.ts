/**
 * U-ViT diffusion models in the browser.
 *
 * ```ts
 * import { load } from 'uvit-web';
 *
 * const pipeline = await load('models/emoji/manifest.json');
 * const { images } = await pipeline.generate({ label: 'heart (noto)', seed: 7 });
 * context.putImageData(images[0].imageData, 0, 0);
 * ```
 *
 * The runtime lives in a worker of its own: the page never blocks, and an abort takes effect within a step.
 */

import { Client } from './client.js';
import { aborted, internal, toUvitError } from './errors.js';
import { Pipeline } from './pipeline.js';
import { checkNeeds } from './platform.js';
import { checked, checkLoadOptions, checkUrl } from './settings.js';
import type { Capabilities, LoadOptions } from './types.js';

export type { ErrorCode } from './errors.js';
export { UvitError } from './errors.js';
export type { Pipeline } from './pipeline.js';
export type * from './types.js';

/**
 * Fetches a model and makes it ready on a device. `manifestUrl` is relative to the page (in a worker, to its script);
 * shards lie beside the manifest. Each loaded pipeline has a worker, a device and memory of its own until `dispose()`.
 */
export async function load(manifestUrl: string | URL, options: LoadOptions = {}): Promise<Pipeline> {
  checkNeeds();
  const { url, core, signal, onProgress } = checked(() => {
    const { signal, onProgress } = options;
    return { url: checkUrl(manifestUrl), core: checkLoadOptions(options), signal, onProgress };
  });
  if (signal?.aborted) throw aborted('Loading');
  const client = startClient();
  const onAbort = () => client.close(aborted('Loading'));
  signal?.addEventListener('abort', onAbort, { once: true });
  try {
    const answer = await client.request(
      { type: 'load', id: client.nextId(), manifestUrl: url, options: core },
      (event) => {
        if (event.type === 'progress') onProgress?.(event.progress);
      },
    );
    if (answer.type !== 'loaded') throw internal(`the worker answered load with ${answer.type}`);
    return new Pipeline(client, answer.info);
  } catch (thrown) {
    const error = toUvitError(thrown);
    client.close(error);
    throw error;
  } finally {
    signal?.removeEventListener('abort', onAbort);
  }
}

/** What this browser can run, without loading a model; rejects with `SIMD_UNSUPPORTED` where nothing can. */
export async function capabilities(): Promise<Capabilities> {
  checkNeeds();
  const client = startClient();
  try {
    const answer = await client.request({ type: 'capabilities', id: client.nextId() }, () => {});
    if (answer.type !== 'capabilities') throw internal(`the worker answered capabilities with ${answer.type}`);
    return answer.capabilities;
  } finally {
    client.close(internal('capabilities() has ended'));
  }
}

function startClient(): Client {
  try {
    return new Client();
  } catch (thrown) {
    throw toUvitError(thrown);
  }
}
