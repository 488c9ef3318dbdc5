/** Comparing canvases with recorded pictures. Both are read in the browser, which decodes PNG anyway. */

import assert from 'node:assert/strict';
import { existsSync, mkdirSync, writeFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

const folder = fileURLToPath(new URL('./expected/', import.meta.url));

/** At most 0.1% of the values may be off by more than 2 of 255, and none by more than 6. */
const CLOSE = 2;
const FAR = 6;
const SHARE = 0.001;

/** What the picture on the page holds: RGBA, row by row. */
export function pixels(page) {
  return page.locator('#gallery canvas').evaluate((canvas) => {
    return [...canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data];
  });
}

/**
 * The page's first canvas against `expected/<name>.png`. With UVIT_RECORD=1 the picture is recorded instead:
 * do so only with a core whose goldens pass, and look at it before committing.
 */
export async function assertPicture(page, name) {
  const file = `${folder}${name}.png`;
  if (process.env.UVIT_RECORD === '1' && !existsSync(file)) {
    const url = await page
      .locator('#gallery canvas')
      .first()
      .evaluate((canvas) => canvas.toDataURL('image/png'));
    mkdirSync(folder, { recursive: true });
    writeFileSync(file, Buffer.from(url.slice(url.indexOf(',') + 1), 'base64'));
  }
  assert.ok(existsSync(file), `${name}.png is not recorded: run the tests once with UVIT_RECORD=1`);
  const found = await page.evaluate(
    async ([address, close]) => {
      const canvas = document.querySelector('#gallery canvas');
      const blob = await (await fetch(address)).blob();
      const bitmap = await createImageBitmap(blob, { colorSpaceConversion: 'none' });
      const other = new OffscreenCanvas(bitmap.width, bitmap.height).getContext('2d');
      other.drawImage(bitmap, 0, 0);
      const expected = other.getImageData(0, 0, bitmap.width, bitmap.height).data;
      const actual = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
      const found = { sizes: [actual.length, expected.length], largest: 0, far: 0 };
      for (let i = 0; i < actual.length; i++) {
        const difference = Math.abs(actual[i] - expected[i]);
        found.largest = Math.max(found.largest, difference);
        if (difference > close) found.far++;
      }
      return found;
    },
    [`/expected/${name}.png`, CLOSE],
  );
  assert.equal(found.sizes[0], found.sizes[1], 'the picture has another size than the recorded one');
  assert.ok(found.largest <= FAR, `a value is off by ${found.largest}`);
  assert.ok(found.far <= found.sizes[0] * SHARE, `${found.far} values are off by more than ${CLOSE}`);
}
