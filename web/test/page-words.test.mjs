/** The built page with the model that draws from words: picking it, prompts, links, stops in every stage, earlier pictures. */

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { after, before, test } from 'node:test';
import { crc32 } from 'node:zlib';
import { fact, launch, launchWithCache, make, openPage, reach, WEBGPU, withPackage } from './browser.mjs';
import { pixels } from './picture.mjs';
import { startServer } from './server.mjs';

/** Few steps, for the CPU's sake, and an arithmetic that gives the same bits every time. */
const FEW = 'device=cpu&compute=quality&steps=4';
const PROMPT = 'a sad person with short black hair, dark skin and a green shirt on a pink background';
const CURLS =
  'on a purple background, a smiling person with dark skin, curly brown hair and glasses wears a blue shirt';

let server;
let browser;
before(async () => {
  const manifest = JSON.parse(readFileSync(new URL('../models/avatars/manifest.json', import.meta.url)));
  delete manifest.components.encoder;
  const files = { 'models/avatars/no-encoder.json': Buffer.from(JSON.stringify(manifest)) };
  server = await startServer(undefined, { cached: true, files });
  browser = await launch();
});
after(async () => {
  await browser.close();
  await server.close();
});

/** Of values from 0 to 255, in dB. */
function psnr(a, b) {
  const squares = a.reduce((sum, value, i) => sum + (value - b[i]) ** 2, 0);
  return -10 * Math.log10(squares / a.length / 255 ** 2);
}

function value(page, id) {
  return page.locator(`#${id}`).inputValue();
}

/** Presses Stop as soon as the status says so. */
async function stopAt(page, pattern) {
  await page.evaluate((pattern) => {
    const status = document.getElementById('status');
    new MutationObserver((_, observer) => {
      if (!new RegExp(pattern).test(status.textContent)) return;
      observer.disconnect();
      document.getElementById('stop').click();
    }).observe(status, { childList: true });
  }, pattern);
  await page.click('[data-mode=t2i]');
  await page.waitForFunction(() => document.getElementById('status').textContent === 'Stopped');
  await reach(page, 'ready');
}

test('another model is fetched once it is picked, and draws what generate() draws; going back fetches nothing', async (t) => {
  const visitor = await launchWithCache();
  t.after(() => visitor.close());
  const page = await openPage(visitor, `${server.url}/?${FEW}`);
  const weights = (name) => server.served.filter((path) => path.includes(`/${name}/`) && path.endsWith('.safetensors'));
  server.served.length = 0;
  await page.reload();
  await reach(page, 'ready');
  assert.deepEqual(weights('avatars'), []);
  assert.equal(await page.locator('#words').isVisible(), false);
  const workers = page.workers().length;

  await page.locator('#model').selectOption('avatars');
  assert.match(page.url(), /model=avatars/);
  await reach(page, 'ready');
  assert.ok(weights('avatars').length > 0);
  for (const id of ['kinds', 'styles', 'labels']) assert.equal(await page.locator(`#${id}`).isVisible(), false);
  assert.deepEqual([await value(page, 'steps'), await value(page, 'guidance')], ['50', '5']);
  await page.locator('#steps').fill('4');
  await page.locator('#seed').fill('11');
  await page.locator('#prompt').fill(PROMPT);
  await page.locator('#prompt').press('Enter');
  await page.waitForSelector('canvas[data-kind=picture]');
  assert.equal(await value(page, 'prompt'), PROMPT, 'Enter draws, and writes no line');
  assert.match(await page.locator('#gallery canvas').getAttribute('aria-label'), /a sad person .* seed 11/);
  assert.deepEqual(weights('avatars/encoder'), [], 'who only draws needs no encoder');
  assert.match(await fact(page, 'text'), /ms/);
  assert.match(await fact(page, 'decode'), /ms/);
  assert.match(await page.locator('#licence-list').innerText(), /CC0-1\.0/);

  const other = await openPage(visitor, `${server.url}/blank.html`);
  const expected = await withPackage(
    other,
    async (uvit, prompt) => {
      const pipeline = await uvit.load('models/avatars/manifest.json', { device: 'cpu', compute: 'quality' });
      const { images } = await pipeline.generate({ prompt, seed: 11, steps: 4 });
      return [...images[0].rgba];
    },
    PROMPT,
  );
  await other.close();
  assert.deepEqual(await pixels(page), expected);

  server.served.length = 0;
  await page.locator('#model').selectOption('emoji');
  await reach(page, 'ready');
  assert.equal(await page.locator('#words').isVisible(), false);
  assert.equal(await value(page, 'steps'), '4', 'what was chosen for a model comes back with it');
  await page.locator('#model').selectOption('avatars');
  await reach(page, 'ready');
  assert.equal(await value(page, 'prompt'), PROMPT);
  assert.deepEqual([...weights('emoji'), ...weights('avatars')], [], 'the browser has them');
  assert.equal(page.workers().length, workers, 'the other models are gone from memory');
  assert.deepEqual(page.errors, []);
});

