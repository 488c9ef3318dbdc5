/** Bad input and bad luck: a clear error with the right code each time, and nothing lost. */

import assert from 'node:assert/strict';
import { after, afterEach, before, beforeEach, test } from 'node:test';
import { generate, launch, openPage, reach, WEBGPU, withPackage } from './browser.mjs';
import { startServer } from './server.mjs';

const MODEL = '/models/emoji/manifest.json';

let server;
let browser;
let page;
before(async () => {
  server = await startServer();
  // A host name that is not localhost, for a page that is no secure context.
  browser = await launch([...WEBGPU, '--host-resolver-rules=MAP uvit.test 127.0.0.1']);
});
after(async () => {
  await browser.close();
  await server.close();
});
beforeEach(async () => {
  page = await openPage(browser, `${server.url}/blank.html`);
});
afterEach(async () => {
  server.spoil = undefined;
  server.types = undefined;
  await page.close();
});

const isShard = (path) => path.startsWith('/models/') && !path.endsWith('.json');
const flipped = (bytes) => {
  const copy = Buffer.from(bytes);
  copy[copy.length >> 1] ^= 1;
  return copy;
};
/** The manifest with one field changed. */
const changed = (bytes, change) => {
  const manifest = JSON.parse(bytes);
  change(manifest);
  return Buffer.from(JSON.stringify(manifest));
};

const FILES = [
  ['a shard with a flipped bit', 'SHARD_CORRUPT', (path, bytes) => (isShard(path) ? flipped(bytes) : bytes)],
  ['a truncated shard', 'SHARD_CORRUPT', (path, bytes) => (isShard(path) ? bytes.subarray(0, -100) : bytes)],
  [
    'a shard that is too long',
    'SHARD_CORRUPT',
    (path, bytes) => (isShard(path) ? Buffer.concat([bytes, bytes]) : bytes),
  ],
  ['a manifest that is no JSON', 'BAD_MANIFEST', (path, bytes) => (path === MODEL ? Buffer.from('<html>') : bytes)],
  ['an empty manifest', 'BAD_MANIFEST', (path, bytes) => (path === MODEL ? Buffer.from('{}') : bytes)],
  [
    'a manifest without the component that its task needs',
    'BAD_MANIFEST',
    (path, bytes) => {
      if (path !== MODEL) return bytes;
      return changed(bytes, (manifest) => {
        Object.assign(manifest, { format_version: 2, task: 'class', components: {} });
      });
    },
  ],
  [
    'a model whose task this build cannot do',
    'UNSUPPORTED_MODEL',
    (path, bytes) => {
      if (path !== MODEL) return bytes;
      return changed(bytes, (manifest) => {
        const { architecture, params, variants } = manifest;
        const components = { denoiser: { architecture, params, variants } };
        Object.assign(manifest, { format_version: 2, task: 'video', components });
      });
    },
  ],
  [
    'a manifest of another version',
    'UNSUPPORTED_VERSION',
    (path, bytes) => {
      if (path !== MODEL) return bytes;
      return changed(bytes, (manifest) => {
        manifest.format_version = 999;
      });
    },
  ],
];

for (const [name, code, spoil] of FILES) {
  test(`${name} gives ${code}, and loading again works`, async () => {
    server.spoil = spoil;
    const load = (uvit, model) =>
      attempt(uvit.load(model, { device: 'webgpu', tune: 'off' }).then((pipeline) => pipeline.info.device));
    const error = await withPackage(page, load, MODEL);
    assertError(error, code);
    server.spoil = undefined;
    assert.deepEqual(await withPackage(page, load, MODEL), { value: 'webgpu' });
  });
}

test('files that are not there give IO and name the address', async () => {
  const error = await withPackage(page, (uvit) => attempt(uvit.load('/nowhere/manifest.json')));
  assertError(error, 'IO');
  assert.match(error.cause, /nowhere\/manifest\.json answered 404/);
  const unreachable = await withPackage(page, (uvit) => attempt(uvit.load('http://127.0.0.1:9/manifest.json')));
  assertError(unreachable, 'IO');
});

test('a worker that does not start, or crashes in mid-picture, rejects with INTERNAL', async () => {
  const load = (uvit, model) => attempt(uvit.load(model, { device: 'webgpu', tune: 'off' }));
  server.spoil = (path, bytes) => (path === '/package/worker.js' ? 'throw new Error("broken on purpose")' : bytes);
  const broken = await withPackage(page, load, MODEL);
  assertError(broken, 'INTERNAL');
  assert.match(broken.cause, /broken on purpose/);

  const bomb = `
    self.addEventListener('message', ({ data }) => {
      if (data.type === 'generate') setTimeout(() => { throw new Error('crashed on purpose'); }, 50);
    });`;
  server.spoil = (path, bytes) => (path === '/package/worker.js' ? bytes.toString() + bomb : bytes);
  const errors = await withPackage(
    page,
    async (uvit, model) => {
      const pipeline = await uvit.load(model, { device: 'webgpu', tune: 'off' });
      const running = attempt(pipeline.generate({ label: 0, steps: 500 }));
      const queued = attempt(pipeline.generate({ label: 0 }));
      return [await running, await queued, await attempt(pipeline.generate({ label: 0 }))];
    },
    MODEL,
  );
  for (const error of errors) {
    assertError(error, 'INTERNAL');
    assert.match(error.cause, /crashed on purpose/);
  }
});

