/** A model of pictures and words by `generate()`: modes set and inferred, pictures of every kind, words that stream, latents, errors. */

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { after, afterEach, before, beforeEach, test } from 'node:test';
import { launch, openPage, WEBGPU, withPackage } from './browser.mjs';
import { startServer } from './server.mjs';

const MODEL = '/models/avatars/manifest.json';
const MODES = ['t2i', 'i2t', 'joint', 'i', 't', 'i2t2i', 't2i2t'];
/** Which of them make a picture, and which words. */
const PICTURES = ['t2i', 'joint', 'i', 'i2t2i'];
const WORDS = ['i2t', 'joint', 't', 't2i2t'];

let server;
let browser;
let page;
before(async () => {
  const manifest = JSON.parse(readFileSync(new URL('../models/avatars/manifest.json', import.meta.url)));
  const without = ([name, parts]) => {
    const less = structuredClone(manifest);
    for (const part of parts) delete less.components[part];
    return [`models/avatars/${name}.json`, Buffer.from(JSON.stringify(less))];
  };
  const files = Object.fromEntries(
    Object.entries({ wordless: ['caption_decoder'], blind: ['image_encoder'] }).map(without),
  );
  server = await startServer(undefined, { files });
  browser = await launch(WEBGPU);
});
after(async () => {
  await browser.close();
  await server.close();
});
beforeEach(async () => {
  page = await openPage(browser, `${server.url}/blank.html`);
  await page.evaluate(() => {
    /** An avatar of few colours: a face on a ground. */
    globalThis.face = () => {
      const canvas = new OffscreenCanvas(64, 64);
      const context = canvas.getContext('2d');
      for (const [colour, x, y, w, h] of [
        ['#a3e3a3', 0, 0, 64, 64],
        ['#8d5524', 16, 12, 32, 40],
        ['#b22', 12, 8, 40, 12],
        ['#fff', 20, 28, 8, 8],
        ['#fff', 36, 28, 8, 8],
        ['#e4b400', 8, 52, 48, 12],
      ]) {
        context.fillStyle = colour;
        context.fillRect(x, y, w, h);
      }
      return canvas;
    };
  });
});
afterEach(() => page.close());

for (const device of ['cpu', 'webgpu']) {
  test(`each mode makes what it says, set or inferred; variations() are two of them: ${device}`, async () => {
    const { info, made } = await withPackage(
      page,
      async (uvit, [model, device, modes]) => {
        const pipeline = await uvit.load(model, { device, compute: 'f32', tune: 'off' });
        const image = globalThis.face();
        const prompt = 'a sad person with short black hair, dark skin and a green shirt on a pink background';
        const one = { seed: 3, steps: 4 };
        const call = async (promise) => {
          const { images, texts, settings, latents } = await promise;
          return {
            pixels: images.map(({ rgba }) => [...rgba].join()),
            texts,
            mode: settings.mode,
            prompt: settings.prompt,
            noLatents: latents === undefined,
          };
        };
        const made = {};
        for (const mode of modes) {
          const given = mode.startsWith('t2') ? { prompt } : mode.startsWith('i2') ? { image } : {};
          made[mode] = await call(pipeline.generate({ ...one, ...given, mode }));
        }
        made.prompted = await call(pipeline.generate({ ...one, prompt }));
        made.seen = await call(pipeline.generate({ ...one, image }));
        made.nothing = await call(pipeline.generate(one));
        made.image = await call(pipeline.variations({ ...one, image }));
        made.words = await call(pipeline.variations({ ...one, prompt }));
        return { info: pipeline.info, made };
      },
      [MODEL, device, MODES],
    );
    assert.deepEqual(info.modes, MODES);
    assert.deepEqual(info.imageShape, [3, 64, 64]);
    for (const mode of MODES) {
      const { pixels, texts } = made[mode];
      if (PICTURES.includes(mode)) assert.equal(pixels.length, 1, mode);
      else if (mode !== 't2i2t') assert.equal(pixels.length, 0, mode);
      if (WORDS.includes(mode)) assert.ok(texts.length === 1 && texts[0].length > 10, `${mode}: ${texts}`);
      else if (mode !== 'i2t2i') assert.deepEqual(texts, [], mode);
      assert.equal(made[mode].mode, mode);
      assert.ok(made[mode].noLatents);
    }
    assert.match(made.t2i.prompt, /^a sad person/);
    assert.equal(made.joint.prompt, null);
    const same = { prompted: 't2i', seen: 'i2t', nothing: 'joint', image: 'i2t2i', words: 't2i2t' };
    for (const [inferred, mode] of Object.entries(same)) assert.deepEqual(made[inferred], made[mode], inferred);
  });
}

