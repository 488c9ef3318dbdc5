/** Workers that share the items of a batch on the CPU, without shared memory: the same pictures, and bad luck. */

import assert from 'node:assert/strict';
import { after, afterEach, before, beforeEach, test } from 'node:test';
import { plannedWorkers } from '../dist/parts.js';
import { launch, openPage, withPackage } from './browser.mjs';
import { startServer } from './server.mjs';

const MODEL = '/models/emoji/manifest.json';
/** Two workers whatever this machine has; the names are those of the worker's own globals. */
const TWO_CORES = "\nObject.defineProperty(navigator, 'hardwareConcurrency', { value: 2 });";

let server;
let browser;
let page;
before(async () => {
  server = await startServer();
  browser = await launch();
});
after(async () => {
  await browser.close();
  await server.close();
});
beforeEach(async () => {
  spoil({});
  page = await openPage(browser, `${server.url}/blank.html`);
});
afterEach(() => page.close());

/** Adds code to the main worker or to the helpers. */
function spoil({ worker = '', part = '' }) {
  server.spoil = (path, bytes) => {
    if (path === '/package/worker.js') return bytes.toString() + TWO_CORES + worker;
    return path === '/package/part.js' ? bytes.toString() + part : bytes;
  };
}

/** Something that happens in a helper when it is handed its second part of a picture. */
const atSecondForward = (what) => `
  let forwards = 0;
  self.addEventListener('message', ({ data }) => {
    if (data.type === 'forward' && ++forwards === 2) { ${what} }
  });`;

test('how many workers: threads, cores, 4 at most, and a quarter of the memory', () => {
  const mib = 2 ** 20;
  assert.equal(plannedWorkers(8, 8, 13 * mib, 8), 4);
  assert.equal(plannedWorkers(3, 8, 13 * mib, 8), 3);
  assert.equal(plannedWorkers(8, 2, 13 * mib, 8), 2);
  assert.equal(plannedWorkers(1, 8, 13 * mib, 8), 1);
  // 4 GiB where the browser does not say.
  assert.equal(plannedWorkers(8, 8, 342 * mib), 2);
  assert.equal(plannedWorkers(8, 8, 600 * mib), 1);
  assert.equal(plannedWorkers(8, 8, 5000 * mib, 8), 1);
});

test('two workers draw bit for bit what one draws: guidance, batches, odd numbers of items', async () => {
  const found = await withPackage(
    page,
    async (uvit, model) => {
      const one = await uvit.load(model, { device: 'cpu', compute: 'quality', threads: 1 });
      const two = await uvit.load(model, { device: 'cpu', compute: 'quality', threads: 2 });
      const cases = [];
      for (const options of [
        { guidanceScale: 2 },
        { guidanceScale: 1, count: 3 },
        { guidanceScale: 2, count: 3 },
        { guidanceScale: 1 },
      ]) {
        const settings = { label: 6, steps: 3, seed: 5, floatPixels: true, ...options };
        const [a, b] = [await one.generate(settings), await two.generate(settings)];
        const same = a.images.every(({ floats }, k) => floats.every((value, i) => value === b.images[k].floats[i]));
        cases.push({ same, workers: [a.workers, b.workers] });
      }
      return { cases, info: [one.info.workers, two.info.workers], wasm: two.info.wasm };
    },
    MODEL,
  );
  assert.deepEqual(found.info, [1, 2]);
  for (const { same } of found.cases) assert.ok(same);
  assert.deepEqual(
    found.cases.map(({ workers }) => workers),
    [
      [1, 2],
      [1, 2],
      [1, 2],
      [1, 1],
    ],
  );
});

