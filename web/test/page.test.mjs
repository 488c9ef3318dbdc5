/** The built page, used as a person would, on each of the devices that a browser may have. */

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { after, before, test } from 'node:test';
import { fact, generate, launch, openPage, reach, WEBGPU } from './browser.mjs';
import { assertPicture } from './picture.mjs';
import { startServer } from './server.mjs';

/** Few steps, for the CPU's sake; the picture is recognisable all the same. */
const QUERY = 'label=heart&seed=42&steps=10';
const PICTURE = 'heart-seed-42-10-steps';

let server;
before(async () => {
  server = await startServer();
});
after(() => server.close());

const CASES = [
  { name: 'WebGPU asked for', args: WEBGPU, device: 'webgpu', gpu: true, notice: false },
  { name: 'the CPU asked for', args: WEBGPU, device: 'cpu', gpu: false, notice: false },
  { name: 'no WebGPU in this browser', args: [], device: 'auto', gpu: false, notice: true },
];

for (const { name, args, device, gpu, notice } of CASES) {
  test(`the page draws, stops and draws again: ${name}`, async () => {
    const browser = await launch(args);
    try {
      const page = await openPage(browser, `${server.url}/?device=${device}&${QUERY}`);
      await reach(page, 'ready');
      assert.match(await page.locator('#badge').innerText(), gpu ? /WebGPU/ : /CPU/);
      assert.equal(await page.locator('#notice').isVisible(), notice);
      if (notice) {
        assert.match(await page.locator('#notice').innerText(), /WebGPU/);
        await page.click('#notice summary');
        assert.match(await page.locator('#notice').innerText(), /chrome:\/\/gpu/);
      }

      await generate(page);
      await assertDevice(page, gpu);
      await assertPicture(page, PICTURE);
      await assertSaves(page);
      await assertStops(page);

      await page.locator('#steps').fill('10');
      await generate(page);
      await assertPicture(page, PICTURE);
      assert.match(await page.locator('#licence-list').innerText(), /Apache-2\.0[\s\S]*CC-BY-4\.0[\s\S]*MIT/);
      assert.deepEqual(page.errors, []);
    } finally {
      await browser.close();
    }
  });
}

test('who asks for nothing sees a picture that shows the model well, and another is one click away', async () => {
  const browser = await launch();
  try {
    const page = await openPage(browser, `${server.url}/`);
    await reach(page, 'ready');
    const chosen = (name) => page.locator(`input[name=${name}]:checked`).inputValue();
    assert.deepEqual([await chosen('kind'), await chosen('style')], ['animal', 'noto']);
    await generate(page);
    await assertPicture(page, 'first');
    const seed = await page.locator('#seed').inputValue();
    await page.click('#dice');
    assert.notEqual(await page.locator('#seed').inputValue(), seed);
    await page.goto(`${server.url}/?label=heart`);
    assert.equal(await page.locator('#seed').inputValue(), '');
  } finally {
    await browser.close();
  }
});

