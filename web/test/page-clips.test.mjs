/**
 * The page of a model of clips: it draws, plays, goes frame by frame, saves and stops. And models by their addresses: other networks, and
 * what is said of one that is too large.
 */

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { after, before, test } from 'node:test';
import { generate, launch, make, openPage, reach, WEBGPU } from './browser.mjs';
import { goldenModel, sd3Model } from './golden-model.mjs';
import { pixels } from './picture.mjs';
import { startServer } from './server.mjs';

/** A clip of 12 frames of 16 x 16, of three labels; of random weights, so that every frame is another. */
const FRAMES = 12;
const LABELS = ['still', 'wave', 'turn'].map((name, index) => ({ index, name }));
const MODEL = goldenModel('small', 'uvit_video_t2_386_tokens', { labels: LABELS, null_class: 3, frame_rate: 10 });
const QUERY = 'model=small/&label=wave&seed=3';

let server;
let browser;
before(async () => {
  const dit = goldenModel('dit', 'dit', { null_class: 8 });
  const latte = goldenModel('latte', 'latte', { null_class: 5, frame_rate: 4 });
  server = await startServer(undefined, { files: { ...MODEL, ...dit, ...latte, ...sd3Model('sd3') } });
  browser = await launch(WEBGPU);
});
after(async () => {
  await browser.close();
  await server.close();
});

/** A clip is drawn and stands still at its first frame. */
async function drawn(page) {
  await generate(page);
  if ((await page.locator('#play').getAttribute('aria-label')) === 'Pause') await page.click('#play');
  await page.locator('#scrub').press('Home');
}

function counter(page) {
  return page.locator('#frame').innerText();
}

/** The frames that the player shows, one after the other. */
async function scrubbed(page) {
  const frames = [];
  await page.locator('#scrub').press('Home');
  const [, count] = (await counter(page)).split(' / ').map(Number);
  for (let k = 0; k < count; k++) {
    frames.push(await pixels(page));
    await page.locator('#scrub').press('ArrowRight');
  }
  return frames;
}

/** Presses a button that saves, and gives what the browser got: its name, its bytes, and how it is decoded. */
async function saved(page, name) {
  const arriving = page.waitForEvent('download');
  await page.getByRole('button', { name }).click();
  const download = await arriving;
  return { name: download.suggestedFilename(), bytes: readFileSync(await download.path()) };
}

/** The names of a PNG's chunks, and the text that says how it was made. */
function chunks(png) {
  const names = [];
  let settings;
  for (let at = 8; at < png.length; at += 12 + png.readUInt32BE(at)) {
    const name = png.toString('latin1', at + 4, at + 8);
    names.push(name);
    const content = png.subarray(at + 8, at + 8 + png.readUInt32BE(at));
    if (name === 'iTXt') settings = JSON.parse(content.subarray(content.indexOf('{')).toString());
  }
  return { names, settings };
}

/** The frames of an animated picture, as the browser decodes them. */
function decoded(page, bytes, type) {
  return page.evaluate(
    async ([base64, type]) => {
      const data = await (await fetch(`data:${type};base64,${base64}`)).arrayBuffer();
      const decoder = new ImageDecoder({ data, type });
      await decoder.tracks.ready;
      const frames = [];
      for (let frameIndex = 0; frameIndex < decoder.tracks.selectedTrack.frameCount; frameIndex++) {
        const { image } = await decoder.decode({ frameIndex });
        const context = new OffscreenCanvas(image.displayWidth, image.displayHeight).getContext('2d');
        context.drawImage(image, 0, 0);
        const { data } = context.getImageData(0, 0, image.displayWidth, image.displayHeight);
        // Large ones would take minutes on their way to the test.
        frames.push(data.length > 4096 ? [data.length] : [...data]);
      }
      return frames;
    },
    [bytes.toString('base64'), type],
  );
}

/** Drops a picture of vertical bands, so large, onto the clip; gives its pixels. */
function dropBands(page, size) {
  return page.evaluate(async (size) => {
    const canvas = new OffscreenCanvas(size, size);
    const context = canvas.getContext('2d');
    for (let x = 0; x < size; x++) {
      context.fillStyle = `rgb(${x * 15} ${255 - x * 9} 120)`;
      context.fillRect(x, 0, 1, size);
    }
    const files = new DataTransfer();
    files.items.add(new File([await canvas.convertToBlob()], 'bands.png', { type: 'image/png' }));
    const options = { dataTransfer: files, bubbles: true, cancelable: true };
    document.getElementById('gallery').dispatchEvent(new DragEvent('drop', options));
    return [...context.getImageData(0, 0, size, size).data];
  }, size);
}

