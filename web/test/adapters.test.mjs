/**
 * Adapters that misbehave: the browser's real WebGPU, with one flaw put in before the worker sees it. The tuner takes no
 * variant that is wrong or does not compile, and says what it left out.
 */

import assert from 'node:assert/strict';
import { after, afterEach, before, test } from 'node:test';
import { launch, openPage, WEBGPU, withPackage } from './browser.mjs';
import { startServer } from './server.mjs';

const MODEL = '/models/emoji/manifest.json';

let server;
let browser;
/** What an adapter without flaws draws. */
let sound;
before(async () => {
  server = await startServer();
  browser = await launch(WEBGPU);
  sound = await loadWith(() => {}, { tune: 'off' });
});
after(async () => {
  await browser.close();
  await server.close();
});
afterEach(() => {
  server.spoil = undefined;
});

/** Loads the model in a page whose worker runs `flaw` first, draws a picture and says how all that went. */
async function loadWith(flaw, options = {}) {
  server.spoil = (path, bytes) => (path === '/package/worker.js' ? Buffer.from(`(${flaw})();\n${bytes}`) : bytes);
  const page = await openPage(browser, `${server.url}/blank.html`);
  try {
    return await withPackage(
      page,
      async (uvit, [model, options]) => {
        const loaded = await attempt(uvit.load(model, { device: 'webgpu', tune: 'again', ...options }));
        if (loaded.code) return { error: loaded };
        const pipeline = loaded.value;
        const drawn = await attempt(pipeline.generate({ label: 0, steps: 2, seed: 1 }));
        const profile = options.profile && (await pipeline.profile());
        const { tuned, adapter } = pipeline.info;
        return { tuned, adapter, pixels: drawn.value && [...drawn.value.images[0].rgba], drawn, profile };
      },
      [MODEL, options],
    );
  } finally {
    await page.close();
  }
}

test('a variant that computes wrong numbers is never taken, however fast', async () => {
  const { tuned, pixels } = await loadWith(() => {
    const make = GPUDevice.prototype.createShaderModule;
    GPUDevice.prototype.createShaderModule = function (descriptor) {
      const { label, code } = descriptor;
      const wrong = /^matmul .*\bROWS=11 .*\bLANES=4 /.test(label);
      return make.call(this, { label, code: wrong ? code.replace('out[at] = value', 'out[at] = 1.01 * value') : code });
    };
  });
  assert.match(tuned.trials[0].error, /computes wrong numbers/);
  assert.equal(tuned.trials[0].matmulMs, null);
  assert.notDeepEqual(tuned.tuning.matmul, tuned.trials[0].tuning.matmul);
  assert.ok(tuned.trials.some((trial) => trial.error === null && trial.matmulMs > 0));
  assertSame(pixels);
});

test('a variant that does not compile is reported with its line, and the next one taken, tuned or not', async () => {
  for (const tune of ['again', 'off']) {
    const { tuned, pixels } = await loadWith(
      () => {
        const make = GPUDevice.prototype.createShaderModule;
        GPUDevice.prototype.createShaderModule = function (descriptor) {
          const { label, code } = descriptor;
          const broken = /^matmul .*\bROWS=11 .*\bLANES=4 /.test(label);
          return make.call(this, { label, code: broken ? code.replace('let lane =', 'let lane = nothing *') : code });
        };
      },
      { tune },
    );
    const { error } = tuned.trials[0];
    assert.match(error, /^shader matmul .*: \d+:\d+ .*nothing/s);
    assert.match(error, /let lane = invocation % 4u/);
    assert.notDeepEqual(tuned.tuning.matmul, tuned.trials[0].tuning.matmul);
    assertSame(pixels);
  }
});

test('an adapter on which every variant is wrong is not used', async () => {
  const { error } = await loadWith(() => {
    const make = GPUDevice.prototype.createShaderModule;
    GPUDevice.prototype.createShaderModule = function ({ label, code }) {
      return make.call(this, { label, code: code.replaceAll('out[at] = value', 'out[at] = -value') });
    };
  });
  assert.equal(error.code, 'WRONG_RESULT');
  assert.match(error.cause, /wrong numbers/);
});

test('a device that is lost while it is tuned is opened again, and runs what needs no tuning', async () => {
  const { tuned, pixels } = await loadWith(() => {
    const open = GPUAdapter.prototype.requestDevice;
    let opened = 0;
    GPUAdapter.prototype.requestDevice = async function (...options) {
      const device = await open.apply(this, options);
      opened += 1;
      if (opened > 1) return device;
      const make = device.createQuerySet.bind(device);
      device.createQuerySet = (descriptor) => {
        const queries = make(descriptor);
        device.destroy();
        return queries;
      };
      return device;
    };
  });
  assert.deepEqual(
    tuned.trials.map((trial) => [trial.matmulMs, trial.error]),
    [[null, null]],
  );
  assert.equal(tuned.remembered, false);
  assertSame(pixels);
});

