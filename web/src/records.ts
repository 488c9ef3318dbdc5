/**
 * What the core's tuner has measured, kept for later visits: text that only the core understands. Keeping it saves time
 * and nothing else, so a browser that keeps nothing (private windows, say) is no error.
 */

const CACHE = 'uvit-web';
// A name inside this cache; nothing is ever fetched from there.
const RECORDS = new URL('/uvit-web/tuning.json', self.location.href).href;

/** What earlier loads have left. */
export async function readRecords(): Promise<string | undefined> {
  try {
    const cache = await caches.open(CACHE);
    return await (await cache.match(RECORDS))?.text();
  } catch {
    return undefined;
  }
}

/** Keeps it for later loads. */
export async function writeRecords(records: string): Promise<void> {
  try {
    const cache = await caches.open(CACHE);
    await cache.put(RECORDS, new Response(records));
  } catch {
    // Then it is measured again.
  }
}
