/** The same pictures in Firefox as in Chromium: on WebGPU, whose shaders another compiler reads there, and on the CPU. */

import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { launch, launchFirefox, openPage, PATIENCE, WEBGPU, withPackage } from './browser.mjs';
import { startServer } from './server.mjs';

const MODEL = '/models/emoji/manifest.json';
const SETTINGS = { label: 6, seed: 11, steps: 4 };

const required = process.env.UVIT_GPU === 'required';

let server;
/** Firefox, with and without WebGPU. */
const firefox = {};
/** Why there is none. */
let missing;
before(async () => {
  server = await startServer();
  try {
    firefox.webgpu = await launchFirefox({ webgpu: true });
    firefox.plain = await launchFirefox({ webgpu: false });
  } catch (thrown) {
    missing = `no Firefox to be driven: ${thrown.message}`;
    if (required) throw new Error(missing);
  }
});
after(async () => {
  await Promise.all(Object.values(firefox).map((browser) => browser.close()));
  await server.close();
});

/** A guided picture, what made it, and how long that took. */
async function draw(page, options) {
  return withPackage(
    page,
    async (uvit, [model, options, settings]) => {
      const pipeline = await uvit.load(model, { tune: 'off', ...options });
      // What comes first in a browser takes longer.
      await pipeline.generate({ ...settings, steps: 2 });
      const { images, timings } = await pipeline.generate(settings);
      pipeline.dispose();
      const { device, compute, adapter, wasm } = pipeline.info;
      const pixels = [...images[0].rgba];
      return { pixels, step: timings.totalMs / settings.steps, device, compute, adapter, wasm };
    },
    [MODEL, options, SETTINGS],
  );
}

async function drawInFirefox(browser, options) {
  const page = await browser.newPage();
  try {
    await page.goto(`${server.url}/blank.html`);
    return await draw(page, options);
  } finally {
    await page.close();
  }
}

async function drawInChromium(options) {
  const browser = await launch(WEBGPU);
  try {
    return await draw(await openPage(browser, `${server.url}/blank.html`), options);
  } finally {
    await browser.close();
  }
}

/** Skips the test where there is no Firefox or no WebGPU in it, with the reason. */
async function canRun(t, { webgpu }) {
  if (missing) {
    t.skip(missing);
    return false;
  }
  if (!webgpu) return true;
  const page = await firefox.webgpu.newPage();
  await page.goto(`${server.url}/blank.html`);
  const found = await page.evaluate(async () => Boolean(await navigator.gpu?.requestAdapter()));
  await page.close();
  if (found) return true;
  if (required) assert.fail('Firefox has no WebGPU adapter, and UVIT_GPU=required');
  t.skip('Firefox has no WebGPU adapter on this machine');
  return false;
}

function assertSame(found, expected, most) {
  assert.equal(found.length, expected.length);
  const worst = found.reduce((worst, value, i) => Math.max(worst, Math.abs(value - expected[i])), 0);
  assert.ok(worst <= most, `off by ${worst} of 255`);
}

test('on WebGPU, in f32 and in f16, Firefox draws what Chromium draws', async (t) => {
  if (!(await canRun(t, { webgpu: true }))) return;
  const expected = await drawInChromium({ device: 'webgpu' });
  const exact = await drawInFirefox(firefox.webgpu, { device: 'webgpu' });
  assert.equal(exact.device, 'webgpu');
  assert.equal(exact.compute, 'f32');
  t.diagnostic(`f32: ${exact.step.toFixed(0)} ms a step`);
  assertSame(exact.pixels, expected.pixels, 1);
  if (!exact.adapter.shaderF16) {
    assert.ok(!required, 'Firefox has no shader-f16 here, and UVIT_GPU=required');
    t.diagnostic('f16: this adapter has no shader-f16');
    return;
  }
  const half = await drawInFirefox(firefox.webgpu, { device: 'webgpu', compute: 'f16' });
  assert.equal(half.compute, 'f16');
  t.diagnostic(`f16: ${half.step.toFixed(0)} ms a step`);
  assertSame(half.pixels, expected.pixels, 1);
});

test('without WebGPU Firefox draws on the CPU what Chromium draws there', async (t) => {
  if (!(await canRun(t, { webgpu: false }))) return;
  const found = await drawInFirefox(firefox.plain, { device: 'auto', compute: 'quality' });
  assert.equal(found.device, 'cpu');
  t.diagnostic(`CPU, ${found.wasm}: ${found.step.toFixed(0)} ms a step`);
  assertSame(found.pixels, (await drawInChromium({ device: 'cpu', compute: 'quality' })).pixels, 1);
});

test('the page draws from words in Firefox', async (t) => {
  if (!(await canRun(t, { webgpu: false }))) return;
  const page = await firefox.plain.newPage();
  const errors = [];
  page.on('pageerror', ({ message }) => errors.push(message));
  const found = (selector) =>
    page.waitForFunction((selector) => document.querySelector(selector), { timeout: PATIENCE }, selector);
  await page.goto(`${server.url}/?model=avatars&device=cpu&steps=4`);
  await found('html[data-state=ready]');
  await page.focus('#prompt');
  await page.keyboard.press('Enter');
  await found('canvas[data-kind=picture]');
  assert.deepEqual(errors, []);
  await page.close();
});
