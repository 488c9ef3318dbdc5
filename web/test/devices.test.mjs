/**
 * Which build of the core a device gets, and how `device: 'auto'` goes on with the CPU where a GPU will not do: the browser's real
 * WebGPU, with flaws put in before the worker sees it.
 */

import assert from 'node:assert/strict';
import { after, afterEach, before, test } from 'node:test';
import { launch, openPage, WEBGPU, withPackage } from './browser.mjs';
import { startServer } from './server.mjs';

const MODEL = '/models/emoji/manifest.json';

let server;
let browser;
before(async () => {
  server = await startServer();
  browser = await launch(WEBGPU);
});
after(async () => {
  await browser.close();
  await server.close();
});
afterEach(() => {
  server.spoil = undefined;
});

/** The machine's software adapter passes for a real one. */
function real() {
  for (const { prototype } of [GPUAdapter, GPUAdapterInfo]) {
    Object.defineProperty(prototype, 'isFallbackAdapter', { configurable: true, get: () => false });
  }
}

/** In the shader that mixes the samplers' tensors: it compiles in no time. */
function wrong() {
  const make = GPUDevice.prototype.createShaderModule;
  GPUDevice.prototype.createShaderModule = function ({ label, code }) {
    return make.call(this, {
      label,
      code: code.replace('memory[params.out + at] = sum', 'memory[params.out + at] = -sum'),
    });
  };
}

/** The first of the model's own matrices that is uploaded is too much: those of the self-test are smaller. */
function lost() {
  const open = GPUAdapter.prototype.requestDevice;
  const { writeBuffer } = GPUQueue.prototype;
  const devices = new Map();
  GPUAdapter.prototype.requestDevice = async function (...options) {
    const device = await open.apply(this, options);
    devices.set(device.queue, device);
    return device;
  };
  GPUQueue.prototype.writeBuffer = function (buffer, at, data, ...part) {
    if (data.byteLength > 200_000) devices.get(this).destroy();
    return writeBuffer.call(this, buffer, at, data, ...part);
  };
}

/** No room for the weights, told as the specification says. */
function full() {
  const { createBuffer, pushErrorScope, popErrorScope } = GPUDevice.prototype;
  const scopes = [];
  GPUDevice.prototype.pushErrorScope = function (filter) {
    scopes.push({ filter });
    pushErrorScope.call(this, filter);
  };
  GPUDevice.prototype.popErrorScope = async function () {
    const { error } = scopes.pop();
    return (await popErrorScope.call(this)) ?? error ?? null;
  };
  GPUDevice.prototype.createBuffer = function (descriptor) {
    const scope = scopes.findLast(({ filter }) => filter === 'out-of-memory');
    if (descriptor.size > 1 << 20 && scope) scope.error = new GPUOutOfMemoryError('no memory, on purpose');
    return createBuffer.call(this, descriptor);
  };
}

/** Loads the model in a page whose worker runs the flaws first, draws a picture, and says how that went and what was fetched. */
async function loadWith(flaws, options = {}, spoil = (_, bytes) => bytes) {
  const first = flaws.map((flaw) => `(${flaw})();\n`).join('');
  server.spoil = (path, bytes) =>
    path === '/package/worker.js' ? Buffer.from(`${first}${bytes}`) : spoil(path, bytes);
  const page = await openPage(browser, `${server.url}/blank.html`);
  const fetched = [];
  page.on('request', (request) => {
    const variant = /\/package\/([a-z0-9-]+)\/uvit_web_bg\.wasm$/.exec(request.url())?.[1];
    if (variant) fetched.push(variant);
    if (request.url().endsWith('.safetensors')) fetched.push('weights');
  });
  try {
    const found = await withPackage(
      page,
      async (uvit, [model, options]) => {
        const progress = [];
        const onProgress = (now) => progress.push({ ...now });
        const loaded = await attempt(uvit.load(model, { tune: 'off', onProgress, ...options }));
        if (loaded.code) return { error: loaded };
        const { info } = loaded.value;
        const { images, device, deviceReason } = await loaded.value.generate({ label: 6, steps: 2, seed: 1 });
        return { info, drawn: [images.length, device, deviceReason], progress };
      },
      [MODEL, options],
    );
    return { ...found, fetched };
  } finally {
    await page.close();
  }
}