const DEATHS = [
  ['throws', 'setTimeout(() => { throw new Error("crashed on purpose"); });'],
  // Without an error event, as when the browser runs out of memory.
  ['is gone without a word', 'self.close();'],
];
for (const [name, what] of DEATHS) {
  test(`a helper that ${name} in the middle of a step gives WORKER_LOST, and the next call works`, async () => {
    spoil({ part: atSecondForward(what) });
    const { error, after, workers } = await withPackage(
      page,
      async (uvit, model) => {
        const pipeline = await uvit.load(model, { device: 'cpu', threads: 2 });
        const settings = { label: 6, steps: 4, seed: 5, guidanceScale: 2 };
        const error = await attempt(pipeline.generate(settings).then(() => 'drawn'));
        const after = await pipeline.generate({ ...settings, steps: 1 });
        return { error, after: after.workers, workers: pipeline.info.workers };
      },
      MODEL,
    );
    assert.equal(error.code, 'WORKER_LOST', JSON.stringify(error));
    assert.match(error.remedy, /generate again/);
    assert.equal(after, 1);
    assert.equal(workers, 1);
    assert.deepEqual(page.errors, []);
  });
}

const FAILURES = [
  ['cannot be started', { part: '\nthrow new Error("no helpers today");' }],
  ['cannot allocate', { part: '\nWebAssembly.instantiate = async () => { throw new RangeError("out of memory"); };' }],
  ['is not affordable', { worker: "\nObject.defineProperty(navigator, 'deviceMemory', { value: 0.05 });" }],
];
for (const [name, spoiled] of FAILURES) {
  test(`a helper that ${name}: the picture is drawn with fewer, and says so`, async () => {
    spoil(spoiled);
    const found = await withPackage(
      page,
      async (uvit, model) => {
        const pipeline = await uvit.load(model, { device: 'cpu', threads: 2 });
        const { images, workers } = await pipeline.generate({ label: 6, steps: 1, guidanceScale: 2 });
        return { images: images.length, workers, info: pipeline.info.workers };
      },
      MODEL,
    );
    assert.deepEqual(found, { images: 1, workers: 1, info: 1 });
  });
}

test('an abort waits for no helper, and the next picture is as it would have been', async () => {
  // A helper that answers a second late: whoever waits for it is found out.
  spoil({
    part: '\nconst post = self.postMessage.bind(self);\nself.postMessage = (...all) => { setTimeout(() => post(...all), all[0].type === "values" ? 1000 : 0); };',
  });
  const { error, waited, workers } = await withPackage(
    page,
    async (uvit, model) => {
      const pipeline = await uvit.load(model, { device: 'cpu', threads: 2 });
      const settings = { label: 6, steps: 2, seed: 5, guidanceScale: 2 };
      const first = await pipeline.generate(settings);
      const stop = new AbortController();
      let asked = 0;
      setTimeout(() => {
        asked = performance.now();
        stop.abort();
      }, 300);
      const error = await attempt(
        pipeline.generate({ ...settings, steps: 100, signal: stop.signal }).then(() => 'drawn'),
      );
      const waited = performance.now() - asked;
      const again = await pipeline.generate(settings);
      const same = again.images[0].rgba.every((value, i) => value === first.images[0].rgba[i]);
      return { error, waited, workers: same && again.workers };
    },
    MODEL,
  );
  assert.equal(error.code, 'ABORTED');
  // 100 ms is the promise; the rest is slack for a machine that is busy with other things.
  assert.ok(waited < 600, `the abort took ${waited} ms`);
  assert.equal(workers, 2);
});

test('dispose() ends the helpers too', async () => {
  const { before, after } = await withPackage(
    page,
    async (uvit, model) => {
      // Each worker holds a lock for as long as it lives: the main one and a helper.
      const living = async () => (await navigator.locks.query()).held.length;
      const pipeline = await uvit.load(model, { device: 'cpu', threads: 2 });
      await pipeline.generate({ label: 6, steps: 1, guidanceScale: 2 });
      const before = await living();
      const running = attempt(pipeline.generate({ label: 6, steps: 50, guidanceScale: 2 }));
      pipeline.dispose();
      await running;
      for (let tries = 0; tries < 50 && (await living()) > 0; tries++)
        await new Promise((done) => setTimeout(done, 100));
      return { before, after: await living() };
    },
    MODEL,
  );
  assert.equal(before, 2);
  assert.equal(after, 0);
});