test('a worker that the browser ends without a word rejects with WORKER_LOST', async () => {
  const end = `
    self.addEventListener('message', ({ data }) => {
      if (data.type === 'generate') setTimeout(() => self.close(), 50);
    });`;
  server.spoil = (path, bytes) => (path === '/package/worker.js' ? bytes.toString() + end : bytes);
  const errors = await withPackage(
    page,
    async (uvit, model) => {
      const pipeline = await uvit.load(model, { device: 'cpu' });
      const running = attempt(pipeline.generate({ label: 0, steps: 500 }).then(() => 'drawn'));
      return [await running, await attempt(pipeline.generate({ label: 0 }))];
    },
    MODEL,
  );
  for (const error of errors) assertError(error, 'WORKER_LOST');
});

test('a runtime that is not served gives IO and says which file', async () => {
  server.spoil = (path, bytes) => (path.endsWith('.wasm') ? Buffer.from('not wasm') : bytes);
  const error = await withPackage(page, (uvit, model) => attempt(uvit.load(model)), MODEL);
  assertError(error, 'IO');
  assert.match(error.remedy, /uvit_web_bg\.wasm/);
});

test('the core starts whatever type its file is served as', async () => {
  const found = [];
  const types = ['application/wasm', 'application/wasm; charset=utf-8', 'APPLICATION/WASM', 'text/plain', '', null];
  for (const type of types) {
    server.types = (path) => (path.endsWith('.wasm') ? type : undefined);
    found.push(await withPackage(page, (uvit) => attempt(uvit.capabilities().then(({ cpu }) => cpu.simd128))));
  }
  assert.deepEqual(
    found,
    types.map(() => ({ value: true })),
  );
});

test('settings outside their ranges give INVALID_ARGUMENT, and the pipeline goes on', async () => {
  const { errors, bad, after } = await withPackage(
    page,
    async (uvit, model) => {
      const pipeline = await uvit.load(model, { device: 'webgpu', tune: 'off' });
      const initImage = new Float32Array(3 * 64 * 64);
      const mask = new Float32Array(64 * 64);
      const bad = [
        { label: 31 },
        { label: 99 },
        { label: -1 },
        { label: 1.5 },
        { label: 'no such label' },
        { label: {} },
        { steps: 0 },
        { steps: 100_000 },
        { steps: 2.5 },
        { steps: '3' },
        { guidanceScale: Number.NaN },
        { guidanceScale: Number.POSITIVE_INFINITY },
        { guidanceScale: null },
        { seed: -1 },
        { seed: 2 ** 32 },
        { seed: 2 ** 32 - 1, count: 2 },
        { count: 0 },
        { count: 1e9 },
        { sampler: 'no such sampler' },
        { sampler: 3 },
        { grid: 'no such grid' },
        { grid: 3 },
        { sampler: 'euler_maruyama_sde', grid: 'log_snr' },
        { guidanceRescale: 2 },
        { guidanceRescale: Number.NaN },
        { eta: 0.5, sampler: 'euler' },
        { eta: 2, sampler: 'ddim' },
        { eta: Number.NaN, sampler: 'ddim' },
        { context: new Float32Array(8) },
        { context: [0] },
        { nullContext: [0] },
        { churn: -1, sampler: 'euler' },
        { churn: Number.NaN, sampler: 'euler' },
        { churn: 1, sampler: 'heun' },
        { strength: 0.5 },
        { mask },
        { freshNoise: true },
        { initImage, freshNoise: true },
        { initImage, strength: 0 },
        { initImage, strength: 1.01 },
        { initImage, strength: Number.NaN },
        { initImage, strength: '0.5' },
        // Of one step nothing is left.
        { initImage, strength: 0.5 },
        { initImage: new Float32Array(7) },
        { initImage: new Float32Array(2 * 3 * 64 * 64) },
        { initImage: initImage.map((_, i) => (i === 5 ? Number.NaN : 0)) },
        { initImage: [...initImage] },
        { initImage: 'picture.png' },
        { initImage: new Blob(['no picture'], { type: 'image/png' }) },
        { initImage: new OffscreenCanvas(0, 5) },
        { initImage: new Image() },
        { initImage, mask: new Float32Array(3 * 64 * 64) },
        { initImage, mask: mask.map(() => Number.NaN) },
        { initImage, mask: mask.map(() => 1.5) },
        { initImage, mask: new Blob([]) },
        { startLatents: [0, 1] },
        { startLatents: new Float32Array(3 * 64 * 64).fill(Number.NaN) },
        { onStep: 'not a function' },
      ];
      const errors = [];
      for (const options of bad) errors.push(await attempt(pipeline.generate({ label: 0, steps: 1, ...options })));
      const after = await pipeline.generate({ label: 0, steps: 1 });
      return {
        errors,
        bad: bad.map((options) => Object.entries(options).join('; ').slice(0, 60)),
        after: after.images.length,
      };
    },
    MODEL,
  );
  for (const [i, error] of errors.entries()) assertError(error, 'INVALID_ARGUMENT', bad[i]);
  assert.equal(after, 1);
});