test('models of pictures alone have no modes', async () => {
  const { info, mode, texts, errors } = await withPackage(page, async (uvit) => {
    const pipeline = await uvit.load('/models/emoji/manifest.json', { device: 'cpu' });
    const { settings, texts } = await pipeline.generate({ label: 0, steps: 1 });
    const errors = [];
    for (const options of [{ mode: 'joint' }, { image: globalThis.face() }, { image: new Float32Array(12288) }]) {
      errors.push(await attempt(pipeline.generate({ label: 0, steps: 1, ...options })));
    }
    return { info: pipeline.info, mode: settings.mode, texts, errors };
  });
  assert.deepEqual([info.modes, info.imageShape, mode, texts], [[], null, null, []]);
  for (const { code, remedy } of errors) {
    assert.ok(['INVALID_ARGUMENT', 'UNSUPPORTED_MODEL'].includes(code), code);
    assert.ok(remedy.length > 5);
  }
});

test('what does not fit is refused, with what would', async () => {
  const errors = await withPackage(
    page,
    async (uvit, model) => {
      const pipeline = await uvit.load(model, { device: 'cpu' });
      const [image, prompt] = [globalThis.face(), 'a person'];
      const nan = new Float32Array(12288).fill(Number.NaN);
      const errors = {};
      for (const [name, options] of Object.entries({
        both: { image, prompt },
        'prompt for i2t': { mode: 'i2t', image, prompt },
        'prompt for joint': { mode: 'joint', prompt },
        'prompt for i': { mode: 'i', prompt },
        'image for t2i': { mode: 't2i', prompt, image },
        'no image': { mode: 'i2t' },
        'no image to vary': { mode: 'i2t2i' },
        'no prompt': { mode: 't2i2t' },
        'no mode': { mode: 'x2y' },
        'no picture': { image: new Blob(['no picture'], { type: 'image/png' }) },
        text: { image: 'picture.png' },
        'other size': { image: new Float32Array(12) },
        nan: { image: nan },
        'nan to start from': { mode: 'joint', startLatents: nan },
        beams: { image, beams: 0 },
        half: { image, beams: 1.5 },
        onText: { image, onText: 7 },
        latents: { image, latents: 'yes' },
      })) {
        errors[name] = await attempt(pipeline.generate({ steps: 1, ...options }));
      }
      errors['vary both'] = await attempt(pipeline.variations({ image, prompt }));
      errors['vary nothing'] = await attempt(pipeline.variations({}));
      errors['vary null'] = await attempt(pipeline.variations(null));
      errors.after = await attempt(pipeline.generate({ steps: 1, image }).then(({ texts }) => texts.length));
      return errors;
    },
    MODEL,
  );
  assert.equal(errors.after.value, 1, 'the pipeline goes on');
  delete errors.after;
  const words = {
    both: /i2t.*t2i|t2i.*i2t/,
    'prompt for i2t': /t2i\b.*t2i2t/,
    'prompt for joint': /t2i\b.*t2i2t/,
    'prompt for i': /t2i\b.*t2i2t/,
    'image for t2i': /i2t\b.*i2t2i/,
    'no image': /image|picture/,
    'no image to vary': /image|picture/,
    'no prompt': /prompt/,
    'no mode': /t2i, i2t, joint/,
    'no picture': /image cannot be read.*image, a canvas/,
    text: /image cannot be read/,
    'other size': /12 values, not 12288.*\[3, 64, 64\]/,
    nan: /not finite/,
    'nan to start from': /not finite/,
    beams: /beams is 0/,
    half: /beams is 1.5/,
    onText: /onText/,
    latents: /latents/,
    'vary both': /both an image and a prompt/,
    'vary nothing': /neither/,
    'vary null': /null/,
  };
  for (const [name, { code, cause, remedy }] of Object.entries(errors)) {
    assert.equal(code, 'INVALID_ARGUMENT', `${name}: ${code} ${cause}`);
    assert.match(`${cause}. ${remedy}`, words[name], name);
  }
});