test('a picture is dropped, a part of it painted over and drawn anew, and the rest stays', async () => {
  const browser = await launch();
  try {
    const page = await openPage(
      browser,
      `${server.url}/?device=cpu&label=heart&seed=42&steps=4&sampler=heun&grid=karras`,
    );
    await reach(page, 'ready');
    assert.equal(await page.locator('#sampler option').count(), 18);
    assert.deepEqual(await Promise.all(['#sampler', '#grid'].map((select) => page.locator(select).inputValue())), [
      'heun',
      'karras',
    ]);
    await page.evaluate(async () => {
      const canvas = new OffscreenCanvas(90, 60);
      const context = canvas.getContext('2d');
      for (let i = 0; i < 90; i++) {
        context.fillStyle = `hsl(${i * 11} 80% 50%)`;
        context.fillRect(i, 0, 1, 60);
      }
      const files = new DataTransfer();
      files.items.add(new File([await canvas.convertToBlob()], 'stripes.png', { type: 'image/png' }));
      const event = new DragEvent('drop', { dataTransfer: files, bubbles: true, cancelable: true });
      document.getElementById('gallery').dispatchEvent(event);
    });
    await page.locator('#editor').waitFor();
    assert.equal(await page.locator('#strength').inputValue(), '0.8');
    const mask = page.locator('#init-mask');
    await mask.scrollIntoViewIfNeeded();
    const { x, y, width, height } = await mask.boundingBox();
    await page.mouse.move(x + 0.8 * width, y + 0.2 * height);
    await page.mouse.down();
    await page.mouse.move(x + 0.8 * width, y + 0.6 * height, { steps: 4 });
    await page.mouse.up();
    assert.equal(await page.locator('#strength').inputValue(), '1');
    await generate(page);
    assert.match(await fact(page, 'origin'), /strength 1, parts kept/);
    const compare = () =>
      page.evaluate(() => {
        const pixels = (canvas) => canvas.getContext('2d').getImageData(0, 0, 64, 64).data;
        const [drawn, given, painted] = ['#gallery canvas', '#init-picture', '#init-mask'].map((name) =>
          pixels(document.querySelector(name)),
        );
        const found = { kept: 0, anew: 0, wrong: 0, changed: 0 };
        for (let i = 0; i < 4096; i++) {
          const different = [0, 1, 2].some((c) => drawn[4 * i + c] !== given[4 * i + c]);
          if (painted[4 * i + 3] === 0) {
            found.kept++;
            if (different) found.wrong++;
          } else {
            found.anew++;
            if (different) found.changed++;
          }
        }
        return found;
      });
    const { kept, anew, wrong, changed } = await compare();
    assert.ok(kept > 2000 && anew > 200, `${kept} pixels kept, ${anew} painted`);
    assert.equal(wrong, 0, 'what was not painted stays');
    assert.ok(changed > anew / 2, `only ${changed} of ${anew} painted pixels changed`);

    // From what was drawn goes the next; without a pointer there is a way to a mask as well.
    await page.click('.vary');
    assert.deepEqual(await compare(), { kept: 4096, anew: 0, wrong: 0, changed: 0 });
    assert.equal(await page.locator('#strength').inputValue(), '0.8');
    await page.getByRole('button', { name: 'Keep the middle' }).press('Enter');
    await generate(page);
    const again = await compare();
    assert.deepEqual([again.kept, again.wrong], [1024, 0]);
    assert.deepEqual(page.errors, []);
  } finally {
    await browser.close();
  }
});

test('floats go out as .npy and come in as start noise; what cannot be read is told', async () => {
  const browser = await launch();
  try {
    const page = await openPage(browser, `${server.url}/?device=cpu&label=heart&seed=42&steps=2&interval=0.2,0.8`);
    await reach(page, 'ready');
    await page.click('#more summary');
    await generate(page);
    const pixels = () =>
      page.evaluate(() => [
        ...document.querySelector('#gallery canvas').getContext('2d').getImageData(0, 0, 64, 64).data,
      ]);
    const first = await pixels();
    const arriving = page.waitForEvent('download');
    await page.getByRole('button', { name: 'Save as .npy' }).click();
    const download = await arriving;
    assert.equal(download.suggestedFilename(), 'heart-noto-seed-42-2-steps.npy');
    const bytes = readFileSync(await download.path());
    const begin = 10 + bytes.readUInt16LE(8);
    assert.equal(begin % 64, 0);
    assert.match(
      bytes.subarray(10, begin).toString(),
      /'<f4', 'fortran_order': False, 'shape': \(1, 3, 64, 64\), \} *\n$/,
    );
    assert.equal(bytes.length - begin, 4 * 3 * 64 * 64);
    const red = Math.round((Math.min(1, Math.max(-1, bytes.readFloatLE(begin))) + 1) * 127.5);
    assert.ok(Math.abs(red - first[0]) <= 1);

    const floats = bytes.subarray(begin);
    const header = Buffer.from(
      JSON.stringify({ noise: { dtype: 'F32', shape: [1, 3, 64, 64], data_offsets: [0, floats.length] } }),
    );
    const length = Buffer.alloc(8);
    length.writeUInt32LE(header.length);
    const results = [];
    for (const [name, buffer] of [
      ['noise.npy', bytes],
      ['noise.safetensors', Buffer.concat([length, header, floats])],
      ['noise.f32', floats],
    ]) {
      await page.locator('#latents-file').setInputFiles({ name, mimeType: '', buffer });
      await page.locator('#forget-latents').waitFor();
      await generate(page);
      results.push(await pixels());
    }
    assert.notDeepEqual(results[0], first);
    assert.deepEqual(results[1], results[0]);
    assert.deepEqual(results[2], results[0]);
    await page.click('#forget-latents');
    await generate(page);
    assert.deepEqual(await pixels(), first);

    await page.locator('#latents-file').setInputFiles({ name: 'noise.f32', mimeType: '', buffer: Buffer.alloc(7) });
    await page.locator('#error').waitFor();
    assert.match(await page.locator('#error').innerText(), /noise\.f32 cannot be read/i);
    await page.locator('#latents-file').setInputFiles({ name: 'noise.f32', mimeType: '', buffer: Buffer.alloc(8) });
    await page.locator('#forget-latents').waitFor();
    await page.click('#generate');
    await page.locator('#error', { hasText: 'startLatents' }).waitFor();
    await reach(page, 'ready');
    assert.match(await page.locator('#error').innerText(), /2 values, not 12288/);
  } finally {
    await browser.close();
  }
});