test('a link brings back model, prompt, seed and settings; so does an earlier picture, and draws itself again', async () => {
  const link = new URLSearchParams({ model: 'avatars', seed: '5', prompt: CURLS, negative: 'glasses', guidance: '3' });
  const page = await openPage(browser, `${server.url}/?${FEW}&${link}`);
  await reach(page, 'ready');
  const form = async () => {
    const found = {};
    for (const id of ['model', 'prompt', 'seed', 'negative', 'guidance', 'steps']) found[id] = await value(page, id);
    return found;
  };
  const asked = { ...Object.fromEntries(link), steps: '4' };
  assert.deepEqual(await form(), asked);
  await make(page, 't2i');
  const first = await pixels(page);
  const arriving = page.waitForEvent('download');
  await page.click('#gallery .save');
  const download = await arriving;
  assert.equal(
    download.suggestedFilename(),
    'on-a-purple-background-a-smiling-person-with-dark-skin-curly-seed-5-4-steps.png',
  );
  const file = readFileSync(await download.path());
  const chunk = file.subarray(37, 41 + file.readUInt32BE(33));
  assert.equal(chunk.toString('latin1', 0, 17), 'iTXtSettings\0\0\0\0\0');
  assert.equal(file.readUInt32BE(37 + chunk.length), crc32(chunk));
  const { prompt, negativePrompt, seed, steps, guidanceScale, name } = JSON.parse(chunk.subarray(17));
  assert.deepEqual([prompt, negativePrompt, seed, steps, guidanceScale, name], [CURLS, 'glasses', 5, 4, 3, 'avatars']);

  await page.locator('#prompt').fill(PROMPT);
  await page.locator('#seed').fill('');
  await page.locator('#count').fill('2');
  await page.locator('#seed').press('Control+Enter');
  await page.waitForFunction(() => document.querySelectorAll('.card .link').length === 3);
  await reach(page, 'ready');
  const drawn = new URL(page.url()).searchParams;
  assert.equal(drawn.get('prompt'), PROMPT);
  assert.match(drawn.get('seed'), /^\d+$/, 'the address says which seed was drawn');

  await page.locator('#model').selectOption('emoji');
  await reach(page, 'ready');
  assert.equal(await page.locator('#pairs').isVisible(), false);
  await page.locator('#model').selectOption('avatars');
  await reach(page, 'ready');
  await page.locator('.card .link').nth(2).press('Enter');
  assert.deepEqual(await form(), asked);
  assert.deepEqual(await pixels(page), first);
  await make(page, 't2i');
  assert.deepEqual(await pixels(page), first);
  const again = Object.fromEntries(new URL(page.url()).searchParams);
  assert.deepEqual(again, { ...asked, device: 'cpu', compute: 'quality' });

  // The second of two has a seed of its own.
  await page.locator('.card .link').nth(2).click();
  assert.equal(await value(page, 'seed'), String(Number(drawn.get('seed')) + 1));
  assert.equal(await value(page, 'count'), '1');
  const second = await pixels(page);
  await make(page, 't2i');
  assert.deepEqual(await pixels(page), second);
  assert.deepEqual(page.errors, []);
  await page.close();
});

test('a stop in any stage leaves the page as it was', async () => {
  const page = await openPage(browser, `${server.url}/?${FEW}&model=avatars&seed=3`);
  await reach(page, 'ready');
  await page.locator('#prompt').fill(CURLS);
  await make(page, 't2i');
  const expected = await pixels(page);
  // Words that were read before are not read again.
  await page.locator('#prompt').fill(PROMPT);
  await stopAt(page, '^Reading the words');
  await page.locator('#prompt').fill(CURLS);
  await stopAt(page, '^Step 2 of 4');
  await page.locator('#count').fill('3');
  await stopAt(page, '^Decoding picture 1 of 3');
  assert.deepEqual(await pixels(page), expected, 'a stopped picture is not to be seen, nor to be saved');
  await page.locator('#count').fill('1');
  await make(page, 't2i');
  assert.deepEqual(await pixels(page), expected);
  assert.deepEqual(page.errors, []);
  await page.close();
});