test('without the networks that a mode needs, it is not among the modes, and says which is missing', async () => {
  const found = await withPackage(page, async (uvit) => {
    const found = {};
    for (const name of ['wordless', 'blind']) {
      const pipeline = await uvit.load(`/models/avatars/${name}.json`, { device: 'cpu' });
      const image = globalThis.face();
      const errors = [];
      for (const options of [{ image }, { mode: 'i2t2i', image }, { mode: 't' }, { mode: 'joint' }]) {
        errors.push((await attempt(pipeline.generate({ steps: 1, ...options }))).cause ?? 'made');
      }
      const drawn = (await pipeline.generate({ prompt: 'a person', steps: 1 })).images.length;
      found[name] = { modes: pipeline.info.modes, errors, drawn };
      pipeline.dispose();
    }
    return found;
  });
  const { wordless, blind } = found;
  assert.deepEqual([wordless.drawn, blind.drawn], [1, 1]);
  for (const mode of ['i2t', 't', 'joint', 't2i2t']) assert.equal(wordless.modes.includes(mode), false, mode);
  for (const mode of ['t2i', 'i']) assert.ok(wordless.modes.includes(mode), mode);
  for (const mode of ['i2t', 'i2t2i']) assert.equal(blind.modes.includes(mode), false, mode);
  for (const mode of ['t2i', 'i', 't', 'joint', 't2i2t']) assert.ok(blind.modes.includes(mode), mode);
  assert.match(wordless.errors[0], /caption_decoder/);
  assert.match(wordless.errors[2], /caption_decoder/);
  for (const error of blind.errors.slice(0, 2)) assert.match(error, /image_encoder/);
  assert.deepEqual(blind.errors.slice(2), ['made', 'made']);
});

