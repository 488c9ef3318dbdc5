/** What the package needs of the place that it runs in: a page of a browser, or a worker of one. */

import { UvitError } from './errors.js';

const NEEDED = ['Worker', 'WebAssembly', 'fetch', 'URL', 'ImageData', 'location'];

/** Throws where something is missing, such as in Node.js, and says what. */
export function checkNeeds(): void {
  const place = globalThis as Record<string, unknown>;
  const missing = NEEDED.filter((name) => place[name] === undefined);
  if (missing.length === 0) return;
  throw new UvitError(
    'UNSUPPORTED_PLATFORM',
    `this place has no ${missing.join(', no ')}`,
    'Call uvit-web in a page of a browser or in one of its dedicated workers; outside browsers, use the command-line tool uvit',
  );
}
