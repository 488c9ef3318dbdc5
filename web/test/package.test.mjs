/** The packed package, installed in a fresh Vite app without any configuration: built, and while developing. */

import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { build, createServer } from 'vite';
import { launch, openPage, WEBGPU } from './browser.mjs';
import { ISOLATION, startServer } from './server.mjs';

const web = fileURLToPath(new URL('..', import.meta.url));

let app;
before(() => {
  app = mkdtempSync(join(tmpdir(), 'uvit-app-'));
  const npm = (folder, ...args) => execFileSync('npm', args, { cwd: folder, stdio: ['ignore', 'pipe', 'inherit'] });
  npm(web, 'pack', '--silent', '--ignore-scripts', '--pack-destination', app);
  const tarball = readdirSync(app).find((file) => file.endsWith('.tgz'));
  writeFileSync(join(app, 'package.json'), JSON.stringify({ name: 'fresh-app', private: true, type: 'module' }));
  // The package has no dependencies, so that this needs no network.
  npm(app, 'install', '--offline', '--silent', `./${tarball}`);
  writeFileSync(
    join(app, 'index.html'),
    '<!doctype html><p id="said"></p><script type="module" src="/main.js"></script>',
  );
  writeFileSync(
    join(app, 'main.js'),
    `import { load, UvitError } from 'uvit-web';
    const said = document.getElementById('said');
    try {
      const query = new URLSearchParams(location.search);
      const pipeline = await load(query.get('model'), { device: query.get('device'), threads: 2 });
      const { images, device, dispatches, workers } = await pipeline.generate({ label: 6, steps: 2, seed: 1, count: 2 });
      const { threads } = pipeline.info;
      // The entry for files is loaded on demand, with the library that is built into it.
      const { encodeApng, encodeGif } = await import('uvit-web/clips');
      const frames = images.map(({ imageData }) => imageData);
      const files = await Promise.all([encodeApng(frames, 8), encodeGif(frames, 8)]);
      // A single core is not shared, whatever is asked for.
      const alone = threads === 1 && device === 'cpu' && navigator.hardwareConcurrency === 1;
      said.textContent = JSON.stringify({
        device, workers: alone ? 2 : workers, threads, gpu: dispatches > 0,
        sizes: images.map((i) => i.rgba.length), seeds: images.map((i) => i.seed),
        files: files.map(({ type }) => type),
      });
    } catch (error) {
      said.textContent = String(error) + (error instanceof UvitError);
    }`,
  );
});
after(() => rmSync(app, { recursive: true, force: true }));

const PICTURES = { sizes: [64 * 64 * 4, 64 * 64 * 4], seeds: [1, 2], files: ['image/png', 'image/gif'] };
/** Every kind of worker that the package starts has to survive the bundler. */
const CASES = [
  { name: 'on WebGPU', isolated: false, expected: { device: 'webgpu', workers: 1, threads: 1, gpu: true } },
  { name: 'by workers', isolated: false, expected: { device: 'cpu', workers: 2, threads: 1, gpu: false } },
  { name: 'by threads', isolated: true, expected: { device: 'cpu', workers: 1, threads: 2, gpu: false } },
];
const address = (url, { device }) => `${url}/?model=/models/emoji/manifest.json&device=${device}`;

for (const { name, isolated, expected } of CASES) {
  test(`the package draws in a fresh Vite app, built: ${name}`, async () => {
    await build({ root: app, logLevel: 'warn', configFile: false });
    const server = await startServer({ '/models/': `${web}models`, '/': join(app, 'dist') }, { isolated });
    try {
      assert.deepEqual(await draw(address(server.url, expected)), { ...expected, ...PICTURES });
    } finally {
      await server.close();
    }
  });

  test(`the package draws in a fresh Vite app, while developing: ${name}`, async () => {
    const models = await startServer();
    const server = await createServer({
      root: app,
      configFile: false,
      logLevel: 'warn',
      server: {
        host: '127.0.0.1',
        port: 0,
        proxy: { '/models': models.url },
        headers: isolated ? ISOLATION : {},
      },
    });
    await server.listen();
    try {
      const { port } = server.httpServer.address();
      assert.deepEqual(await draw(address(`http://127.0.0.1:${port}`, expected)), { ...expected, ...PICTURES });
    } finally {
      await server.close();
      await models.close();
    }
  });
}

async function draw(url) {
  const browser = await launch(WEBGPU);
  try {
    const page = await openPage(browser, url);
    await page.waitForFunction(() => document.getElementById('said')?.textContent);
    const said = await page.locator('#said').innerText();
    try {
      return JSON.parse(said);
    } catch {
      throw new Error(said);
    }
  } finally {
    await browser.close();
  }
}