for (const device of ['cpu', 'webgpu']) {
  test(`a clip is drawn, plays, goes frame by frame, and is saved: ${device}`, async () => {
    const page = await openPage(browser, `${server.url}/?${QUERY}&device=${device}`);
    await reach(page, 'ready');
    assert.equal(await page.locator('#play').isDisabled(), true, 'there is nothing to play yet');
    assert.equal(await page.locator('input[name=motion]:checked').evaluate((it) => it.parentElement.innerText), 'Wave');

    await generate(page);
    assert.equal(await page.locator('#facts').getAttribute('data-device'), device);
    // It plays by itself, and round.
    const seen = await page.evaluate(
      (frames) =>
        new Promise((resolve) => {
          const seen = new Set();
          const place = document.getElementById('frame');
          new MutationObserver((_, observer) => {
            seen.add(place.textContent);
            if (seen.size < frames) return;
            observer.disconnect();
            resolve([...seen].sort());
          }).observe(place, { childList: true, characterData: true, subtree: true });
        }),
      FRAMES,
    );
    assert.deepEqual(seen, Array.from({ length: FRAMES }, (_, k) => `${k + 1} / ${FRAMES}`).sort());
    await page.locator('#gallery').press(' ');
    assert.equal(await page.locator('#play').getAttribute('aria-label'), 'Play');
    const still = await counter(page);
    await page.waitForTimeout(300);
    assert.equal(await counter(page), still);

    const frames = await scrubbed(page);
    assert.equal(new Set(frames.map(String)).size, FRAMES, 'every frame is another');
    assert.equal(await counter(page), `1 / ${FRAMES}`, 'after the last comes the first');
    await page.locator('#scrub').press('End');
    assert.deepEqual(await pixels(page), frames[FRAMES - 1]);
    await page.locator('#gallery').press('ArrowLeft');
    assert.deepEqual(await pixels(page), frames[FRAMES - 2]);
    await page.locator('#scrub').fill('4');
    assert.deepEqual(await pixels(page), frames[3]);
    assert.equal(await page.locator('#scrub').getAttribute('aria-valuetext'), `Frame 4 of ${FRAMES}`);

    // Encoders are loaded once somebody saves.
    const encoders = () => server.served.filter((path) => /saving-/.test(path)).length;
    server.served.length = 0;
    const apng = await saved(page, 'Save the clip with seed 3 as APNG');
    assert.equal(encoders(), 1);
    assert.equal(apng.name, 'wave-seed-3-4-steps.png');
    const { names, settings } = chunks(apng.bytes);
    assert.equal(names.filter((name) => name === 'fcTL').length, FRAMES);
    assert.equal(names.filter((name) => name === 'fdAT').length, FRAMES - 1);
    assert.deepEqual([settings.seed, settings.labelName, settings.count], [3, 'wave', 1]);
    assert.deepEqual(await decoded(page, apng.bytes, 'image/png'), frames);
    const gif = await saved(page, 'Save the clip with seed 3 as GIF');
    assert.equal(gif.name, 'wave-seed-3-4-steps.gif');
    assert.deepEqual(await decoded(page, gif.bytes, 'image/gif'), Array(FRAMES).fill([4 * 256 * 256]));
    const webm = await saved(page, 'Save the clip with seed 3 as WebM');
    assert.equal(webm.name, 'wave-seed-3-4-steps.webm');
    const video = await page.evaluate(async (base64) => {
      const video = document.createElement('video');
      video.muted = true;
      video.src = `data:video/webm;base64,${base64}`;
      await video.play();
      await new Promise((resolve) => video.addEventListener('ended', resolve, { once: true }));
      return { width: video.videoWidth, height: video.videoHeight, duration: video.duration };
    }, webm.bytes.toString('base64'));
    assert.deepEqual([video.width, video.height], [256, 256]);
    assert.ok(Math.abs(video.duration - FRAMES / 10) < 0.01, `${video.duration} s`);
    assert.equal(encoders(), 1);
    assert.deepEqual(page.errors, []);
    await page.close();
  });
}