test('WebGPU draws what the CPU draws', async (t) => {
  const gpu = await launch(WEBGPU);
  t.after(() => gpu.close());
  const settings = new URLSearchParams({ model: 'avatars', seed: '11', prompt: PROMPT, steps: '4', compute: 'f32' });
  const drawn = [];
  for (const device of ['webgpu', 'cpu']) {
    const page = await openPage(gpu, `${server.url}/?device=${device}&${settings}`);
    await reach(page, 'ready');
    await make(page, 't2i');
    assert.equal(await page.locator('#facts').getAttribute('data-device'), device);
    drawn.push(await pixels(page));
    assert.deepEqual(page.errors, []);
    await page.close();
  }
  // And from a picture, which is encoded there.
  const page = await openPage(gpu, `${server.url}/blank.html`);
  const varied = await withPackage(
    page,
    async (uvit, [prompt, pixels]) => {
      const initImage = new ImageData(Uint8ClampedArray.from(pixels), 64, 64);
      const varied = [];
      for (const device of ['webgpu', 'cpu']) {
        const pipeline = await uvit.load('models/avatars/manifest.json', { device, compute: 'f32', tune: 'off' });
        const { images, timings } = await pipeline.generate({ prompt, seed: 3, steps: 4, strength: 0.5, initImage });
        varied.push({ pixels: [...images[0].rgba], encodingMs: timings.encodingMs });
        pipeline.dispose();
      }
      return varied;
    },
    [CURLS, drawn[1]],
  );
  await page.close();
  assert.ok(varied.every(({ encodingMs }) => encodingMs > 0));
  for (const [gpu, cpu] of [drawn, varied.map(({ pixels }) => pixels)]) {
    const far = gpu.filter((value, i) => Math.abs(value - cpu[i]) > 2).length;
    assert.ok(far <= gpu.length / 1000, `${far} values are off by more than 2`);
  }
});

test('the next pictures start from one that was drawn, and a mask keeps what it is not painted over', async () => {
  const page = await openPage(browser, `${server.url}/?device=cpu&compute=quality&steps=10&model=avatars&seed=11`);
  await reach(page, 'ready');
  await page.locator('#prompt').fill(PROMPT);
  await make(page, 't2i');
  const first = await pixels(page);
  const encoders = () => server.served.filter((path) => path.includes('/avatars/encoder-'));
  server.served.length = 0;
  await page.click('.vary');
  assert.equal(await page.locator('#strength').inputValue(), '0.8');
  await page.locator('#strength').fill('0.3');
  await page.evaluate(() => {
    globalThis.said = [];
    const place = document.getElementById('announce');
    new MutationObserver(() => globalThis.said.push(place.textContent)).observe(place, { childList: true });
  });
  await make(page, 't2i');
  assert.match((await page.evaluate(() => globalThis.said)).join(', '), /^Drawing, Encoding the picture, Drawing, /);
  assert.match(await fact(page, 'origin'), /strength 0.3$/);
  assert.match(await fact(page, 'encoding'), /ms/);
  assert.equal(encoders().length, 1, 'fetched with the first picture');
  const second = await pixels(page);
  assert.ok(psnr(first, second) > 35, `${psnr(first, second)} dB`);
  assert.notDeepEqual(second, first);

  // Other words change what is painted over, and nothing else; what was fetched stays.
  await page.locator('#prompt').fill(CURLS);
  await page.getByRole('button', { name: 'Keep the middle' }).press('Enter');
  await stopAt(page, '^Encoding the picture');
  await make(page, 't2i');
  assert.match(await fact(page, 'origin'), /parts kept/);
  const third = await pixels(page);
  const changed = { kept: 0, anew: 0 };
  for (let i = 0; i < third.length; i += 4) {
    const inside = [(i / 4) % 64, i / 256].every((at) => at >= 16 && at < 48);
    if ([0, 1, 2].some((c) => third[i + c] !== first[i + c])) changed[inside ? 'kept' : 'anew']++;
  }
  assert.equal(changed.kept, 0);
  assert.ok(changed.anew > 2000, `${changed.anew} pixels changed`);
  assert.equal(encoders().length, 1);
  assert.deepEqual(page.errors, []);
  await page.close();
});