test('forward() computes one call of the network, in its turn, and checks what it is given', async () => {
  const found = await withPackage(
    page,
    async (uvit, model) => {
      const pipeline = await uvit.load(model, { device: 'cpu', threads: 1 });
      const size = 3 * 64 * 64;
      const latents = Float32Array.from({ length: 2 * size }, (_, i) => Math.sin(i));
      const order = [];
      const note = async (name, promise) => {
        const value = await promise;
        order.push(name);
        return value;
      };
      const [, { out: both }] = await Promise.all([
        note('generate', pipeline.generate({ label: 6, steps: 2 })),
        note('forward', pipeline.forward({ x: latents, timesteps: [999, 500], y: [3, 4] })),
        note('last', pipeline.generate({ label: 6, steps: 1 })),
      ]);
      const second = { x: latents.slice(size), timesteps: new Float32Array([500]), y: new Uint32Array([4]) };
      const { out: alone } = await pipeline.forward(second);
      const bad = [
        {},
        { ...second, x: Array.from(second.x) },
        { ...second, x: new Float32Array(7) },
        { ...second, x: new Float32Array(0), timesteps: [], y: [] },
        { ...second, x: new Float32Array(size).fill(Number.NaN) },
        { x: second.x, timesteps: second.timesteps },
        { ...second, context: new Float32Array(4) },
        { ...second, out: new Float32Array(size) },
        { ...second, timesteps: [1, 2] },
        { ...second, timesteps: [Number.NaN] },
        { ...second, timesteps: '1' },
        { ...second, y: [1, 2] },
        { ...second, y: [1.5] },
        { ...second, y: [-1] },
        { ...second, y: [99] },
      ];
      const codes = [];
      for (const options of bad) codes.push((await attempt(pipeline.forward(options))).code);
      const { out: after } = await pipeline.forward(second);
      return {
        order,
        length: both.length,
        finite: both.every(Number.isFinite),
        same: alone.every((value, i) => value === both[size + i] && value === after[i]),
        codes,
      };
    },
    MODEL,
  );
  assert.deepEqual(found.order, ['generate', 'forward', 'last']);
  assert.equal(found.length, 2 * 3 * 64 * 64);
  assert.ok(found.finite && found.same);
  assert.deepEqual(new Set(found.codes), new Set(['INVALID_ARGUMENT']));
});

test('forward() calls any network of a model', async () => {
  const found = await withPackage(
    page,
    async (uvit, model) => {
      const pipeline = await uvit.load(model, { device: 'cpu', compute: 'f32', threads: 2 });
      const z = Float32Array.from({ length: 2 * 4 * 16 * 16 }, (_, i) => Math.sin(i));
      const decoder = { component: 'decoder' };
      const { decoded: both } = await pipeline.forward({ z }, decoder);
      const { decoded: second } = await pipeline.forward({ z: z.slice(z.length / 2) }, decoder);
      const ids = Array.from({ length: 32 }, (_, i) => i);
      const { last_hidden_state: states } = await pipeline.forward({ input_ids: ids }, { component: 'text_encoder' });
      const bad = [{ component: 'vocoder' }, { component: 'encoder' }, { component: 3 }, null];
      const codes = [];
      for (const options of bad) codes.push((await attempt(pipeline.forward({ z }, options))).code);
      return {
        components: pipeline.info.components.map(({ name }) => name),
        lengths: [both.length, states.length],
        same: second.every((value, i) => Number.isFinite(value) && value === both[both.length / 2 + i]),
        codes,
      };
    },
    '/models/avatars/manifest.json',
  );
  const forth = ['text_encoder', 'text_projector', 'denoiser', 'decoder'];
  assert.deepEqual(found.components, [...forth, 'encoder', 'image_encoder', 'caption_decoder']);
  assert.deepEqual(found.lengths, [2 * 3 * 64 * 64, 32 * 128]);
  assert.ok(found.same);
  assert.deepEqual(new Set(found.codes), new Set(['INVALID_ARGUMENT']));
});
