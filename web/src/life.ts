/**
 * Noticing that a worker is gone. One that the browser kills (out of memory, say) sends no message and fires no event,
 * but it lets go of its locks: each worker holds one for as long as it lives, and whoever depends on it waits for it.
 */

/** A name that no other page of this origin uses; `randomUUID` is kept from pages without https. */
export function lifeName(): string {
  return `uvit-web ${crypto.getRandomValues(new Uint32Array(4)).join('-')}`;
}

/**
 * Takes the lock; resolves once it is held, or cannot be (pages without https have no locks), with what lets go of it
 * before the worker's end.
 */
export function holdForLife(name: string): Promise<() => void> {
  return new Promise((resolve) => {
    const held = () => new Promise<void>((release) => resolve(release));
    if (!navigator.locks) resolve(() => {});
    else navigator.locks.request(name, held).catch(() => resolve(() => {}));
  });
}

/** Calls `onGone` when the holder of the lock is gone; it must hold it by now. */
export function watchLife(name: string, onGone: () => void): void {
  // Rejects where locks are forbidden: there, only a death with an error event is noticed.
  navigator.locks?.request(name, onGone).catch(() => {});
}