test("the page's own clips: picked from their group, eight motions, and what a visitor sees first moves", async () => {
  const page = await openPage(browser, `${server.url}/?device=cpu`);
  await reach(page, 'ready');
  const group = page.locator('#model optgroup[label=Clips]');
  await page.locator('#model').selectOption(await group.locator('option').getAttribute('value'));
  await reach(page, 'ready');
  assert.deepEqual(await page.locator('#motion-options label').allInnerTexts(), [
    'Blink',
    'Talk',
    'Nod',
    'Shake',
    'Jump',
    'Walk',
    'Hat',
    'Light',
  ]);
  assert.equal(await page.locator('#motion-says').innerText(), 'Crouches, jumps and lands.');
  await drawn(page);
  const frames = await scrubbed(page);
  assert.equal(frames.length, 16);
  // In the air, then back.
  const far = (a, b) => a.reduce((sum, value, i) => sum + Math.abs(value - b[i]), 0) / a.length;
  const [up, back] = [8, 15].map((k) => far(frames[0], frames[k]));
  assert.ok(up > 3 * back, `frame 9 is off by ${up}, the last by ${back}`);
  await page.locator('#motion-options label', { hasText: 'Walk' }).click();
  assert.equal(await page.locator('#motion-says').innerText(), 'Leaves at one side, comes back at the other.');
  assert.deepEqual(page.errors, []);
  await page.close();
});

test('the film strip holds every step, each is played when pressed, and the last is the clip', async () => {
  const page = await openPage(browser, `${server.url}/?${QUERY}&device=cpu&steps=6`);
  await reach(page, 'ready');
  await drawn(page);
  const frames = await scrubbed(page);
  const steps = page.locator('#film-steps .thumb');
  assert.deepEqual(await steps.evaluateAll((all) => all.map(({ ariaLabel }) => ariaLabel)), [
    ...Array.from({ length: 6 }, (_, k) => `Step ${k + 1} of 6: an estimate`),
    'Finished',
  ]);
  await steps.nth(1).click();
  assert.equal(await page.locator('#gallery canvas').getAttribute('data-kind'), 'preview');
  const estimates = await scrubbed(page);
  assert.equal(estimates.length, FRAMES);
  assert.notDeepEqual(estimates, frames);
  // What is saved is the clip, whatever is in sight.
  const { bytes } = await saved(page, 'Save the clip with seed 3 as APNG');
  assert.deepEqual(await decoded(page, bytes, 'image/png'), frames);
  await steps.last().click();
  assert.equal(await page.locator('#gallery canvas').getAttribute('data-kind'), 'picture');
  assert.deepEqual(await scrubbed(page), frames);
  assert.deepEqual(page.errors, []);
  await page.close();
});

test('a stop while it draws leaves the last estimate to look at, and the next clip is as it would have been', async () => {
  const page = await openPage(browser, `${server.url}/?${QUERY}&device=cpu`);
  await reach(page, 'ready');
  await drawn(page);
  const frames = await scrubbed(page);
  await page.locator('#steps').fill('100');
  await page.evaluate(() => {
    const status = document.getElementById('status');
    new MutationObserver((_, observer) => {
      if (!/^Step 3 of/.test(status.textContent)) return;
      observer.disconnect();
      document.getElementById('stop').click();
    }).observe(status, { childList: true });
  });
  await page.click('#generate');
  await page.waitForFunction(() => document.getElementById('status').textContent === 'Stopped');
  await reach(page, 'ready');
  const steps = await page.locator('#film-steps .thumb').count();
  assert.ok(steps >= 3 && steps < 100, `${steps} steps`);
  assert.equal((await scrubbed(page)).length, FRAMES);
  assert.equal(await page.locator('#gallery .save').count(), 0, 'what is not finished is not saved');
  await page.locator('#steps').fill('4');
  await drawn(page);
  assert.deepEqual(await scrubbed(page), frames);
  assert.deepEqual(page.errors, []);
  await page.close();
});

