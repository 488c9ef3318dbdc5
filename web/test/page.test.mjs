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
