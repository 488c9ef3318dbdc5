/** The builds of the wasm core: which one a browser gets, that they draw the same, and threads. */

import assert from 'node:assert/strict';
import { after, afterEach, before, beforeEach, test } from 'node:test';
import { launch, openPage, reach, withPackage } from './browser.mjs';
import { startServer } from './server.mjs';

const MODEL = '/models/emoji/manifest.json';

let plain;
let isolated;
let browser;
let page;
before(async () => {
  plain = await startServer();
  isolated = await startServer(undefined, { isolated: true });
  browser = await launch();
});
after(async () => {
  await browser.close();
  await plain.close();
  await isolated.close();
});
beforeEach(async () => {
  page = await openPage(browser, `${plain.url}/blank.html`);
});
afterEach(async () => {
  plain.spoil = undefined;
  isolated.spoil = undefined;
  await page.close();
});

/** Which of the core's files were fetched from now on. */
function watchCores() {
  const fetched = [];
  page.on('request', (request) => {
    const variant = /\/package\/([a-z0-9-]+)\/uvit_web/.exec(request.url())?.[1];
    if (variant && !fetched.includes(variant)) fetched.push(variant);
  });
  return fetched;
}

/** A picture and what it was made with. */
async function draw(options) {
  return withPackage(
    page,
    async (uvit, [model, given]) => {
      const pipeline = await uvit.load(model, { device: 'cpu', compute: 'quality', ...given });
      const { images, workers } = await pipeline.generate({ label: 6, steps: 3, seed: 11 });
      pipeline.dispose();
      const { wasm, threads } = pipeline.info;
      return { rgba: Array.from(images[0].rgba), wasm, threads, workers };
    },
    [MODEL, options],
  );
}

function largestDifference(a, b) {
  assert.equal(a.length, b.length);
  return a.reduce((worst, value, i) => Math.max(worst, Math.abs(value - b[i])), 0);
}

test('every build draws the same picture, and only the chosen one is fetched', async () => {
  const fetched = watchCores();
  const simd = await draw({ wasm: 'simd128' });
  assert.deepEqual(fetched, ['simd128']);
  const relaxed = await draw({ wasm: 'relaxed-simd' });
  assert.deepEqual(fetched, ['simd128', 'relaxed-simd']);
  await page.goto(`${isolated.url}/blank.html`);
  const threads = await draw({ wasm: 'threads', threads: 2 });
  assert.deepEqual(fetched, ['simd128', 'relaxed-simd', 'threads']);
  assert.deepEqual([simd.wasm, relaxed.wasm, threads.wasm], ['simd128', 'relaxed-simd', 'threads']);
  assert.deepEqual([simd.threads, relaxed.threads, threads.threads], [1, 1, 2]);
  assert.equal(threads.workers, 1);
  for (const other of [relaxed, threads]) {
    const difference = largestDifference(simd.rgba, other.rgba);
    assert.ok(difference <= 1, `${other.wasm} is off by ${difference}`);
  }
});

test('each arithmetic draws, says what it is, and is close to f32', async () => {
  const found = await withPackage(
    page,
    async (uvit, model) => {
      const drawn = {};
      for (const compute of [undefined, 'auto', 'f32', 'quality', 'fast']) {
        const pipeline = await uvit.load(model, { device: 'cpu', ...(compute && { compute }) });
        const result = await pipeline.generate({ label: 6, steps: 5, seed: 11 });
        pipeline.dispose();
        drawn[compute ?? 'default'] = {
          rgba: Array.from(result.images[0].rgba),
          said: [pipeline.info.compute, result.compute, result.settings.compute],
        };
      }
      return drawn;
    },
    MODEL,
  );
  const exact = found.f32.rgba;
  for (const [name, { rgba, said }] of Object.entries(found)) {
    // Which of the two is faster depends on the processor.
    const choice = ['default', 'auto'].includes(name) ? ['f32', 'quality'] : [name];
    assert.ok(choice.includes(said[0]), `${name} took ${said[0]}`);
    assert.deepEqual(said, [said[0], said[0], said[0]]);
    const error = rgba.reduce((sum, value, i) => sum + (value - exact[i]) ** 2, 0) / rgba.length;
    assert.ok(error < 4, `${name} is off by ${Math.sqrt(error)} of 255 in the mean`);
  }
});