test('options of load() that do not exist give INVALID_ARGUMENT', async () => {
  const wrong = [
    { device: 'npu' },
    { dtype: 'q3' },
    { compute: 'int4' },
    { threads: 0 },
    { threads: 1.5 },
    { threads: '2' },
    { wasm: 'mmx' },
  ];
  for (const options of wrong) {
    const error = await withPackage(page, (uvit, [model, given]) => attempt(uvit.load(model, given)), [MODEL, options]);
    assertError(error, 'INVALID_ARGUMENT');
  }
});

test('without WebGPU, asking for it gives NO_WEBGPU with a remedy', async () => {
  const plain = await launch();
  try {
    const other = await openPage(plain, `${server.url}/?device=webgpu`);
    await reach(other, 'failed');
    assert.equal(await other.locator('#error').getAttribute('data-code'), 'NO_WEBGPU');
    // The way out that the page offers is a way out.
    await other.getByRole('button', { name: 'Use the CPU' }).click();
    await reach(other, 'ready');
    assert.match(await other.locator('#badge').innerText(), /CPU/);
  } finally {
    await plain.close();
  }
});

test('an insecure context says so, and auto falls back to the CPU', async () => {
  await page.goto(`http://uvit.test:${server.port}/blank.html`);
  assert.equal(await page.evaluate(() => isSecureContext), false);
  const { asked, found, auto } = await withPackage(
    page,
    async (uvit, model) => ({
      asked: await attempt(uvit.load(model, { device: 'webgpu', tune: 'off' })),
      found: (await uvit.capabilities()).webgpu,
      auto: await attempt(uvit.load(model, { device: 'auto' }).then(({ info }) => info)),
    }),
    MODEL,
  );
  assertError(asked, 'INSECURE_CONTEXT');
  assert.equal(found.available, false);
  assert.equal(found.code, 'INSECURE_CONTEXT');
  assert.equal(auto.value.device, 'cpu');
  assert.match(auto.value.deviceReason, /secure/i);
});

test('the page shows a corrupt shard, and loads again once it is mended', async () => {
  server.spoil = FILES[0][2];
  await page.goto(`${server.url}/?device=webgpu`);
  await reach(page, 'failed');
  const shown = await page.locator('#error').innerText();
  assert.match(shown, /SHARD_CORRUPT/);
  assert.ok(await page.locator('#generate').isDisabled());
  server.spoil = undefined;
  await page.getByRole('button', { name: 'Load again' }).click();
  await reach(page, 'ready');
  assert.ok(await page.locator('#error').isHidden());
});

test('the page says when its address asks for a label that is not there', async () => {
  await page.goto(`${server.url}/?device=webgpu&label=99`);
  await reach(page, 'ready');
  assert.equal(await page.locator('#error').getAttribute('data-code'), 'INVALID_ARGUMENT');
  assert.match(await page.locator('#error').innerText(), /99/);
});

test('a device lost while drawing is told, and the model loads again in the same page', async () => {
  await page.goto(`${server.url}/?device=webgpu&seed=3&steps=100`);
  await reach(page, 'ready');
  await page.click('#generate');
  await page.waitForFunction(() => /^Step [2-9]/.test(document.getElementById('status').textContent));
  const devtools = await browser.newBrowserCDPSession();
  await devtools.send('Browser.crashGpuProcess');
  await reach(page, 'failed');
  assert.equal(await page.locator('#error').getAttribute('data-code'), 'DEVICE_LOST');
  await page.getByRole('button', { name: 'Load again' }).click();
  await reach(page, 'ready');
  await page.locator('#steps').fill('2');
  await generate(page);
  assert.equal(await page.locator('#facts').getAttribute('data-device'), 'webgpu');
});

function assertError(error, code, what = '') {
  assert.equal(error.code, code, `${what}: ${JSON.stringify(error)}`);
  assert.ok(error.cause.length > 5 && error.remedy.length > 5, `${what}: cause and remedy: ${JSON.stringify(error)}`);
  assert.ok(error.message.includes(error.cause) && error.message.includes(error.remedy));
}
