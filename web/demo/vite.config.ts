/** The page's build. The package needs no settings here: only the model's files are served from outside. */

import { cpSync, createReadStream, existsSync, statSync } from 'node:fs';
import { extname, join, normalize } from 'node:path';
import { fileURLToPath } from 'node:url';
import { defineConfig, type Plugin } from 'vite';

const models = fileURLToPath(new URL('../models', import.meta.url));
const demo = fileURLToPath(new URL('.', import.meta.url));

/** Serves `web/models/` at `models/` while developing; copies it, and the licences of what is inside, into the built page. */
function filesBeside(): Plugin {
  return {
    name: 'files-beside',
    configureServer(server) {
      server.middlewares.use('/models', (request, response, next) => {
        const path = normalize(new URL(request.url ?? '/', 'http://page').pathname);
        const file = join(models, path);
        if (!existsSync(file) || !statSync(file).isFile()) return next();
        response.setHeader('Content-Type', extname(file) === '.json' ? 'application/json' : 'application/octet-stream');
        createReadStream(file).pipe(response);
      });
    },
    closeBundle() {
      if (existsSync(models)) cpSync(models, join(demo, 'dist/models'), { recursive: true });
      cpSync(join(demo, '../../THIRD_PARTY_LICENSES.md'), join(demo, 'dist/licences.txt'));
    },
  };
}

export default defineConfig({
  root: demo,
  // Relative addresses: the built page works from any folder of any static server.
  base: './',
  // One script needs no preloading, nor what stands in for it in old browsers.
  build: { outDir: 'dist', emptyOutDir: true, target: 'es2022', modulePreload: false },
  plugins: [filesBeside()],
});
