/**
 * Serves the pages, the runtimes and the models on localhost, at two addresses: an ordinary origin, and one whose
 * pages are cross-origin isolated, as wasm threads need. Nothing may be cached: every load is a first one.
 */

import { createReadStream, existsSync, statSync } from 'node:fs';
import { createServer } from 'node:http';
import { extname, join, normalize } from 'node:path';
import { fileURLToPath } from 'node:url';
import { buildSync } from 'esbuild';

const here = fileURLToPath(new URL('.', import.meta.url));

const TYPES = {
  '.css': 'text/css',
  '.html': 'text/html; charset=utf-8',
  '.js': 'text/javascript',
  '.json': 'application/json',
  '.mjs': 'text/javascript',
  '.svg': 'image/svg+xml',
  '.wasm': 'application/wasm',
};

const ISOLATION = {
  'Cross-Origin-Opener-Policy': 'same-origin',
  'Cross-Origin-Embedder-Policy': 'require-corp',
};

/** Folders by the paths under which the pages know them. */
function mounts({ models, converted, packageFolder }) {
  return {
    '/bench/': here,
    '/package/': packageFolder,
    '/ort/': `${here}node_modules/onnxruntime-web/dist`,
    '/litert/wasm/': `${here}node_modules/@litertjs/core/wasm`,
    '/demo/': `${here}../demo/dist`,
    '/embedded/': `${here}../models`,
    ...(models && { '/models/': models }),
    ...(converted && { '/converted/': converted }),
  };
}

/** Starts both; `plain` and `isolated` are their addresses. */
export async function startServers(folders) {
  const known = mounts(folders);
  const litert = bundleLitert();
  const start = async (headers) => {
    const http = createServer((request, response) => answer(request, response, known, litert, headers));
    await new Promise((resolve) => http.listen(0, '127.0.0.1', resolve));
    return http;
  };
  const [plain, isolated] = [await start({}), await start(ISOLATION)];
  return {
    plain: `http://127.0.0.1:${plain.address().port}`,
    isolated: `http://127.0.0.1:${isolated.address().port}`,
    close() {
      for (const http of [plain, isolated]) http.close().closeAllConnections();
    },
  };
}

function answer(request, response, known, litert, isolation) {
  const path = normalize(decodeURIComponent(new URL(request.url, 'http://server').pathname));
  const headers = { ...isolation, 'Cache-Control': 'no-store', 'Content-Type': TYPES[extname(path)] };
  if (path === '/litert/core.mjs') {
    response.writeHead(200, headers).end(litert);
    return;
  }
  const mount = Object.keys(known).find((prefix) => path.startsWith(prefix));
  const file = mount && join(known[mount], path.slice(mount.length));
  if (!file || !existsSync(file) || !statSync(file).isFile()) {
    response.writeHead(404, isolation).end(`no file at ${path}`);
    return;
  }
  headers['Content-Type'] ??= 'application/octet-stream';
  response.writeHead(200, { ...headers, 'Content-Length': statSync(file).size });
  createReadStream(file).pipe(response);
}

/** LiteRT.js imports its companion by name, which browsers cannot do: its two packages become one module. */
function bundleLitert() {
  const built = buildSync({
    stdin: { contents: "export { loadAndCompile, loadLiteRt, Tensor } from '@litertjs/core';", resolveDir: here },
    bundle: true,
    format: 'esm',
    logLevel: 'error',
    minify: true,
    platform: 'browser',
    write: false,
  });
  return built.outputFiles[0].contents;
}
