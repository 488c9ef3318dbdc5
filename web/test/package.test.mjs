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
import { startServer } from './server.mjs';

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
      const pipeline = await load(new URLSearchParams(location.search).get('model'), { device: 'webgpu' });
      const { images, device, dispatches } = await pipeline.generate({ label: 6, steps: 2, seed: 1, count: 2 });
      said.textContent = JSON.stringify({ device, gpu: dispatches > 0, sizes: images.map((i) => i.rgba.length), seeds: images.map((i) => i.seed) });
    } catch (error) {
      said.textContent = String(error) + (error instanceof UvitError);
    }`,
  );
});
after(() => rmSync(app, { recursive: true, force: true }));

const EXPECTED = { device: 'webgpu', gpu: true, sizes: [64 * 64 * 4, 64 * 64 * 4], seeds: [1, 2] };

test('the package draws in a fresh Vite app, built', async () => {
  await build({ root: app, logLevel: 'warn', configFile: false });
  const server = await startServer({ '/models/': `${web}models`, '/': join(app, 'dist') });
  try {
    assert.deepEqual(await draw(`${server.url}/?model=/models/emoji/manifest.json`), EXPECTED);
  } finally {
    await server.close();
  }
});

test('the package draws in a fresh Vite app, while developing', async () => {
  const models = await startServer();
  const server = await createServer({
    root: app,
    configFile: false,
    logLevel: 'warn',
    server: { host: '127.0.0.1', port: 0, proxy: { '/models': models.url } },
  });
  await server.listen();
  try {
    const { port } = server.httpServer.address();
    assert.deepEqual(await draw(`http://127.0.0.1:${port}/?model=/models/emoji/manifest.json`), EXPECTED);
  } finally {
    await server.close();
    await models.close();
  }
});

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