/** The result itself names the device and its adapter, and counts what the GPU was given to do. */
async function assertDevice(page, gpu) {
  assert.equal(await page.locator('#facts').getAttribute('data-device'), gpu ? 'webgpu' : 'cpu');
  const dispatches = Number((await fact(page, 'dispatches')).replaceAll(',', ''));
  assert.ok(gpu ? dispatches > 0 : dispatches === 0, `${dispatches} dispatches`);
  const adapter = await page.evaluate(async () => {
    const found = await navigator.gpu?.requestAdapter();
    return found && { vendor: found.info.vendor, architecture: found.info.architecture };
  });
  const drawnBy = await fact(page, 'device');
  if (gpu) assert.ok(drawnBy.includes(adapter.vendor), `${drawnBy} does not name ${adapter.vendor}`);
  else assert.equal(drawnBy, 'CPU');
  assert.ok((await fact(page, 'reason')).length > 10, 'the page says why this device');
}

/** The saved file is a PNG that holds exactly the canvas. */
async function assertSaves(page) {
  const arriving = page.waitForEvent('download');
  await page.click('.save');
  const download = await arriving;
  assert.equal(download.suggestedFilename(), 'heart-noto-seed-42-10-steps.png');
  const bytes = readFileSync(await download.path());
  const same = await page.evaluate(async (base64) => {
    const blob = await (await fetch(`data:image/png;base64,${base64}`)).blob();
    const bitmap = await createImageBitmap(blob);
    const saved = new OffscreenCanvas(bitmap.width, bitmap.height).getContext('2d');
    saved.drawImage(bitmap, 0, 0);
    const canvas = document.querySelector('#gallery canvas');
    const [a, b] = [saved, canvas.getContext('2d')].map((c) => c.getImageData(0, 0, canvas.width, canvas.height).data);
    return bitmap.width === canvas.width && a.every((value, i) => value === b[i]);
  }, bytes.toString('base64'));
  assert.ok(same, 'the saved picture is the one on the page');
}

/** Stop, pressed half way, is obeyed long before the picture would have been done. */
async function assertStops(page) {
  await page.locator('#steps').fill('100');
  await page.click('#generate');
  await page.waitForFunction(() => /^Step [2-9]/.test(document.getElementById('status').textContent));
  await page.waitForSelector('canvas[data-kind=preview]');
  await page.click('#stop');
  await reach(page, 'ready');
  assert.equal(await page.locator('#status').innerText(), 'Stopped');
  assert.equal(await page.locator('.save').count(), 0, 'a stopped picture is not offered for saving');
}
