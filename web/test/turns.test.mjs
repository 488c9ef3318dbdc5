/** The core as its worker sees it: two models in one core that work at the same time both come to an end. */

import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { launch, openPage } from './browser.mjs';
import { startServer } from './server.mjs';

let server;
let browser;
before(async () => {
  server = await startServer();
  browser = await launch();
});
after(async () => {
  await browser.close();
  await server.close();
});

test('all who wait for a turn at the same time get theirs', async () => {
  const page = await openPage(browser, `${server.url}/blank.html`);
  const found = await page.evaluate(async () => {
    const core = await import(new URL('/package/relaxed-simd/uvit_web.js', location.href).href);
    await core.default({ module_or_path: '/package/relaxed-simd/uvit_web_bg.wasm' });
    const manifest = await (await fetch('/models/emoji/manifest.json')).text();
    const [{ file }] = JSON.parse(core.files(manifest, '{}'));
    const bytes = new Uint8Array(await (await fetch(`/models/emoji/${file}`)).arrayBuffer());
    const drawn = [];
    const draw = async (name) => {
      const loader = await core.Loader.create(manifest, JSON.stringify({ device: 'cpu', compute: 'f32' }));
      await loader.addFile(0, bytes);
      const pipeline = await loader.finish(() => Promise.reject());
      const options = { label: 0, steps: 3, seed: 1, count: 2 };
      await pipeline.generate(
        JSON.stringify(options),
        {},
        () => {},
        1,
        () => {},
      );
      drawn.push(name);
    };
    const late = new Promise((resolve) => setTimeout(resolve, 60_000));
    await Promise.race([late, Promise.all([draw('one'), draw('two'), draw('three')])]);
    return drawn.toSorted();
  });
  assert.deepEqual(found, ['one', 'three', 'two']);
});