test('stages are said aloud, each once', async () => {
  const page = await openPage(browser, `${server.url}/?${FEW}&model=avatars`);
  await reach(page, 'ready');
  await page.evaluate(() => {
    globalThis.said = [];
    const place = document.getElementById('announce');
    new MutationObserver(() => globalThis.said.push(place.textContent)).observe(place, { childList: true });
  });
  await make(page, 't2i');
  const said = await page.evaluate(() => globalThis.said);
  assert.match(said.join(', '), /^Drawing, Reading the words, Drawing, Decoding the picture, Done in [\d.]+ s$/);
  await page.close();
});

test('no words, too many words and a model that is not there', async () => {
  const page = await openPage(browser, `${server.url}/?${FEW}&model=avatars&prompt=&seed=1`);
  await reach(page, 'ready');
  assert.equal(await value(page, 'prompt'), '');
  await make(page, 't2i');
  assert.equal(await page.locator('#warnings').isVisible(), false);
  await page.locator('#prompt').fill(`${PROMPT}, `.repeat(20));
  await make(page, 't2i');
  assert.match(await page.locator('#warnings').innerText(), /is cut before .* 30 tokens/);

  await page.getByRole('button', { name: 'Top hat', exact: true }).click();
  assert.match(await value(page, 'prompt'), /^a person in a red shirt, .* top hat/);
  const thrown = [];
  for (let i = 0; i < 20; i++) {
    await page.click('#surprise');
    thrown.push(await value(page, 'prompt'));
  }
  for (const prompt of thrown)
    assert.match(prompt, /(?=.*\bperson\b)(?=.*\bskin\b)(?=.*\bshirt\b)(?=.*\bbackground\b)/);
  assert.ok(new Set(thrown).size > 10);
  await make(page, 't2i');
  assert.equal(await page.locator('#warnings').isVisible(), false, 'the last prompt was not too long');

  await page.goto(`${server.url}/?${FEW}&model=castles`);
  await reach(page, 'ready');
  assert.match(await page.locator('#error').innerText(), /model "castles"/);
  assert.equal(await value(page, 'model'), 'emoji');
  assert.deepEqual(page.errors, []);
  await page.close();
});

test('what initImage takes for latents, by length, and what not', async () => {
  const page = await openPage(browser, `${server.url}/?${FEW}`);
  const said = await withPackage(page, async (uvit) => {
    const pipeline = await uvit.load('models/avatars/manifest.json', { device: 'cpu', compute: 'quality' });
    const settings = { prompt: 'a person', seed: 3, steps: 2, strength: 0.5 };
    const draw = async (options) => {
      const stages = new Set();
      const onStep = ({ stage }) => stages.add(stage);
      const { images, settings: used } = await pipeline.generate({ ...settings, ...options, onStep });
      return { pixels: [...images[0].rgba], stages: [...stages], count: images.length, masked: used.masked };
    };
    const picture = new ImageData(64, 64);
    for (let i = 0; i < picture.data.length; i++) picture.data[i] = i % 4 === 3 ? 255 : (i * 53) % 256;
    const planes = Float32Array.from(
      { length: 3 * 4096 },
      (_, i) => picture.data[(i % 4096) * 4 + Math.floor(i / 4096)] / 127.5 - 1,
    );
    const [pixelMask, latentMask] = [4096, 256].map((length) => new Float32Array(length));
    const drawn = {
      picture: await draw({ initImage: picture }),
      floats: await draw({ initImage: planes }),
      // As many values as 12 latents have: a picture, all the same.
      twelve: await draw({ initImage: planes, count: 12, steps: 1, strength: 1 }),
      latents: await draw({ initImage: new Float32Array(1024) }),
      maskedPicture: await draw({ initImage: picture, mask: pixelMask }),
      maskedLatents: await draw({ initImage: new Float32Array(1024), mask: latentMask }),
    };
    const refused = await Promise.all(
      [
        { initImage: new Float32Array(7) },
        { initImage: planes, mask: latentMask },
        { initImage: new Float32Array(1024), mask: pixelMask },
      ].map((options) => attempt(draw(options))),
    );
    const kept = drawn.maskedPicture.pixels.every((value, i) => value === picture.data[i]);
    const other = await uvit.load('models/avatars/no-encoder.json', { device: 'cpu', compute: 'quality' });
    const from = (initImage) => attempt(other.generate({ ...settings, initImage }));
    const latents = await from(new Float32Array(1024));
    const alone = { shape: other.info.initImageShape, drawn: latents.value?.images.length };
    alone.refused = [await from(picture), await from(planes)];
    return { shape: pipeline.info.initImageShape, drawn, refused, kept, alone };
  });
  assert.deepEqual(said.shape, [3, 64, 64]);
  assert.deepEqual([said.alone.shape, said.alone.drawn], [[4, 16, 16], 1]);
  for (const { code, remedy } of said.alone.refused) {
    assert.equal(code, 'INVALID_ARGUMENT');
    assert.match(remedy, /\[4, 16, 16\].* of latents: this model has no encoder/);
  }
  const { picture, floats, twelve, latents, maskedLatents } = said.drawn;
  assert.deepEqual(picture.pixels, floats.pixels);
  assert.deepEqual(picture.stages, ['text', 'encoding', 'sampling', 'decoding']);
  assert.deepEqual(twelve.stages, ['encoding', 'sampling', 'decoding']);
  assert.equal(twelve.count, 12);
  assert.deepEqual(latents.stages, ['sampling', 'decoding']);
  assert.ok(maskedLatents.masked && said.kept, 'what is kept comes out as it went in');
  assert.deepEqual(
    said.refused.map(({ code, cause }) => `${code}: ${cause}`),
    [
      'INVALID_ARGUMENT: initImage has 7 values, not 12288 or 1024',
      'INVALID_ARGUMENT: mask has 256 values, not 4096',
      'INVALID_ARGUMENT: mask has 4096 values, not 256',
    ],
  );
  await page.close();
});