test('a picture may come in any form, of any size, and as a browser shows it', async () => {
  const found = await withPackage(
    page,
    async (uvit, model) => {
      const pipeline = await uvit.load(model, { device: 'cpu', compute: 'f32' });
      const see = async (image) => {
        const { texts, latents } = await pipeline.generate({ image, seed: 5, steps: 2, latents: true });
        return `${texts} ${[...latents.text].join()}`;
      };
      const canvas = globalThis.face();
      const context = canvas.getContext('2d');
      const picture = context.getImageData(0, 0, 64, 64);
      const floats = Float32Array.from({ length: 12288 }, (_, i) => {
        return picture.data[(i % 4096) * 4 + Math.floor(i / 4096)] / 127.5 - 1;
      });
      const png = await canvas.convertToBlob();
      const element = new Image();
      element.src = URL.createObjectURL(png);
      await element.decode();

      // As large as life is what matters, not how large the page shows it.
      element.width = 7;
      const seen = { floats, picture, canvas, png, element, bitmap: await createImageBitmap(canvas) };

      // A hole in it is white.
      const clear = globalThis.face();
      clear.getContext('2d').clearRect(0, 0, 64, 9);
      const filled = globalThis.face();
      filled.getContext('2d').fillStyle = '#fff';
      filled.getContext('2d').fillRect(0, 0, 64, 9);
      const alpha = { clear, filled, file: await clear.convertToBlob() };

      // A wide one is its middle.
      const wide = new OffscreenCanvas(200, 64);
      wide.getContext('2d').fillStyle = 'red';
      wide.getContext('2d').fillRect(0, 0, 200, 64);
      wide.getContext('2d').drawImage(canvas, 68, 0);
      const middle = { canvas, wide };

      // Lies on its side, as a camera writes it.
      const jpeg = await canvas.convertToBlob({ type: 'image/jpeg', quality: 1 });
      const bytes = new Uint8Array(await jpeg.arrayBuffer());
      const exif = [0x45, 0x78, 0x69, 0x66, 0, 0, 0x4d, 0x4d, 0, 42, 0, 0, 0, 8, 0, 1, 1, 0x12, 0, 3, 0, 0, 0, 1, 0, 6];
      exif.push(0, 0, 0, 0, 0, 0);
      const turned = new Blob([
        bytes.slice(0, 2),
        new Uint8Array([0xff, 0xe1, 0, exif.length + 2, ...exif]),
        bytes.slice(2),
      ]);
      const upright = new OffscreenCanvas(64, 64);
      upright.getContext('2d').translate(64, 0);
      upright.getContext('2d').rotate(Math.PI / 2);
      upright.getContext('2d').drawImage(await createImageBitmap(jpeg), 0, 0);
      const camera = { turned, upright };

      // Two pictures of one pixel: red, then blue.
      const gif = [
        ...[...'GIF89a'].map((letter) => letter.charCodeAt(0)),
        ...[1, 0, 1, 0, 0x80, 0, 0, 255, 0, 0, 0, 0, 255],
        ...[0x21, 0xf9, 4, 0, 9, 0, 0, 0, 0x2c, 0, 0, 0, 0, 1, 0, 1, 0, 0, 2, 2, 0x44, 1, 0],
        ...[0x21, 0xf9, 4, 0, 9, 0, 0, 0, 0x2c, 0, 0, 0, 0, 1, 0, 1, 0, 0, 2, 2, 0x4c, 1, 0],
        0x3b,
      ];
      const red = new ImageData(1, 1);
      red.data.set([255, 0, 0, 255]);
      const allRed = new Float32Array(12288).fill(-1).fill(1, 0, 4096);
      const pixel = { red, animated: new Blob([new Uint8Array(gif)]), allRed };

      const groups = { seen, alpha, middle, camera, pixel };
      const words = {};
      for (const [name, sources] of Object.entries(groups)) {
        words[name] = {};
        for (const [which, image] of Object.entries(sources)) words[name][which] = await see(image);
      }

      // Huge ones take a while, and are seen all the same.
      const huge = new OffscreenCanvas(9000, 4500);
      huge.getContext('2d').drawImage(canvas, 2250, 0, 4500, 4500);
      const long = new OffscreenCanvas(20_000, 2);
      long.getContext('2d').fillRect(0, 0, 9, 2);
      const sizes = [];
      for (const image of [await huge.convertToBlob(), huge, long]) sizes.push((await see(image)).length > 100);
      return { words, sizes };
    },
    MODEL,
  );
  for (const [name, words] of Object.entries(found.words)) {
    const [first, ...others] = Object.keys(words);
    for (const other of others) assert.equal(words[other], words[first], `${name}: ${other}`);
  }
  const { seen, alpha, camera, pixel } = found.words;
  assert.equal(new Set([seen.canvas, alpha.clear, camera.turned, pixel.red]).size, 4);
  assert.deepEqual(found.sizes, [true, true, true]);
});