test('a device that is asked for gets its build, and no other is fetched', async () => {
  const gpu = await loadWith([], { device: 'webgpu' });
  assert.deepEqual([gpu.info.wasm, gpu.info.device, gpu.info.workers], ['webgpu', 'webgpu', 1]);
  assert.deepEqual(gpu.fetched.toSorted(), ['webgpu', 'weights']);
  const cpu = await loadWith([], { device: 'cpu' });
  assert.deepEqual([cpu.info.wasm, cpu.info.device, cpu.info.adapter], ['relaxed-simd', 'cpu', null]);
  assert.equal(cpu.info.deviceReason, 'the CPU was asked for');
  assert.deepEqual(cpu.fetched.toSorted(), ['relaxed-simd', 'weights']);
});

test('auto takes a real GPU', async () => {
  const { info, drawn, fetched } = await loadWith([real], { device: 'auto' });
  assert.deepEqual([info.wasm, info.device], ['webgpu', 'webgpu']);
  assert.match(info.deviceReason, /GPU was found/);
  assert.deepEqual(drawn, [1, 'webgpu', info.deviceReason]);
  assert.deepEqual(fetched.toSorted(), ['webgpu', 'weights']);
});

test('auto passes a software adapter by, with what it has in place of arithmetic that only GPUs have', async () => {
  const { info, fetched } = await loadWith([], { device: 'auto', compute: 'f16' });
  assert.deepEqual([info.wasm, info.device, info.compute], ['relaxed-simd', 'cpu', 'quality']);
  assert.match(info.deviceReason, /software/);
  assert.deepEqual(fetched.toSorted(), ['relaxed-simd', 'weights']);
});

const FAILURES = [
  ['computes wrong numbers', wrong, /the GPU failed its test .*wrong numbers/],
  ['is lost while the weights arrive', lost, /lost/],
  ['has too little memory', full, /no memory, on purpose/],
];

for (const [what, flaw, reason] of FAILURES) {
  test(`a GPU that ${what} is left for the CPU in the same call, which fetches the weights no second time`, async () => {
    const { info, drawn, progress, fetched } = await loadWith([real, flaw], { device: 'auto' });
    assert.deepEqual([info.wasm, info.device, info.adapter], ['relaxed-simd', 'cpu', null]);
    assert.match(info.deviceReason, reason);
    assert.deepEqual(drawn, [1, 'cpu', info.deviceReason]);
    assert.deepEqual(fetched.toSorted(), ['relaxed-simd', 'webgpu', 'weights']);
    const { phase, loadedBytes, totalBytes } = progress.at(-1);
    assert.deepEqual([phase, loadedBytes], ['compile', totalBytes]);
  });

  test(`a GPU that ${what} is an error where it, or its build, was asked for`, async () => {
    const asked = [{ device: 'webgpu' }, { device: 'auto', wasm: 'webgpu' }];
    // On a software adapter it takes its time until all variants of the kernels have been tried.
    for (const options of flaw === wrong ? asked.slice(1) : asked) {
      const { error, fetched } = await loadWith([real, flaw], options);
      assert.ok(['WRONG_RESULT', 'DEVICE_LOST', 'OUT_OF_MEMORY'].includes(error?.code), JSON.stringify(error));
      assert.ok(!fetched.includes('relaxed-simd'));
    }
  });
}

test('auto goes on with the CPU where the build for GPUs is not served', async () => {
  const spoil = (path, bytes) => (path === '/package/webgpu/uvit_web_bg.wasm' ? Buffer.from('not wasm') : bytes);
  const { info } = await loadWith([real], { device: 'auto' }, spoil);
  assert.deepEqual([info.wasm, info.device], ['relaxed-simd', 'cpu']);
  assert.match(info.deviceReason, /\(webgpu\) could not be started/);
});

test('a build decides for its device under auto, and contradicts any other', async () => {
  const software = await loadWith([], { device: 'auto', wasm: 'webgpu' });
  assert.equal(software.error.code, 'NO_WEBGPU');
  assert.match(software.error.cause, /software/);
  const cpu = await loadWith([real], { device: 'auto', wasm: 'simd128' });
  assert.deepEqual([cpu.info.wasm, cpu.info.device], ['simd128', 'cpu']);
  assert.match(cpu.info.deviceReason, /simd128/);
  for (const options of [
    { device: 'cpu', wasm: 'webgpu' },
    { device: 'webgpu', wasm: 'relaxed-simd' },
  ]) {
    const { error, fetched } = await loadWith([], options);
    assert.equal(error.code, 'INVALID_ARGUMENT');
    assert.match(error.remedy, /Leave wasm out/);
    assert.deepEqual(fetched, []);
  }
});