test('an encoder that cannot be fetched fails that call alone, and is asked for again', async () => {
  const page = await openPage(browser, `${server.url}/?${FEW}`);
  let away = false;
  await page.route('**/avatars/encoder-*', (route) => (away ? route.abort() : route.continue()));
  await page.exposeFunction('setAway', (value) => {
    away = value;
  });
  const said = await withPackage(page, async (uvit) => {
    const settings = { prompt: 'a person', seed: 3, steps: 2 };
    const found = [];
    for (const keepLoaded of [true, false]) {
      await globalThis.setAway(true);
      const pipeline = await uvit.load('models/avatars/manifest.json', { device: 'cpu', keepLoaded });
      const from = () => attempt(pipeline.generate({ ...settings, strength: 0.5, initImage: new ImageData(64, 64) }));
      found.push((await from()).code ?? 'drawn', (await attempt(pipeline.generate(settings))).code ?? 'drawn');
      await globalThis.setAway(false);
      found.push((await from()).code ?? 'drawn');
      pipeline.dispose();
    }
    return found;
  });
  assert.deepEqual(said, ['IO', 'drawn', 'drawn', 'IO', 'drawn', 'drawn']);
  await page.close();
});

test('prompts of any characters draw, and what is no text is refused with what it is', async () => {
  const page = await openPage(browser, `${server.url}/?${FEW}`);
  const said = await withPackage(page, async (uvit) => {
    const pipeline = await uvit.load('models/avatars/manifest.json', { device: 'cpu', compute: 'quality' });
    const draw = (prompt) =>
      attempt(pipeline.generate({ prompt, seed: 3, steps: 1 }).then((r) => [...r.images[0].rgba]));
    const drawn = {};
    const prompts = { half: 'a \ud83d face', sign: 'a \ufffd face', whole: 'a 🙂 face', right: 'وجه مبتسم', empty: '' };
    for (const [name, prompt] of Object.entries(prompts)) drawn[name] = await draw(prompt);
    return { drawn, refused: await Promise.all([7, {}, [1]].map(draw)) };
  });
  for (const [name, { value }] of Object.entries(said.drawn)) assert.equal(value?.length, 64 * 64 * 4, name);
  // Half a character is what cannot be read; a whole one is itself.
  assert.deepEqual(said.drawn.half.value, said.drawn.sign.value);
  assert.notDeepEqual(said.drawn.whole.value, said.drawn.sign.value);
  assert.deepEqual(
    said.refused.map(({ code, cause }) => `${code}: ${cause}`),
    ['INVALID_ARGUMENT: prompt is 7', 'INVALID_ARGUMENT: prompt is an object', 'INVALID_ARGUMENT: prompt is an array'],
  );
  await page.close();
});
