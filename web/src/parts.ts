/**
 * Helper workers for the CPU device: each has a copy of the weights and computes forwards for some items of a batch
 * (images, halves of guidance). They need no shared memory, hence no cross-origin isolation. The main worker owns
 * them; a helper that fails or dies is dropped, and the work goes on with fewer.
 */

import type { StartedCore } from './core.js';
import { aborted, toUvitError, UvitError } from './errors.js';
import { watchLife } from './life.js';
import type { WasmVariant } from './types.js';
import type { Outputs, Tensors } from './uvit_web.js';

/** What a helper needs to load the model. */
export interface PartLoad {
  type: 'load';
  variant: WasmVariant;
  module: WebAssembly.Module;
  manifest: string;
  /** As `Loader.create` takes them. */
  options: string;
  /** The denoiser's, in order. */
  files: Uint8Array[];
}

export type ToPart = PartLoad | { type: 'forward'; id: number; tensors: Tensors } | { type: 'abort' };

export type FromPart =
  | { type: 'alive'; lock: string }
  | { type: 'loaded' }
  | { type: 'tensors'; id: number; tensors: Outputs }
  /** Without an id: loading failed. */
  | { type: 'error'; id?: number; error: { code: string; cause: string; remedy: string } };

/** No more workers than this share a batch: each costs a copy of the weights. */
const MOST_WORKERS = 4;

/** How many workers may share a batch, the main one included; `deviceMemory` in GiB. */
export function plannedWorkers(
  threads: number,
  hardwareConcurrency: number,
  weightBytes: number,
  deviceMemory = 4,
): number {
  // All copies together take at most a quarter of the memory.
  const copies = Math.floor((deviceMemory * 2 ** 30) / 4 / Math.max(weightBytes, 1));
  return Math.max(1, Math.min(threads, hardwareConcurrency, MOST_WORKERS, copies));
}

/** The helpers of one loaded model. */
export class Parts {
  #parts: Part[] = [];
  readonly #ready: Promise<unknown>;

  /** Starts `count` helpers; `onLost` is told how many are left whenever one is gone. */
  constructor(
    count: number,
    { module }: StartedCore,
    load: Omit<PartLoad, 'type' | 'module'>,
    onLost: (left: number) => void,
  ) {
    const gone = (part: Part) => {
      this.#parts = this.#parts.filter((other) => other !== part);
      onLost(this.#parts.length);
    };
    this.#parts = Array.from({ length: count }, () => new Part(gone));
    const loading = this.#parts.map((part) => part.load({ ...load, type: 'load', module }));
    this.#ready = Promise.all(loading);
  }

  /**
   * The helpers that have loaded, at most `most`. Waits for those that are still loading: a moment's wait for the
   * first picture, which then takes half the time, and the same number of workers each time.
   */
  async team(most: number): Promise<Part[]> {
    await this.#ready;
    return this.#parts.slice(0, Math.max(most, 0));
  }
}

/** One helper. */
export class Part {
  #worker: Worker | undefined;
  readonly #gone: (part: Part) => void;
  readonly #pending = new Map<number, { resolve(tensors: Outputs): void; reject(error: UvitError): void }>();
  #loaded: () => void = () => {};
  #nextId = 1;
  #lost: UvitError | undefined;

  constructor(gone: (part: Part) => void) {
    this.#gone = gone;
  }

  /** Resolves when the helper has loaded the model or was dropped because it could not. */
  load(message: PartLoad): Promise<void> {
    return new Promise((resolve) => {
      this.#loaded = resolve;
      try {
        this.#start();
      } catch (thrown) {
        this.#lose(toUvitError(thrown).cause);
        return;
      }
      // Copies the files: the other helpers get theirs from the same bytes.
      this.#post(message);
    });
  }

  #start(): void {
    const worker = new Worker(new URL('./part.js', import.meta.url), { type: 'module' });
    this.#worker = worker;
    worker.onmessage = (message: MessageEvent<FromPart>) => this.#receive(message.data);
    worker.onerror = (event) => {
      event.preventDefault();
      this.#lose(event.message || 'its script could not be loaded');
    };
    worker.onmessageerror = () => this.#lose('a message of it could not be read');
  }

  /** Computes a part of a batch; rejects with `WORKER_LOST` if the helper dies over it, with `ABORTED` at once if asked to. */
  forward(tensors: Tensors): Promise<Outputs> {
    if (this.#lost) return Promise.reject(this.#lost);
    const id = this.#nextId++;
    return new Promise((resolve, reject) => {
      this.#pending.set(id, { resolve, reject });
      this.#post({ type: 'forward', id, tensors });
    });
  }

  /** Lets go of what is being computed. The helper may need a moment longer to notice; nobody waits for it. */
  abort(): void {
    if (this.#pending.size === 0) return;
    this.#post({ type: 'abort' });
    this.#rejectAll(aborted('This generation'));
  }

  #post(message: ToPart): void {
    try {
      this.#worker?.postMessage(message);
    } catch (thrown) {
      // Such as a copy of the files that does not fit into memory.
      this.#lose(toUvitError(thrown).cause);
    }
  }

  #receive(message: FromPart): void {
    switch (message.type) {
      case 'alive':
        watchLife(message.lock, () => this.#lose('the browser ended it'));
        break;
      case 'loaded':
        this.#loaded();
        break;
      case 'tensors':
        this.#take(message.id)?.resolve(message.tensors);
        break;
      case 'error': {
        const error = toUvitError(message.error);
        if (message.id === undefined) this.#lose(error.cause);
        else this.#take(message.id)?.reject(error);
        break;
      }
    }
  }

  #take(id: number) {
    const pending = this.#pending.get(id);
    this.#pending.delete(id);
    return pending;
  }

  #lose(why: string): void {
    if (this.#lost) return;
    this.#lost = new UvitError(
      'WORKER_LOST',
      `a worker that computes a part of the picture was lost (${why.replace(/\.+$/, '')})`,
      'Call generate again: it goes on with fewer workers',
    );
    this.#worker?.terminate();
    this.#gone(this);
    this.#loaded();
    this.#rejectAll(this.#lost);
  }

  #rejectAll(error: UvitError): void {
    for (const pending of this.#pending.values()) pending.reject(error);
    this.#pending.clear();
  }
}
