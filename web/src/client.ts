/**
 * The page's end of the worker: matches replies with requests and turns a dead worker into rejections, so
 * that no promise is left hanging. It knows nothing of models or pictures.
 */

import { internal, toUvitError, UvitError } from './errors.js';
import { watchLife } from './life.js';
import type { Event, FromWorker, Reply, Request } from './protocol.js';

/** A reply that is not an error. */
export type Answer = Exclude<Reply, { type: 'error' }>;

/** An event that belongs to a request. */
export type RequestEvent = Exclude<Event, { type: 'crash' | 'workers' | 'alive' }>;

interface Pending {
  resolve(answer: Answer): void;
  reject(error: UvitError): void;
  onEvent(event: RequestEvent): void;
}

export class Client {
  /** Called when fewer workers are left to share the work. */
  onWorkers: (workers: number) => void = () => {};
  readonly #worker: Worker;
  readonly #pending = new Map<number, Pending>();
  #nextId = 1;
  #closed: UvitError | undefined;

  constructor() {
    // Bundlers recognise exactly this expression and emit the worker as a chunk of its own.
    this.#worker = new Worker(new URL('./worker.js', import.meta.url), { type: 'module' });
    this.#worker.onmessage = (message: MessageEvent<FromWorker>) => this.#receive(message.data);
    this.#worker.onerror = (event) => {
      // A script that could not be fetched gives an event without a message.
      const what = event.message
        ? `the worker crashed (${event.message})`
        : 'the worker could not be started: its script was not found, or a content security policy forbids it';
      this.close(internal(what));
    };
    this.#worker.onmessageerror = () => this.close(internal('a message of the worker could not be read'));
  }

  /** An id for the next request. */
  nextId(): number {
    return this.#nextId++;
  }

  /** Sends a request; resolves with its reply, `onEvent` sees what comes before. */
  request(
    request: Exclude<Request, { type: 'abort' }>,
    onEvent: (event: RequestEvent) => void,
    transfer: Transferable[] = [],
  ): Promise<Answer> {
    if (this.#closed) return Promise.reject(this.#closed);
    return new Promise((resolve, reject) => {
      try {
        this.#worker.postMessage(request, transfer);
      } catch (thrown) {
        reject(toUvitError(thrown));
        return;
      }
      this.#pending.set(request.id, { resolve, reject, onEvent });
    });
  }

  /** Asks the worker to stop a generation; its own reply tells when it has. */
  abort(id: number): void {
    if (this.#closed || !this.#pending.has(id)) return;
    const message: Request = { type: 'abort', id };
    this.#worker.postMessage(message);
  }

  /** Ends the worker, which frees its wasm memory and its GPU device; what is pending and all that follows rejects. */
  close(reason: UvitError): void {
    if (this.#closed) return;
    this.#closed = reason;
    this.#worker.terminate();
    for (const pending of this.#pending.values()) pending.reject(reason);
    this.#pending.clear();
  }

  #receive(message: FromWorker): void {
    if (message.type === 'crash') {
      this.close(new UvitError(message.error.code, message.error.cause, message.error.remedy));
      return;
    }
    if (message.type === 'alive') {
      watchLife(message.lock, () => this.close(gone()));
      return;
    }
    if (message.type === 'workers') {
      this.onWorkers(message.workers);
      return;
    }
    const pending = this.#pending.get(message.id);
    if (!pending) return;
    if (message.type === 'progress' || message.type === 'step') {
      callListener(() => pending.onEvent(message));
      return;
    }
    this.#pending.delete(message.id);
    if (message.type === 'error') {
      pending.reject(new UvitError(message.error.code, message.error.cause, message.error.remedy));
    } else {
      pending.resolve(message);
    }
  }
}

function gone(): UvitError {
  return new UvitError(
    'WORKER_LOST',
    'the browser ended the worker that computes, perhaps for want of memory',
    'Load the model again, with fewer threads or a smaller dtype',
  );
}

/** A caller's listener that throws must not lose the reply: its error is reported as any uncaught one is. */
function callListener(listener: () => void): void {
  try {
    listener();
  } catch (error) {
    reportError(error);
  }
}