test('without timestamp queries the worker’s clock times the kernels', async () => {
  const { tuned, profile, pixels } = await loadWith(
    () => {
      const { get } = Object.getOwnPropertyDescriptor(GPUAdapter.prototype, 'features');
      Object.defineProperty(GPUAdapter.prototype, 'features', {
        get() {
          const features = get.call(this);
          return { has: (name) => name !== 'timestamp-query' && features.has(name) };
        },
      });
    },
    { profile: true },
  );
  assert.ok(tuned.trials[0].matmulMs > 0);
  assert.equal(profile.clock, 'host');
  assert.ok(profile.peak > 1e8);
  assert.ok(profile.kernels.every(({ nanoseconds }) => nanoseconds > 0));
  assertSame(pixels);
});

test('without subgroups the kernels do without', async () => {
  const { tuned, pixels } = await loadWith(() => {
    const { get } = Object.getOwnPropertyDescriptor(GPUAdapter.prototype, 'features');
    Object.defineProperty(GPUAdapter.prototype, 'features', {
      get() {
        const features = get.call(this);
        return { has: (name) => name !== 'subgroups' && features.has(name) };
      },
    });
  });
  for (const { tuning, error } of tuned.trials) {
    assert.equal(error, null);
    assert.equal(tuning.matmul.lanes, 1);
    assert.equal(tuning.attention.shared, false);
  }
  assertSame(pixels);
});

test('subgroups whose size the browser does not say are not used', async () => {
  const { adapter, tuned, pixels } = await loadWith(
    () => Object.defineProperty(GPUAdapterInfo.prototype, 'subgroupMinSize', { get: () => undefined }),
    { tune: 'off' },
  );
  assert.equal(adapter.subgroupSize, 1);
  assert.equal(tuned.tuning.matmul.lanes, 1);
  assertSame(pixels);
});

/** A device with too little memory for its `nth` readback: told as the specification says, to the scope or to the listener. */
const READBACKS = (scoped) => `
  const nth = ${scoped ? 1 : 2};
  const { createBuffer, pushErrorScope, popErrorScope } = GPUDevice.prototype;
  const scopes = [];
  // Those of loading come before the first picture, and go well.
  let readbacks = Infinity;
  self.addEventListener('message', ({ data }) => { if (data.type === 'generate') readbacks = 0; });
  let failures = 2;
  const fail = (device) => {
    const error = new GPUOutOfMemoryError('no memory, on purpose');
    const scope = ${scoped} && scopes.findLast(({ filter }) => filter === 'out-of-memory');
    if (scope) scope.error ??= error;
    else device.dispatchEvent(new GPUUncapturedErrorEvent('uncapturederror', { error }));
  };
  GPUDevice.prototype.pushErrorScope = function (filter) {
    scopes.push({ filter });
    pushErrorScope.call(this, filter);
  };
  GPUDevice.prototype.popErrorScope = async function () {
    const { error } = scopes.pop();
    return (await popErrorScope.call(this)) ?? error ?? null;
  };
  GPUDevice.prototype.createBuffer = function (descriptor) {
    const buffer = createBuffer.call(this, descriptor);
    if (descriptor.label !== 'readback' || ++readbacks !== nth || failures === 0) return buffer;
    failures--;
    fail(this);
    if (${scoped}) buffer.destroy();
    return buffer;
  };`;

for (const scoped of [true, false]) {
  const where = scoped ? 'in a readback' : 'where nobody waits for it';
  test(`memory that runs out ${where} is told as OUT_OF_MEMORY, once, and the next picture is right`, async () => {
    server.spoil = (path, bytes) =>
      path === '/package/worker.js' ? Buffer.from(`(() => {${READBACKS(scoped)}})();\n${bytes}`) : bytes;
    const page = await openPage(browser, `${server.url}/blank.html`);
    const [first, second, third] = await withPackage(
      page,
      async (uvit, model) => {
        const pipeline = await uvit.load(model, { device: 'webgpu', tune: 'off' });
        const found = [];
        const settings = { label: 0, steps: 2, seed: 1, preview: true, onStep: () => {} };
        for (let k = 0; k < 3; k++) {
          found.push(await attempt(pipeline.generate(settings).then(({ images }) => [...images[0].rgba])));
        }
        return found;
      },
      MODEL,
    );
    await page.close();
    for (const error of [first, second]) {
      assert.equal(error.code, 'OUT_OF_MEMORY', JSON.stringify(error).slice(0, 200));
      assert.match(error.cause, /no memory, on purpose/);
    }
    assertSame(third.value);
  });
}

/** The picture of the sound adapter: other tiles add in another order, so a value may fall on the other side of a half. */
function assertSame(pixels) {
  assert.equal(pixels.length, sound.pixels.length);
  const worst = pixels.reduce((most, value, i) => Math.max(most, Math.abs(value - sound.pixels[i])), 0);
  assert.ok(worst <= 1, `off by ${worst} of 255`);
}