test('auto takes relaxed SIMD, and threads where the page is isolated', async () => {
  assert.equal((await draw({})).wasm, 'relaxed-simd');
  const facts = () => withPackage(page, async (uvit) => (await uvit.capabilities()).cpu);
  const hardwareConcurrency = await page.evaluate(() => navigator.hardwareConcurrency);
  assert.deepEqual(await facts(), { simd128: true, relaxedSimd: true, threads: false, hardwareConcurrency });
  await page.goto(`${isolated.url}/blank.html`);
  assert.equal(await page.evaluate(() => crossOriginIsolated), true);
  assert.deepEqual(await facts(), { simd128: true, relaxedSimd: true, threads: true, hardwareConcurrency });
  const drawn = await draw({ threads: 3 });
  assert.deepEqual([drawn.wasm, drawn.threads], ['threads', 3]);
  assert.equal((await draw({ threads: 1 })).threads, 1);
});

test('a pool that cannot be started is no obstacle: auto goes on without threads', async () => {
  await page.goto(`${isolated.url}/blank.html`);
  isolated.spoil = (path, bytes) => (path === '/package/thread.js' ? 'throw new Error("no threads today")' : bytes);
  assert.equal((await draw({ threads: 2 })).wasm, 'relaxed-simd');
  const error = await attempt({ wasm: 'threads', threads: 2 });
  assert.match(error.cause, /no threads today/);
});

test('threads that trap are noticed by the page, though their worker waits for them for ever', async () => {
  await page.goto(`${isolated.url}/blank.html`);
  const call = 'core.wbg_rayon_start_worker?.(data.receiver)';
  isolated.spoil = (path, bytes) => {
    if (path !== '/package/thread.js') return bytes;
    assert.ok(bytes.includes(call));
    return bytes.toString().replace(call, 'throw new WebAssembly.RuntimeError("trapped on purpose")');
  };
  const error = await withPackage(
    page,
    (uvit, model) => {
      const drawn = uvit.load(model, { device: 'cpu', threads: 2 }).then((pipeline) => pipeline.generate({ label: 6 }));
      return globalThis.attempt(drawn.then(() => 'drawn'));
    },
    MODEL,
  );
  assert.equal(error.code, 'WORKER_LOST', JSON.stringify(error));
  assert.match(error.remedy, /Load the model again/);
});

/** Makes the worker's browser one that lacks the instructions which the module's bytes have. */
const lacking = (opcodes) => `
  const validate = WebAssembly.validate;
  WebAssembly.validate = (bytes) => !${JSON.stringify(opcodes)}.some((op) => String([...bytes]).includes(op)) && validate(bytes);`;
const RELAXED_DOT = String([0xfd, 0x93, 0x02]);
const ANY_SIMD = String([0xfd, 0x0f]);

function spoilWorker(code) {
  plain.spoil = (path, bytes) => (path === '/package/worker.js' ? bytes.toString() + code : bytes);
}

test('a browser without relaxed SIMD gets simd128', async () => {
  spoilWorker(lacking([RELAXED_DOT]));
  const fetched = watchCores();
  assert.equal((await draw({})).wasm, 'simd128');
  assert.deepEqual(fetched, ['simd128']);
  const error = await attempt({ wasm: 'relaxed-simd' });
  assert.equal(error.code, 'SIMD_UNSUPPORTED');
});

test('a browser without SIMD gives SIMD_UNSUPPORTED before anything is fetched', async () => {
  spoilWorker(lacking([ANY_SIMD]));
  const fetched = watchCores();
  for (const wasm of ['auto', 'simd128', 'relaxed-simd']) {
    const error = await attempt({ wasm });
    assert.equal(error.code, 'SIMD_UNSUPPORTED');
    assert.match(error.remedy, /Update the browser/);
  }
  const found = await withPackage(page, (uvit) => globalThis.attempt(uvit.capabilities()));
  assert.equal(found.code, 'SIMD_UNSUPPORTED');
  assert.deepEqual(fetched, []);
});

test('threads without isolation give INVALID_ARGUMENT and say what is missing', async () => {
  const error = await attempt({ wasm: 'threads' });
  assert.equal(error.code, 'INVALID_ARGUMENT');
  assert.match(error.remedy, /COOP.*COEP/);
});

test('the built page draws with threads where its server isolates it', async () => {
  await page.goto(`${isolated.url}/?device=cpu&steps=2&seed=1`);
  await reach(page, 'ready');
  const threads = Math.min(await page.evaluate(() => navigator.hardwareConcurrency), 8);
  await page.click('#generate');
  await page.waitForSelector('canvas[data-kind=picture]');
  const said = await page.locator('[data-fact=parallel]').innerText();
  assert.match(said, threads > 1 ? new RegExp(`^${threads} threads`) : /^1 thread/);
  assert.deepEqual(page.errors, []);
});

async function attempt(options) {
  return withPackage(
    page,
    (uvit, [model, given]) =>
      globalThis.attempt(uvit.load(model, { device: 'cpu', ...given }).then(({ info }) => info)),
    [MODEL, options],
  );
}