test('words stream by token, one beam or several; previews show both', async () => {
  const { runs, none } = await withPackage(
    page,
    async (uvit, model) => {
      const pipeline = await uvit.load(model, { device: 'cpu', compute: 'f32' });
      const runs = [];
      for (const options of [{ beams: 1 }, {}, { count: 2, preview: true }]) {
        const events = [];
        const steps = [];
        const onText = (event) => events.push(structuredClone(event));
        const onStep = ({ stage, step, steps: all, texts, preview }) => {
          steps.push({ stage, step, all, texts, pictures: preview?.length });
        };
        const { texts, images } = await pipeline.generate({ seed: 31, steps: 10, ...options, onText, onStep });
        runs.push({ texts, images: images.length, events, steps });
      }
      const none = [];
      await pipeline.generate({ prompt: 'a person', seed: 1, steps: 1, onText: () => none.push(1) });
      return { runs, none };
    },
    MODEL,
  );
  assert.deepEqual(none, []);
  for (const { texts, images, events, steps } of runs) {
    assert.equal(texts.length, images);
    assert.equal(events[0].tokens, 1);
    assert.ok(events.length > 5);
    assert.deepEqual(events.at(-1).texts, texts);
    const stages = steps.map(({ stage }) => stage).filter((stage, i, all) => stage !== all[i - 1]);
    assert.deepEqual(stages, ['sampling', 'decoding', 'captioning']);
    const captioning = steps.filter(({ stage }) => stage === 'captioning');
    assert.deepEqual([captioning[0].step, captioning[0].texts], [0, undefined]);
    assert.deepEqual(
      captioning.slice(1).map(({ texts }) => texts),
      events.map(({ texts }) => texts),
    );
    assert.ok(captioning.every(({ step, all }) => step <= all));
  }
  const [greedy, , previewed] = runs;
  assert.deepEqual(
    greedy.events.map(({ tokens }) => tokens),
    greedy.events.map((_, i) => i + 1),
  );
  // One beam never takes a word back.
  for (const [i, { texts }] of greedy.events.entries()) {
    if (i > 0) assert.ok(texts[0].startsWith(greedy.events[i - 1].texts[0].trimEnd()), texts[0]);
  }
  assert.ok(greedy.steps.filter(({ stage }) => stage === 'sampling').every(({ texts }) => texts === undefined));
  for (const { stage, texts, pictures } of previewed.steps) {
    if (stage === 'sampling') assert.deepEqual([texts?.length, pictures], [2, 2]);
  }
});

test('latents come when they are asked for, by the names of the ports', async () => {
  const { found, ports } = await withPackage(
    page,
    async (uvit, model) => {
      const pipeline = await uvit.load(model, { device: 'cpu', compute: 'f32' });
      const one = { seed: 3, steps: 2, latents: true };
      const found = {};
      for (const [name, options] of Object.entries({
        joint: { count: 2 },
        t2i: { prompt: 'a person' },
        i2t: { image: globalThis.face() },
        first: {},
        second: { seed: 4 },
      })) {
        const { latents } = await pipeline.generate({ ...one, ...options });
        found[name] = Object.fromEntries(Object.entries(latents).map(([port, values]) => [port, [...values]]));
      }
      return { found, ports: pipeline.info.ports };
    },
    MODEL,
  );
  const size = (name) => ports.find((port) => port.name === name).shape.reduce((product, n) => product * n, 1);
  for (const name of ['img', 'clip_img', 'text']) {
    assert.equal(found.joint[name].length, 2 * size(name));
    assert.ok(found.joint[name].every(Number.isFinite));
    assert.deepEqual(found.joint[name], [...found.first[name], ...found.second[name]], name);
  }
  assert.equal(found.t2i.img.length, size('img'));
  assert.equal(found.i2t.text.length, size('text'));
});

test('what is given stays as it is, and stays the caller’s', async () => {
  const same = await withPackage(
    page,
    async (uvit, model) => {
      const pipeline = await uvit.load(model, { device: 'cpu', compute: 'f32' });
      const canvas = globalThis.face();
      const floats = new Float32Array(12288).fill(0.25);
      const see = (image) => pipeline.generate({ image, seed: 5, steps: 2 }).then(({ texts }) => texts[0]);
      const first = [await see(canvas), await see(floats)];
      const reading = [see(canvas), see(floats)];
      canvas.getContext('2d').fillRect(0, 0, 64, 64);
      floats.fill(-1);
      return [first, await Promise.all(reading), floats.length];
    },
    MODEL,
  );
  assert.deepEqual(same[1], same[0]);
  assert.equal(same[2], 12288);
});
