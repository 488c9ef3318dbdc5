/** A helper worker: loads the model from bytes that it is given and computes forwards, one after the other. */

import { buffersOf, startCore } from './core.js';
import { internal, toUvitError } from './errors.js';
import { holdForLife, lifeName } from './life.js';
import type { FromPart, PartLoad, ToPart } from './parts.js';
import type { WasmPipeline } from './uvit_web.js';

type ForwardRequest = Extract<ToPart, { type: 'forward' }>;

let pipeline: WasmPipeline | undefined;
/** The end of the forward before this one: the core runs one at a time. */
let last: Promise<void> = Promise.resolve();
/** Forwards up to this one were given up. */
let given = 0;
let newest = 0;

self.onmessage = ({ data }: MessageEvent<ToPart>) => {
  switch (data.type) {
    case 'load':
      void load(data);
      break;
    case 'forward':
      newest = data.id;
      last = last.then(() => forward(data));
      break;
    case 'abort':
      given = newest;
      pipeline?.abort();
      break;
  }
};

async function load({ variant, module, manifest, options, files }: PartLoad): Promise<void> {
  const lock = lifeName();
  await holdForLife(lock);
  send({ type: 'alive', lock });
  try {
    const { core } = await startCore(variant, module);
    const loader = await core.Loader.create(manifest, options);
    for (const [index, bytes] of files.entries()) await loader.addFile(index, bytes);
    // It has all that a forward needs.
    pipeline = await loader.finish(() => Promise.reject(internal('a helper brings no files')));
    send({ type: 'loaded' });
  } catch (thrown) {
    send({ type: 'error', error: toUvitError(thrown).parts() });
  }
}

async function forward({ id, tensors: inputs }: ForwardRequest): Promise<void> {
  if (!pipeline || id <= given) return;
  try {
    const tensors = await pipeline.forward('denoiser', inputs);
    send({ type: 'tensors', id, tensors }, buffersOf(tensors));
  } catch (thrown) {
    send({ type: 'error', id, error: toUvitError(thrown).parts() });
  }
}

function send(message: FromPart, transfer: Transferable[] = []): void {
  self.postMessage(message, { transfer });
}