test('a clip begins with a picture that was dropped, or with a frame of the last one; and goes on for longer', async () => {
  const page = await openPage(browser, `${server.url}/?${QUERY}&device=cpu&frames=21`);
  await reach(page, 'ready');
  assert.deepEqual(
    await page.locator('#frames option').evaluateAll((all) => all.map(({ value }) => Number(value))),
    [12, 21, 30, 39, 57, 75],
  );
  const bands = await dropBands(page, 16);
  await page.locator('#first-taken').waitFor();
  const parts = page.evaluate(
    () =>
      new Promise((resolve) => {
        const status = document.getElementById('status');
        const found = new Set();
        new MutationObserver((_, observer) => {
          const [part] = /Part \d of \d/.exec(status.textContent) ?? [];
          if (part) found.add(part);
          if (!/^Done/.test(status.textContent)) return;
          observer.disconnect();
          resolve([...found]);
        }).observe(status, { childList: true });
      }),
  );
  await drawn(page);
  assert.deepEqual(await parts, ['Part 1 of 2', 'Part 2 of 2']);
  assert.equal(await counter(page), '1 / 21');
  assert.deepEqual(await pixels(page), bands);
  assert.match(page.url(), /frames=21/);

  await page.locator('#scrub').fill('8');
  const eighth = await pixels(page);
  await page.getByRole('button', { name: /^Begin with this/ }).click();
  await page.locator('#frames').selectOption('12');
  await drawn(page);
  assert.deepEqual(await pixels(page), eighth);
  const frames = await scrubbed(page);
  assert.equal(frames.length, FRAMES);
  await page.getByRole('button', { name: 'Remove', exact: true }).click();
  await drawn(page);
  assert.notDeepEqual(await pixels(page), eighth, 'the first frame is drawn again');

  // Each of those drawn before comes back with the form as it was.
  await page.locator('#strip .thumb').nth(2).click();
  assert.match(await counter(page), / \/ 21$/);
  assert.equal(await page.locator('#frames').inputValue(), '21');
  assert.deepEqual(page.errors, []);
  await page.close();
});

test('several clips play together; without the loop they end; where less motion is wanted nothing moves unasked', async () => {
  const page = await openPage(browser, `${server.url}/?${QUERY}&device=cpu&count=2`);
  await page.emulateMedia({ reducedMotion: 'reduce' });
  await reach(page, 'ready');
  await generate(page);
  assert.equal(await page.locator('#play').getAttribute('aria-label'), 'Play');
  const still = await counter(page);
  await page.waitForTimeout(300);
  assert.equal(await counter(page), still);

  const both = () =>
    page
      .locator('#gallery canvas')
      .evaluateAll((all) => all.map((it) => [...it.getContext('2d').getImageData(0, 0, 16, 16).data]));
  await page.locator('#scrub').press('Home');
  const first = await both();
  assert.equal(first.length, 2);
  assert.notDeepEqual(first[0], first[1]);
  await page.getByRole('checkbox', { name: 'Loop' }).uncheck();
  await page.getByRole('radio', { name: 'Double speed' }).check();
  await page.click('#play');
  await page.waitForSelector('#play[aria-label=Play]');
  assert.equal(await counter(page), `${FRAMES} / ${FRAMES}`);
  const last = await both();
  assert.notDeepEqual(last[0], first[0]);
  assert.notDeepEqual(last[1], first[1]);
  // From its end it begins again.
  await page.click('#play');
  await page.waitForFunction(() => !/^12 /.test(document.getElementById('frame').textContent));
  assert.deepEqual(page.errors, []);
  await page.close();
});

test('a browser that encodes no video saves an animated PNG, and says so', async () => {
  const context = await browser.newContext({ acceptDownloads: true });
  await context.addInitScript(() => delete globalThis.VideoEncoder);
  const page = await openPage(context, `${server.url}/?${QUERY}&device=cpu`);
  await reach(page, 'ready');
  await generate(page);
  const { name, bytes } = await saved(page, 'Save the clip with seed 3 as WebM');
  assert.equal(name, 'wave-seed-3-4-steps.png');
  assert.equal(chunks(bytes).names.filter((chunk) => chunk === 'fcTL').length, FRAMES);
  assert.match(await page.locator('#status').innerText(), /encodes no video .* an animated PNG/);
  assert.equal(await page.locator('#announce').innerText(), await page.locator('#status').innerText());
  await context.close();
});

test('everything is in the page on a phone', async () => {
  const page = await openPage(browser, `${server.url}/?${QUERY}&device=cpu`);
  await page.setViewportSize({ width: 360, height: 740 });
  await reach(page, 'ready');
  await generate(page);
  assert.equal(await page.evaluate(() => document.documentElement.scrollWidth), 360);
  for (const control of await page.locator('#player :is(button, input, label)').all()) {
    const box = await control.boundingBox();
    if (box) assert.ok(box.x >= 0 && box.x + box.width <= 360);
  }
  await page.close();
});

