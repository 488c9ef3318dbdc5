/** A static server for the tests: folders mounted at paths, and files that a test may spoil on their way out. */

import { readFile, stat } from 'node:fs/promises';
import { createServer } from 'node:http';
import { extname, join, normalize } from 'node:path';
import { fileURLToPath } from 'node:url';

const web = fileURLToPath(new URL('..', import.meta.url));

const TYPES = {
  '.css': 'text/css',
  '.html': 'text/html; charset=utf-8',
  '.js': 'text/javascript',
  '.json': 'application/json',
  '.png': 'image/png',
  '.svg': 'image/svg+xml',
  '.wasm': 'application/wasm',
};

/** Where everything is found unless a test says otherwise. */
const MOUNTS = {
  '/package/': `${web}dist`,
  '/models/': `${web}models`,
  '/expected/': `${web}test/expected`,
  '/': `${web}demo/dist`,
};

const BLANK = {
  '/blank.html': Buffer.from('<!doctype html><title>blank</title>'),
  '/blank.js': Buffer.from(
    'onmessage = async ({ data }) => postMessage(await (0, eval)("(" + data + ")")().catch(({ message }) => ({ message })));',
  ),
};

/** What makes a page cross-origin isolated. */
export const ISOLATION = {
  'Cross-Origin-Opener-Policy': 'same-origin',
  'Cross-Origin-Embedder-Policy': 'require-corp',
};

/**
 * Starts a server on a free port. `server.spoil`, when set, gets `(path, bytes)` and returns the bytes to send
 * instead, and `server.types`, when set, gets `(path)` and returns the Content-Type, null for none. `/blank.html` is an empty
 * page for tests that call the package themselves, `/blank.js` a worker that runs the functions it is sent. With `isolated`,
 * pages get shared memory. `files` are served under their names, before what is mounted. With `cached`, the browser may keep what
 * it got; `server.served` lists what it asked for.
 */
export async function startServer(mounts = MOUNTS, { isolated = false, files = {}, cached = false } = {}) {
  const state = { spoil: undefined, types: undefined, served: [] };
  const http = createServer(async (request, response) => {
    const path = normalize(decodeURIComponent(new URL(request.url, 'http://server').pathname));
    state.served.push(path);
    const bytes = BLANK[path] ?? files[path.slice(1)] ?? (await read(mounts, path));
    if (!bytes) {
      response.writeHead(404).end(`no file at ${path}`);
      return;
    }
    const usual = TYPES[extname(path) || '.html'] ?? 'application/octet-stream';
    const other = state.types?.(path);
    const type = other === undefined ? usual : other;
    // Nothing may be remembered from a test that spoiled a file.
    const headers = {
      'Cache-Control': cached ? 'max-age=600' : 'no-store',
      ...(type !== null && { 'Content-Type': type }),
    };
    response.writeHead(200, { ...headers, ...(isolated && ISOLATION) });
    response.end(state.spoil ? state.spoil(path, bytes) : bytes);
  });
  await new Promise((resolve) => http.listen(0, '127.0.0.1', resolve));
  return Object.assign(state, {
    port: http.address().port,
    url: `http://127.0.0.1:${http.address().port}`,
    close: () => new Promise((resolve) => http.close(resolve).closeAllConnections()),
  });
}

async function read(mounts, path) {
  const mount = Object.keys(mounts).find((prefix) => path.startsWith(prefix));
  if (mount === undefined) return undefined;
  let file = join(mounts[mount], path.slice(mount.length));
  try {
    if ((await stat(file)).isDirectory()) file = join(file, 'index.html');
    return await readFile(file);
  } catch {
    return undefined;
  }
}
