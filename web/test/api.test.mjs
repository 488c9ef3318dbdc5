/** What `load()` and `generate()` promise: order, aborts, seeds, previews, disposal. */

import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { after, afterEach, before, beforeEach, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { launch, openPage, WEBGPU, withPackage } from './browser.mjs';
import { tensorsIn, valuesOf } from './safetensors.mjs';
import { startServer } from './server.mjs';

const MODEL = '/models/emoji/manifest.json';

/** The tensors of a .safetensors file, by name. */
function tensors(bytes) {
  const all = tensorsIn(bytes).map(([name, tensor]) => [name, { shape: tensor.shape, values: valuesOf(tensor) }]);
  return Object.fromEntries(all);
}

let server;
let browser;
let page;
before(async () => {
  server = await startServer();
  browser = await launch(WEBGPU);
});
after(async () => {
  await browser.close();
  await server.close();
});
beforeEach(async () => {
  page = await openPage(browser, `${server.url}/blank.html`);
});
afterEach(() => page.close());

test('capabilities() names the adapter, its limits and the CPU features', async () => {
  const found = await withPackage(page, (uvit) => uvit.capabilities());
  assert.match(found.version, /^\d+\.\d+\.\d+/);
  assert.equal(found.cpu.simd128, true);
  assert.equal(found.webgpu.available, true);
  assert.equal(typeof found.webgpu.adapter.vendor, 'string');
  assert.equal(typeof found.webgpu.adapter.isFallbackAdapter, 'boolean');
});

test('loading reports bytes, and the pipeline says what it is', async () => {
  const { info, progress } = await withPackage(
    page,
    async (uvit, model) => {
      const progress = [];
      const onProgress = (now) => progress.push({ ...now });
      const pipeline = await uvit.load(model, { device: 'webgpu', tune: 'off', onProgress });
      pipeline.dispose();
      return { info: pipeline.info, progress };
    },
    MODEL,
  );
  const last = progress.at(-1);
  assert.equal(last.phase, 'compile');
  assert.ok(last.totalBytes > 1e6 && last.loadedBytes === last.totalBytes);
  for (const [i, now] of progress.entries()) assert.ok(i === 0 || now.loadedBytes >= progress[i - 1].loadedBytes);
  assert.equal(info.device, 'webgpu');
  assert.equal(info.imageSize, 64);
  assert.equal(info.labels.length, 30);
  assert.deepEqual(Object.keys(info.labels[0]).sort(), ['index', 'kind', 'name', 'style']);
  assert.ok(info.samplers.includes(info.defaults.sampler));
  assert.ok(info.licences.length >= 3);
});

test('a manifest of version 2 is the same model as its version 1', async () => {
  const draw = (uvit, model) =>
    uvit.load(model, { device: 'cpu', compute: 'quality' }).then(async (pipeline) => {
      const { images, settings } = await pipeline.generate({ label: 6, seed: 3, steps: 1 });
      return { hash: settings.modelHash, pixels: [...images[0].rgba] };
    });
  const old = await withPackage(page, draw, MODEL);
  server.spoil = (path, bytes) => {
    if (path !== MODEL) return bytes;
    const { architecture, params, variants, ...rest } = JSON.parse(bytes);
    assert.equal(rest.format_version, 1);
    const components = { denoiser: { architecture, params, variants } };
    return Buffer.from(JSON.stringify({ ...rest, format_version: 2, task: 'class', components }));
  };
  assert.deepEqual(await withPackage(page, draw, MODEL), old);
  server.spoil = undefined;
});

test('generations run one after the other, in the order of the calls', async () => {
  const { order, seeds } = await withPackage(
    page,
    async (uvit, model) => {
      const pipeline = await uvit.load(model, { device: 'webgpu', tune: 'off' });
      const order = [];
      const one = (seed) =>
        pipeline.generate({ label: 0, steps: 3, seed, onStep: ({ step }) => order.push(`${seed}:${step}`) });
      const results = await Promise.all([one(1), one(2), one(3)]);
      return { order, seeds: results.map((result) => result.seed) };
    },
    MODEL,
  );
  assert.deepEqual(seeds, [1, 2, 3]);
  assert.deepEqual(order, ['1:1', '1:2', '1:3', '2:1', '2:2', '2:3', '3:1', '3:2', '3:3']);
});

test('an abort at any moment rejects that call alone, and the next picture is as it would have been', async () => {
  const { before, codes, queued, result } = await withPackage(
    page,
    async (uvit, model) => {
      const pipeline = await uvit.load(model, { device: 'webgpu', tune: 'off' });
      const settings = { label: 6, steps: 3, seed: 9 };
      const first = await pipeline.generate(settings);
      const before = await attempt(pipeline.generate({ ...settings, signal: AbortSignal.abort() }));
      const codes = [];
      for (const delay of [0, 1, 5, 20, 60, 150]) {
        const signal = AbortSignal.timeout(delay);
        codes.push(await attempt(pipeline.generate({ ...settings, steps: 500, signal })));
      }
      // Aborting what waits leaves what runs alone.
      const waiting = new AbortController();
      const running = pipeline.generate(settings);
      const second = attempt(pipeline.generate({ ...settings, signal: waiting.signal }));
      const third = pipeline.generate(settings);
      waiting.abort();
      const queued = await second;
      const same = [await running, await third].every(({ images }) =>
        images[0].rgba.every((value, i) => value === first.images[0].rgba[i]),
      );
      return { before, codes, queued, result: same };
    },
    MODEL,
  );
  for (const error of [before, queued, ...codes]) {
    assert.equal(error.code, 'ABORTED');
    assert.equal(error.name, 'AbortError');
  }
  assert.ok(result, 'the other pictures are bit for bit the first one');
});

test('on the CPU too the page stays alive, and an abort takes effect within a step', async () => {
  const { error, waited, step, gap } = await withPackage(
    page,
    async (uvit, model) => {
      const pipeline = await uvit.load(model, { device: 'cpu' });
      const stop = new AbortController();
      let gap = 0;
      let last = performance.now();
      const clock = setInterval(() => {
        gap = Math.max(gap, performance.now() - last);
        last = performance.now();
      }, 10);
      let asked = 0;
      let step = 0;
      const onStep = (now) => {
        step = now.elapsedMs / now.step;
        if (now.step < 2 || asked) return;
        asked = performance.now();
        stop.abort();
      };
      const error = await attempt(pipeline.generate({ label: 6, steps: 200, signal: stop.signal, onStep }));
      clearInterval(clock);
      return { error, waited: performance.now() - asked, step, gap };
    },
    MODEL,
  );
  assert.equal(error.code, 'ABORTED');
  // Half a second of slack for a machine whose cores are busy with other things.
  assert.ok(waited < 1.5 * step + 500, `the abort took ${waited} ms, a step takes ${step} ms`);
  assert.ok(gap < 500, `the page stood still for ${gap} ms`);
});

test('seeds: random and returned when none is given, seed + k for picture k', async () => {
  const { seeds, alone, difference } = await withPackage(
    page,
    async (uvit, model) => {
      const pipeline = await uvit.load(model, { device: 'webgpu', tune: 'off' });
      const random = [await pipeline.generate({ label: 0, steps: 1 }), await pipeline.generate({ label: 0, steps: 1 })];
      const pair = await pipeline.generate({ label: 6, steps: 2, seed: 70, count: 2 });
      const alone = await pipeline.generate({ label: 6, steps: 2, seed: 71 });
      const difference = alone.images[0].rgba.reduce(
        (worst, value, i) => Math.max(worst, Math.abs(value - pair.images[1].rgba[i])),
        0,
      );
      return { seeds: random.map(({ seed }) => seed), alone: pair.images.map(({ seed }) => seed), difference };
    },
    MODEL,
  );
  for (const seed of seeds) assert.ok(Number.isInteger(seed) && seed >= 0 && seed < 2 ** 32);
  assert.notEqual(seeds[0], seeds[1]);
  assert.deepEqual(alone, [70, 71]);
  assert.ok(difference <= 1, `a picture of a pair differs by ${difference} from the same seed alone`);
});

test('previews, float pixels and start latents come only when asked for', async () => {
  const found = await withPackage(
    page,
    async (uvit, model) => {
      const pipeline = await uvit.load(model, { device: 'webgpu', tune: 'off' });
      const sizes = [];
      const onStep = ({ preview }) => sizes.push(preview?.map(({ width, height }) => `${width}x${height}`).join());
      const settings = { label: 6, steps: 2, seed: 5 };
      const plain = await pipeline.generate({ ...settings, onStep });
      const rich = await pipeline.generate({ ...settings, count: 2, onStep, preview: true, floatPixels: true });
      const startLatents = new Float32Array(3 * 64 * 64).fill(0.5);
      const started = await pipeline.generate({ ...settings, startLatents });
      const wrong = await attempt(pipeline.generate({ ...settings, startLatents: new Float32Array(7) }));
      const floats = rich.images[1].floats;
      // From the float pixels follow the bytes: red of the first pixel.
      const red = Math.min(255, Math.max(0, Math.round((floats[0] + 1) * 127.5)));
      return {
        sizes,
        none: plain.images[0].floats === undefined,
        floats: floats.length,
        red: Math.abs(red - rich.images[1].rgba[0]),
        sameMemory: plain.images[0].rgba === plain.images[0].imageData.data,
        changed: started.images[0].rgba.some((value, i) => value !== plain.images[0].rgba[i]),
        wrong: wrong.code,
        settings: plain.settings,
        timings: plain.timings,
      };
    },
    MODEL,
  );
  assert.deepEqual(found.sizes, [undefined, undefined, '64x64,64x64', '64x64,64x64']);
  assert.ok(found.none && found.sameMemory && found.changed);
  assert.equal(found.floats, 3 * 64 * 64);
  assert.ok(found.red <= 1);
  assert.equal(found.wrong, 'INVALID_ARGUMENT');
  assert.equal(found.settings.label, 6);
  assert.equal(found.settings.steps, 2);
  assert.equal(found.timings.stepMs.length, 2);
});

test('a preview of latents is, in small and in colour, the picture that comes out', async () => {
  const { sizes, first, last, grey } = await withPackage(
    page,
    async (uvit, model) => {
      const pipeline = await uvit.load(model, { device: 'cpu' });
      const shown = [];
      const onStep = ({ preview }) => preview && shown.push(preview);
      const prompt = 'a smiling person with dark skin, short blond hair and a blue shirt on a green background';
      const { images } = await pipeline.generate({ prompt, steps: 8, seed: 5, count: 2, onStep, preview: true });
      const side = shown[0][0].width;
      const by = images[0].width / side;
      const colours = (data) => data.filter((_, i) => i % 4 !== 3);
      /** The second picture, made as small as its previews. */
      const small = new Array(3 * side * side).fill(0);
      colours(images[1].rgba).forEach((value, i) => {
        const [y, x] = [Math.floor(i / 3 / images[0].width), Math.floor(i / 3) % images[0].width];
        small[3 * (Math.floor(y / by) * side + Math.floor(x / by)) + (i % 3)] += value / by ** 2;
      });
      const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;
      /** Pearson's, over all colours of all pixels. */
      const correlation = (a, b) => {
        const [ma, mb] = [mean(a), mean(b)];
        const of = (u, mu, v, mv) => u.reduce((sum, value, i) => sum + (value - mu) * (v[i] - mv), 0);
        return of(a, ma, b, mb) / Math.sqrt(of(a, ma, a, ma) * of(b, mb, b, mb));
      };
      const seen = ([, preview]) => correlation([...colours(preview.data)], small);
      const pixels = colours(shown.at(-1)[1].data);
      return {
        sizes: shown.map((pair) => pair.map(({ width, height }) => `${width}x${height}`).join()),
        first: seen(shown[0]),
        last: seen(shown.at(-1)),
        grey: pixels.every((value, i) => value === pixels[i - (i % 3)]),
      };
    },
    '/models/avatars/manifest.json',
  );
  assert.deepEqual(sizes, Array(8).fill('16x16,16x16'));
  assert.ok(!grey && last > 0.9 && last > first, `the first correlates by ${first}, the last by ${last}`);
});

test('dispose() rejects what runs and what comes later; another load works', async () => {
  const { running, later, again } = await withPackage(
    page,
    async (uvit, model) => {
      const pipeline = await uvit.load(model, { device: 'webgpu', tune: 'off' });
      const running = attempt(pipeline.generate({ label: 0, steps: 500 }));
      pipeline.dispose();
      pipeline.dispose();
      const later = await attempt(pipeline.generate({ label: 0 }));
      const second = await uvit.load(model, { device: 'webgpu', tune: 'off' });
      const again = await second.generate({ label: 0, steps: 1 });
      return { running: await running, later, again: again.images.length };
    },
    MODEL,
  );
  assert.equal(running.code, 'DISPOSED');
  assert.equal(later.code, 'DISPOSED');
  assert.equal(again, 1);
});

test('loading can be aborted before and while it runs', async () => {
  const codes = await withPackage(
    page,
    async (uvit, model) => {
      const before = await attempt(uvit.load(model, { signal: AbortSignal.abort() }));
      const stop = new AbortController();
      const onProgress = ({ loadedBytes }) => loadedBytes > 0 && stop.abort();
      const during = await attempt(uvit.load(model, { signal: stop.signal, onProgress }));
      return [before, during].map(({ code, name }) => `${code} ${name}`);
    },
    MODEL,
  );
  assert.deepEqual(codes, ['ABORTED AbortError', 'ABORTED AbortError']);
});

test('a listener that throws does not lose the pictures', async () => {
  const images = await withPackage(
    page,
    async (uvit, model) => {
      const pipeline = await uvit.load(model, { device: 'webgpu', tune: 'off' });
      const onStep = () => {
        throw new Error('the listener is broken');
      };
      return (await pipeline.generate({ label: 0, steps: 2, onStep })).images.length;
    },
    MODEL,
  );
  assert.equal(images, 1);
  assert.match(page.errors.join(), /the listener is broken/);
});

test('the kernels are tuned once, then the browser remembers; broken records are measured again', async () => {
  const { first, second, other, third, again } = await withPackage(
    page,
    async (uvit, model) => {
      const tuned = async (options) => {
        const pipeline = await uvit.load(model, { device: 'webgpu', ...options });
        const picture = await pipeline.generate({ label: 0, steps: 1, seed: 1 });
        pipeline.dispose();
        return { ...pipeline.info.tuned, pictures: picture.images.length };
      };
      const first = await tuned();
      const second = await tuned();
      const cache = await caches.open('uvit-web');
      const [request] = await cache.keys();
      await cache.put(request, new Response('{"version":1,"tunings":'));
      const other = await tuned({ tune: 'off' });
      const third = await tuned();
      const again = await tuned({ tune: 'again' });
      return { first, second, other, third, again };
    },
    MODEL,
  );
  for (const measured of [first, third, again]) {
    assert.equal(measured.remembered, false);
    assert.ok(measured.trials.length >= 2);
    for (const { error, matmulMs, attentionMs } of measured.trials) {
      assert.equal(error, null);
      assert.ok(matmulMs > 0 && attentionMs > 0);
    }
    const tried = measured.trials.map(({ tuning }) => JSON.stringify(tuning.matmul));
    assert.ok(tried.includes(JSON.stringify(measured.tuning.matmul)));
    assert.equal(measured.records, undefined);
    assert.equal(measured.pictures, 1);
  }
  assert.equal(second.remembered, true);
  assert.deepEqual(second.tuning, first.tuning);
  assert.equal(other.remembered, false);
  assert.equal(other.trials.length, 1);
  assert.equal(other.trials[0].matmulMs, null);
});

test('savings do less and say so; without one the picture is as before', async () => {
  const { runs, errors } = await withPackage(
    page,
    async (uvit, model) => {
      const pipeline = await uvit.load(model, { device: 'cpu' });
      const base = { label: 3, seed: 2, steps: 10 };
      const savings = [
        {},
        { guidanceInterval: [0.2, 0.8] },
        { cache: true },
        { steps: undefined, preset: 'draft' },
        {},
      ];
      const runs = [];
      for (const saving of savings) {
        const { images, settings } = await pipeline.generate({ ...base, ...saving });
        runs.push({ settings, pixels: [...images[0].rgba] });
      }
      const bad = [{ guidanceInterval: [0.8, 0.2] }, { guidanceInterval: 0.5 }, { preset: 'slow' }];
      const errors = [];
      for (const options of bad) errors.push((await attempt(pipeline.generate({ ...base, ...options }))).code);
      return { runs, errors };
    },
    MODEL,
  );
  const [plain, guided, cached, draft, again] = runs;
  assert.deepEqual([plain.settings.guidanceInterval, plain.settings.cache], [null, false]);
  assert.deepEqual([guided.settings.guidanceInterval, cached.settings.cache], [[0.2, 0.8], true]);
  assert.equal(draft.settings.steps, 6);
  assert.equal(draft.settings.sampler, 'dpmpp_2m');
  for (const saved of [guided, cached, draft]) assert.notDeepEqual(saved.pixels, plain.pixels);
  assert.deepEqual(again.pixels, plain.pixels);
  assert.deepEqual(errors, ['INVALID_ARGUMENT', 'INVALID_ARGUMENT', 'INVALID_ARGUMENT']);
});

test('samplers and grids are those of the schedule; each says how often it calls the network', async () => {
  const { info, calls, settings, churned } = await withPackage(
    page,
    async (uvit, model) => {
      const pipeline = await uvit.load(model, { device: 'webgpu', tune: 'off' });
      const calls = {};
      for (const sampler of pipeline.info.samplers) {
        calls[sampler] = [];
        const onStep = ({ step, steps }) => calls[sampler].push(`${step}/${steps}`);
        await pipeline.generate({ label: 6, seed: 1, steps: 4, guidanceScale: 1, sampler, onStep });
      }
      const one = { label: 6, seed: 1, steps: 4, guidanceScale: 1, sampler: 'euler', grid: 'karras' };
      const plain = await pipeline.generate(one);
      const churn = await pipeline.generate({ ...one, churn: 2 });
      const churned = churn.images[0].rgba.some((value, i) => value !== plain.images[0].rgba[i]);
      return { info: pipeline.info, calls, settings: [plain.settings, churn.settings], churned };
    },
    MODEL,
  );
  assert.equal(info.samplers.length, 18);
  // The model's schedule is continuous: there are no training steps to visit.
  assert.deepEqual(info.grids, ['time_uniform', 'log_snr', 'quadratic', 'karras']);
  const wanted = { heun: 7, plms: 5, pndm: 13 };
  const { dpm_adaptive: adaptive, ...fixed } = calls;
  // It takes as many as it needs, and knows how many when it is there.
  assert.ok(adaptive.length > 4);
  assert.equal(adaptive.at(-1), `${adaptive.length}/${adaptive.length}`);
  for (const [sampler, steps] of Object.entries(fixed)) {
    const all = wanted[sampler] ?? 4;
    assert.deepEqual(
      steps,
      Array.from({ length: all }, (_, i) => `${i + 1}/${all}`),
      sampler,
    );
  }
  assert.deepEqual(
    settings.map(({ grid, churn }) => [grid, churn]),
    [
      ['karras', 0],
      ['karras', 2],
    ],
  );
  assert.ok(churned);
});

test('a picture to start from is the same as floats, pixels, on a canvas or in a file; others are cropped and resized', async () => {
  const found = await withPackage(
    page,
    async (uvit, model) => {
      const pipeline = await uvit.load(model, { device: 'webgpu', tune: 'off' });
      const picture = new ImageData(64, 64);
      for (let i = 0; i < picture.data.length; i++)
        picture.data[i] = i % 4 === 3 ? 255 : (i * 37 + (i >> 8) * 11) % 256;
      const floats = Float32Array.from(
        { length: 3 * 4096 },
        (_, i) => picture.data[(i % 4096) * 4 + Math.floor(i / 4096)] / 127.5 - 1,
      );
      const canvas = document.createElement('canvas');
      canvas.width = canvas.height = 64;
      canvas.getContext('2d').putImageData(picture, 0, 0);
      const blob = await new Promise((resolve) => canvas.toBlob(resolve, 'image/png'));
      const image = new Image();
      image.src = URL.createObjectURL(blob);
      await image.decode();
      const wide = new OffscreenCanvas(200, 64);
      wide.getContext('2d').putImageData(picture, 68, 0);
      const [large, small] = [new OffscreenCanvas(300, 200), new OffscreenCanvas(3, 9)];
      for (const one of [large, small]) {
        const context = one.getContext('2d');
        context.fillStyle = 'rgb(50 100 150)';
        context.fillRect(0, 0, one.width, one.height);
      }
      const colour = floats.map((_, i) => [50, 100, 150][Math.floor(i / 4096)] / 127.5 - 1);
      const groups = {
        picture: [floats, picture, canvas, blob, image, await createImageBitmap(picture), wide],
        colour: [colour, large, small],
        white: [floats.map(() => 1), new ImageData(20, 10)],
      };
      const same = {};
      for (const [name, sources] of Object.entries(groups)) {
        const all = [];
        for (const initImage of sources) {
          const options = { label: 6, seed: 3, steps: 4, strength: 0.5, guidanceScale: 1, initImage };
          all.push((await pipeline.generate(options)).images[0].rgba);
        }
        same[name] = all.map((rgba) => rgba.every((value, i) => value === all[0][i]));
      }
      const each = new Float32Array(2 * floats.length);
      each.set(floats);
      each.set(colour, floats.length);
      const pair = await pipeline.generate({ label: 6, seed: 3, steps: 4, count: 2, initImage: each });
      const steps = [];
      const onStep = ({ step, steps: all }) => steps.push(`${step}/${all}`);
      const usual = await pipeline.generate({ label: 6, seed: 3, steps: 10, initImage: picture, onStep });
      const all = await pipeline.generate({ label: 6, seed: 3, steps: 3, initImage: picture, strength: 1 });
      return {
        same,
        pictures: pair.images.length,
        steps,
        settings: [usual, all].map(({ settings }) => [settings.steps, settings.strength, settings.masked]),
        calls: all.timings.stepMs.length,
      };
    },
    MODEL,
  );
  for (const [name, same] of Object.entries(found.same)) assert.ok(same.every(Boolean), `${name}: ${same}`);
  assert.equal(found.pictures, 2);
  assert.deepEqual(
    found.steps,
    Array.from({ length: 8 }, (_, i) => `${i + 1}/8`),
  );
  assert.deepEqual(found.settings, [
    [10, 0.8, false],
    [3, 1, false],
  ]);
  assert.equal(found.calls, 3);
});

for (const device of ['cpu', 'webgpu']) {
  test(`what a mask keeps comes out pixel for pixel, and the rest is painted anew: ${device}`, async () => {
    const runs = await withPackage(
      page,
      async (uvit, [model, device]) => {
        const pipeline = await uvit.load(model, { device, tune: 'off' });
        const picture = new ImageData(64, 64);
        for (let i = 0; i < picture.data.length; i++) picture.data[i] = i % 4 === 3 ? 255 : (i * 53) % 256;
        // The left half is kept.
        const floats = Float32Array.from({ length: 4096 }, (_, i) => (i % 64 < 32 ? 0 : 1));
        const canvas = new OffscreenCanvas(64, 64);
        canvas.getContext('2d').fillStyle = 'white';
        canvas.getContext('2d').fillRect(32, 0, 32, 64);
        const runs = [];
        for (const options of [
          { mask: floats },
          { mask: canvas },
          { mask: floats, strength: 0.5 },
          { mask: floats, freshNoise: true, sampler: 'euler_ancestral' },
          { mask: floats, sampler: 'heun', count: 2 },
        ]) {
          const result = await pipeline.generate({ label: 6, seed: 3, steps: 4, initImage: picture, ...options });
          const changed = result.images.map(({ rgba }) =>
            [0, 1].map((half) => rgba.filter((v, i) => (i >> 7) % 2 === half && v !== picture.data[i]).length),
          );
          const { strength, masked } = result.settings;
          runs.push({ changed, strength, masked, pixels: [...result.images[0].rgba] });
        }
        return runs;
      },
      [MODEL, device],
    );
    for (const { changed, masked } of runs) {
      assert.equal(masked, true);
      for (const [kept, anew] of changed) {
        assert.equal(kept, 0);
        assert.ok(anew > 1000, `only ${anew} values are new`);
      }
    }
    assert.deepEqual(
      runs.map(({ strength }) => strength),
      [1, 1, 0.5, 1, 1],
    );
    assert.deepEqual(runs[1].pixels, runs[0].pixels);
  });
}

test('a picture that takes a while to read does not change the order of the calls', async () => {
  const order = await withPackage(
    page,
    async (uvit, model) => {
      const pipeline = await uvit.load(model, { device: 'webgpu', tune: 'off' });
      const canvas = new OffscreenCanvas(2000, 2000);
      canvas.getContext('2d').fillRect(0, 0, 900, 900);
      const blob = await canvas.convertToBlob();
      const order = [];
      const one = (name, options) =>
        pipeline.generate({ label: 0, steps: 2, ...options }).then(
          () => order.push(name),
          ({ code }) => order.push(`${name} ${code}`),
        );
      const stop = new AbortController();
      const ports = { x: new Float32Array(3 * 4096), timesteps: [1], y: [0] };
      const all = [
        one('picture', { initImage: blob }),
        one('none', { initImage: new Blob(['none']) }),
        one('stopped', { initImage: blob, signal: stop.signal }),
        one('plain'),
        pipeline.forward(ports).then(() => order.push('forward')),
        one('picture again', { initImage: blob }),
      ];
      stop.abort();
      await Promise.all(all);
      return order;
    },
    MODEL,
  );
  const refused = ['none INVALID_ARGUMENT', 'stopped ABORTED'];
  assert.deepEqual(order.filter((name) => refused.includes(name)).toSorted(), refused);
  assert.deepEqual(
    order.filter((name) => !refused.includes(name)),
    ['picture', 'plain', 'forward', 'picture again'],
  );
});

test('a network that draws texts takes their embeddings', async (context) => {
  // The reference implementation's text-to-image network and numbers, as a model.
  const golden = fileURLToPath(new URL('../../tests/goldens/uvit_t2i/', import.meta.url));
  const { params, tolerance } = JSON.parse(await readFile(`${golden}config.json`));
  const weights = await readFile(`${golden}weights.safetensors`);
  const io = tensors(await readFile(`${golden}io.safetensors`));
  const shard = {
    file: 'weights.safetensors',
    bytes: weights.length,
    sha256: createHash('sha256').update(weights).digest('hex'),
  };
  const stored = Object.entries(tensors(weights)).map(([name, { shape }]) => [
    name,
    { shape, dtype: 'f32', parts: [{ shard: 0, rows: [0, shape[0]] }] },
  ]);
  const variant = { dtype: 'f32', group: 0, bytes: weights.length, shards: [shard] };
  const manifest = {
    format_version: 2,
    name: 'text to image',
    task: 'class',
    sampling: {
      schedule: { type: 'vp_linear', beta_min: 0.1, beta_max: 20 },
      prediction: 'noise',
      time_scale: 999,
      t_min: 0.001,
      t_max: 1,
      sampler: 'ddim',
      steps: 3,
      guidance_scale: 2,
      clip_x0: false,
      lower_order_final: true,
    },
    labels: [],
    licences: [],
    components: {
      denoiser: {
        architecture: 'uvit_t2i',
        params,
        variants: [{ ...variant, tensors: Object.fromEntries(stored) }],
      },
    },
  };
  const files = { 'manifest.json': Buffer.from(JSON.stringify(manifest)), 'weights.safetensors': weights };
  const text = await startServer({ '/package/': fileURLToPath(new URL('../dist', import.meta.url)) }, { files });
  context.after(() => text.close());
  const other = await openPage(browser, `${text.url}/blank.html`);
  const found = await withPackage(
    other,
    async (uvit, { x, timesteps, context }) => {
      const floats = (values) => new Float32Array(values);
      const pipeline = await uvit.load('/manifest.json', { device: 'webgpu', tune: 'off' });
      const inputs = { x: floats(x), timesteps, context: floats(context) };
      const { out } = await pipeline.forward(inputs);
      const size = context.length / 2;
      const [a, b] = [floats(context.slice(0, size)), floats(context.slice(size))];
      const none = floats(new Array(size).fill(0.1));
      const draw = async (options) => {
        const { images } = await pipeline.generate({ seed: 4, floatPixels: true, nullContext: none, ...options });
        return images.map(({ floats }) => [...floats]);
      };
      return {
        out: [...out],
        one: await draw({ context: a, seed: 5 }),
        both: await draw({ context: floats(context), count: 2 }),
        second: await draw({ context: b, seed: 5 }),
        rescaled: await draw({ context: b, seed: 5, guidanceRescale: 0.7 }),
        noisy: await draw({ context: b, seed: 5, eta: 1 }),
        unguided: await draw({ context: b, seed: 5, guidanceScale: 1, nullContext: undefined }),
        errors: [
          await attempt(draw({})),
          await attempt(draw({ context: a, guidanceScale: 2, nullContext: undefined })),
          await attempt(draw({ context: floats([1, 2]) })),
          await attempt(draw({ context: a.map(() => Number.NaN) })),
        ],
      };
    },
    Object.fromEntries(Object.entries(io).map(([name, { values }]) => [name, [...values]])),
  );
  await other.close();
  const size = Math.max(...io.out.values.map(Math.abs));
  const error = Math.max(...found.out.map((value, i) => Math.abs(value - io.out.values[i]))) / size;
  assert.ok(error <= tolerance.outputs_f32, `${error}`);
  // Of several pictures the k-th has the k-th text.
  assert.deepEqual(found.both[1], found.second[0]);
  const differ = [found.one, found.second, found.rescaled, found.noisy, found.unguided].map(([picture]) =>
    picture.join(),
  );
  assert.equal(new Set(differ).size, 5);
  for (const [error, words] of found.errors.map((error, i) => [
    error,
    ['none is given', 'guid', '2 values', 'finite'][i],
  ])) {
    assert.equal(error.code, 'INVALID_ARGUMENT');
    assert.match(error.cause, new RegExp(words));
  }
});

test('profile() times every kernel of a forward', async () => {
  const { profile, onCpu } = await withPackage(
    page,
    async (uvit, model) => {
      const pipeline = await uvit.load(model, { device: 'webgpu', tune: 'off' });
      const profile = await pipeline.profile(2);
      await pipeline.generate({ label: 0, steps: 1 });
      const other = await uvit.load(model, { device: 'cpu' });
      return { profile, onCpu: await other.profile() };
    },
    MODEL,
  );
  assert.equal(onCpu, null);
  assert.ok(profile.peak > 1e8);
  assert.match(profile.clock, /^(gpu|host)$/);
  assert.equal(profile.kernels.filter(({ kernel }) => kernel === 'attention').length, 9);
  assert.ok(profile.kernels.every(({ nanoseconds }) => nanoseconds > 0));
  const fc1 = profile.kernels.find(({ shape }) => shape === '132 x 256 x 1024');
  assert.equal(fc1.multiplyAdds, 132 * 256 * 1024);
  assert.ok(profile.kernels.every(({ bytes }) => bytes > 0));
});