for (const device of ['cpu', 'webgpu']) {
  test(`a DiT and a Latte by their addresses draw classes by number, a Stable Diffusion 3 draws words: ${device}`, async () => {
    const page = await openPage(browser, `${server.url}/?model=dit/&device=${device}&seed=1`);
    await reach(page, 'ready');
    const picker = page.locator('#class');
    assert.deepEqual([await picker.inputValue(), await picker.getAttribute('max')], ['0', '7']);
    const classes = [];
    for (const number of ['3', '7']) {
      await picker.fill(number);
      await generate(page);
      assert.match(page.url(), new RegExp(`label=${number}`));
      classes.push(await pixels(page));
    }
    assert.equal(classes[0].length, 4 * 8 * 8);
    assert.notDeepEqual(classes[0], classes[1]);
    assert.equal(await page.locator('#player').isVisible(), false);

    await page.goto(`${server.url}/?model=latte/manifest.json&device=${device}&seed=1&label=2`);
    await reach(page, 'ready');
    assert.equal(await picker.inputValue(), '2');
    await drawn(page);
    const frames = await scrubbed(page);
    assert.equal(frames.length, 3);
    assert.equal(new Set(frames.map(String)).size, 3);

    await page.goto(`${server.url}/?model=sd3/&device=${device}&seed=1&prompt=a+red+cube`);
    await reach(page, 'ready');
    assert.deepEqual(
      await page.locator('[data-mode]:visible').evaluateAll((all) => all.map(({ dataset }) => dataset.mode)),
      ['t2i'],
    );
    assert.equal(await page.locator('.card:visible').count(), 0, 'the examples are of another model');
    const pictures = [];
    for (const words of ['a red cube', 'a fox in the snow!']) {
      await page.locator('#prompt').fill(words);
      await make(page, 't2i');
      pictures.push(await pixels(page));
    }
    assert.equal(pictures[0].length, 4 * 16 * 16);
    assert.notDeepEqual(pictures[0], pictures[1]);
    assert.equal(await page.locator('.card:visible').count(), 2);
    assert.deepEqual(page.errors, []);
    await page.close();
  });
}

/** A model of so many bytes in each of its stored forms, of which nothing but the manifest is there. */
function heavy(folder, forms) {
  const variants = (share) =>
    forms.map(([dtype, bytes]) => ({ dtype, group: 0, bytes: bytes * share, shards: [], tensors: {} }));
  const components = { denoiser: { variants: variants(0.7) }, text_encoder: { variants: variants(0.3) } };
  return { [`${folder}/manifest.json`]: Buffer.from(JSON.stringify({ format_version: 2, components })) };
}

test('a model that the device may not bear is asked about before any of it is fetched', async () => {
  const files = {
    ...MODEL,
    ...heavy('large', [
      ['f16', 6e9],
      ['q4', 2e9],
    ]),
  };
  const large = await startServer(undefined, { files });
  const context = await browser.newContext();
  await context.addInitScript(() => {
    Object.defineProperty(Navigator.prototype, 'deviceMemory', { get: () => 8, configurable: true });
  });
  try {
    const page = await openPage(context, `${large.url}/?model=large/&device=webgpu`);
    await page.waitForSelector('html[data-state=failed]');
    const said = await page.locator('#error').innerText();
    assert.match(said, /weights are 6\.0 GB in f16 \(the largest network alone 4\.2 GB\)/);
    assert.match(said, /about 5\.2 GB/);
    assert.match(said, /of the 8 GB that this browser tells of/);
    assert.match(said, /OUT_OF_MEMORY/);
    assert.deepEqual(await page.locator('#error button').allInnerTexts(), [
      'Load q4 instead, 2.0 GB',
      'Load it anyway',
    ]);
    assert.ok(!large.served.some((path) => /\.(wasm|safetensors)$/.test(path)), 'nothing but the page was fetched');

    // The smaller form goes on to what the manifest lacks, and so does whoever insists.
    for (const name of ['Load q4 instead, 2.0 GB', 'Load it anyway']) {
      await page.goto(`${large.url}/?model=large/&device=webgpu`);
      await page.waitForSelector('html[data-state=failed]');
      await page.getByRole('button', { name }).click();
      await page.waitForSelector('#error[data-code=BAD_MANIFEST]');
    }
    assert.match(page.url(), /model=large/);

    // From there, any other can be picked.
    await page.locator('#model').selectOption({ label: 'By its address …' });
    await page.locator('#address').fill('small/manifest.json');
    await page.locator('#address').press('Enter');
    await reach(page, 'ready');
    await generate(page);
    assert.match(page.url(), /model=small%2Fmanifest\.json/);
    assert.deepEqual(page.errors, []);
  } finally {
    await context.close();
    await large.close();
  }
});
