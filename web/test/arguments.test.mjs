/** Whatever is passed to a public call, a rejection is a UvitError that says what is wrong with it. */

import assert from 'node:assert/strict';
import { after, afterEach, before, beforeEach, test } from 'node:test';
import { launch, openPage, withPackage } from './browser.mjs';
import { startServer } from './server.mjs';

const MODEL = '/models/emoji/manifest.json';

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
  page = await openPage(browser, `${server.url}/blank.html`);
  // Values of every kind, by name; none is right for any option, but where a test says so.
  await page.evaluate(() => {
    const detached = new Float32Array(3 * 64 * 64);
    structuredClone(detached, { transfer: [detached.buffer] });
    const refuses = () => {
      throw new Error('refused on purpose');
    };
    globalThis.VALUES = {
      null: null,
      true: true,
      '-1': -1,
      0.5: 0.5,
      NaN: Number.NaN,
      bigint: 1n,
      'empty text': '',
      text: 'no such thing',
      symbol: Symbol('s'),
      function: () => {},
      'empty array': [],
      array: ['a', null],
      object: { a: 1 },
      'without prototype': Object.create(null),
      'refuses to be text': { toString: refuses, valueOf: refuses, [Symbol.toPrimitive]: refuses },
      'refuses to be read': new Proxy({}, { get: refuses, has: refuses, ownKeys: refuses }),
      'revoked proxy': revoked(),
      map: new Map(),
      date: new Date(Number.NaN),
      detached,
      'other numbers': new BigInt64Array(4),
    };
    function revoked() {
      const { proxy, revoke } = Proxy.revocable({}, {});
      revoke();
      return proxy;
    }
    /** What each of these calls rejects with, by its name. */
    globalThis.rejections = async (UvitError, calls) => {
      const found = [];
      for (const [name, call] of calls) {
        try {
          const value = await call();
          value?.dispose?.();
          found.push([name, 'resolved']);
        } catch (error) {
          const whole = error instanceof UvitError && error.cause.length > 5 && error.remedy.length > 5;
          found.push([name, whole ? error.code : `${error}`]);
        }
      }
      return found;
    };
  });
});
afterEach(() => page.close());

/** All were refused as arguments, those aside that may pass. */
function assertRefused(found, mayPass = []) {
  assert.ok(found.length > 10);
  const wrong = found.filter(([name, code]) => code !== 'INVALID_ARGUMENT' && !mayPass.includes(name));
  assert.deepEqual(wrong, []);
}

test('load(): every address and every option', async () => {
  const found = await withPackage(
    page,
    async (uvit, model) => {
      const calls = [];
      const options = ['device', 'dtype', 'compute', 'threads', 'wasm', 'tune', 'onProgress', 'signal'];
      for (const [kind, value] of Object.entries(globalThis.VALUES)) {
        if (typeof value !== 'string') calls.push([`address ${kind}`, () => uvit.load(value)]);
        calls.push([`options ${kind}`, () => uvit.load(model, value)]);
        for (const option of options) calls.push([`${option} ${kind}`, () => uvit.load(model, { [option]: value })]);
      }
      calls.push(['address http://[', () => uvit.load('http://[')]);
      return globalThis.rejections(uvit.UvitError, calls);
    },
    MODEL,
  );
  // Objects without any of our options are options; that the proxy is none shows when it is read.
  const objects = ['empty array', 'array', 'object', 'without prototype', 'refuses to be text', 'map', 'date'];
  const numbers = ['detached', 'other numbers'];
  assertRefused(found, [...[...objects, ...numbers].map((kind) => `options ${kind}`), 'onProgress function']);
  assert.ok(found.every(([, code]) => code === 'resolved' || code === 'INVALID_ARGUMENT'));
});

test('generate(), forward() and profile(): every option, and the pipeline goes on', async () => {
  const { found, after } = await withPackage(
    page,
    async (uvit, model) => {
      const pipeline = await uvit.load(model, { device: 'cpu', threads: 1 });
      const calls = [];
      const one = { label: 0, steps: 1 };
      const all = { x: new Float32Array(3 * 64 * 64), timesteps: [1], y: [0] };
      const options = {
        generate: ['label', 'steps', 'guidanceScale', 'seed', 'count', 'sampler', 'grid', 'preset'],
        more: ['guidanceInterval', 'cache', 'signal', 'onStep', 'preview', 'startLatents', 'floatPixels', 'churn'],
        pictures: ['initImage', 'mask', 'strength', 'freshNoise', 'image', 'mode', 'beams', 'onText', 'latents'],
        clips: ['frames', 'overlap', 'firstFrames'],
        forward: ['x', 'timesteps', 'y', 'out'],
      };
      for (const [kind, value] of Object.entries(globalThis.VALUES)) {
        if (typeof value !== 'object' || value === null) {
          calls.push([`generate ${kind}`, () => pipeline.generate(value)]);
          calls.push([`profile ${kind}`, () => pipeline.profile(value)]);
        }
        calls.push([`forward ${kind}`, () => pipeline.forward(value)]);
        for (const option of [...options.generate, ...options.more, ...options.pictures, ...options.clips]) {
          calls.push([`${option} ${kind}`, () => pipeline.generate({ ...one, [option]: value })]);
        }
        for (const option of options.forward) {
          calls.push([`${option} ${kind}`, () => pipeline.forward({ ...all, [option]: value })]);
        }
      }
      calls.push(['forward nothing', () => pipeline.forward()]);
      calls.push(['interval of text', () => pipeline.generate({ ...one, guidanceInterval: ['0', '1'] })]);
      calls.push(['refuses', () => pipeline.generate(globalThis.VALUES['refuses to be read'])]);
      const found = await globalThis.rejections(uvit.UvitError, calls);
      return { found, after: (await pipeline.generate(one)).images.length };
    },
    MODEL,
  );
  const mayPass = ['guidanceScale -1', 'guidanceScale 0.5', 'onStep function', 'onText function', 'latents true'];
  assertRefused(found, [...mayPass, 'cache true', 'preview true', 'floatPixels true']);
  assert.ok(found.every(([, code]) => code === 'resolved' || code === 'INVALID_ARGUMENT'));
  assert.equal(after, 1);
});

test('what is given stays the caller’s, whichever memory it lies in', async () => {
  const found = await withPackage(
    page,
    async (uvit, model) => {
      const pipeline = await uvit.load(model, { device: 'cpu', threads: 1 });
      const memory = new WebAssembly.Memory({ initial: 4 });
      const startLatents = new Float32Array(memory.buffer, 16, 3 * 64 * 64).fill(0.5);
      const settings = { label: 0, steps: 1, startLatents };
      const first = await pipeline.generate(settings);
      const second = await pipeline.generate(settings);
      const timesteps = new Float64Array([500]);
      const labels = new Uint32Array([0]);
      for (let k = 0; k < 2; k++) await pipeline.forward({ x: startLatents, timesteps, y: labels });
      const same = second.images[0].rgba.every((value, i) => value === first.images[0].rgba[i]);
      const mask = new Float32Array(64 * 64).fill(0);
      const pictures = [startLatents, new ImageData(64, 64), await createImageBitmap(new ImageData(64, 64))];
      // What is in them at the time of the call counts, whatever becomes of them.
      const kept = pictures.map((initImage) => pipeline.generate({ label: 0, steps: 1, initImage, mask }));
      startLatents.fill(-1);
      mask.fill(1);
      const red = (await Promise.all(kept)).map(({ images }) => images[0].rgba[0]);
      return [same, startLatents.length, timesteps.length, labels.length, red, mask.length, pictures[2].width];
    },
    MODEL,
  );
  assert.deepEqual(found, [true, 3 * 64 * 64, 1, 1, [191, 255, 255], 64 * 64, 64]);
});
