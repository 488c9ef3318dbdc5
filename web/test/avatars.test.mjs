/**
 * Words become pictures in Chromium, through the text encoder, the denoiser and the decoder, as PyTorch drew them from the same seeds:
 * the model of the page against two of its pictures, and the f32 checkpoints, where they are, against all. Those are found
 * as in tests/text_to_image.rs: in UVIT_MODELS, or beside the repository.
 */

import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { launch, openPage, WEBGPU, withPackage } from './browser.mjs';
import { startServer } from './server.mjs';

const repository = fileURLToPath(new URL('../..', import.meta.url));
const checkpoints = join(process.env.UVIT_MODELS ?? join(repository, '../shared/models'), 'avatars');
const WITHOUT =
  !existsSync(checkpoints) && !process.env.UVIT_MODELS && 'the f32 checkpoints are not here (UVIT_MODELS)';

/** What q8 leaves of a picture, in dB: these two have 47.9 and 47.4, on both devices. Another seed's has 22. */
const QUANTISED = 45;

/** Two of the reference's runs, which PyTorch drew in f32: with a negative prompt, and in few steps. */
const RUNS = [
  {
    picture: 'avatars-negative',
    prompt: 'a sad person with long red hair, dark skin, a blue top hat, glasses and a blue shirt on a pink background',
    negativePrompt: '',
    steps: 50,
    guidanceScale: 5,
    seed: 16,
  },
  {
    picture: 'avatars-10-steps',
    prompt:
      'on a purple background, a sad person with light skin, long blond hair and a green top hat wears a blue shirt',
    steps: 10,
    guidanceScale: 5,
    seed: 17,
  },
];

let server;
let browser;
let converted;
before(async () => {
  converted = mkdtempSync(join(tmpdir(), 'uvit-avatars-'));
  const web = join(repository, 'web');
  server = await startServer({
    '/package/': join(web, 'dist'),
    '/models/': join(web, 'models'),
    '/expected/': join(web, 'test/expected'),
    '/converted/': converted,
  });
  browser = await launch(WEBGPU);
});
after(async () => {
  await browser.close();
  await server.close();
  rmSync(converted, { recursive: true });
});

/** The pictures of runs as rows of RGB, one after the other on a device in f32. */
async function draw(device, model, runs) {
  const page = await openPage(browser, `${server.url}/blank.html`);
  try {
    return await withPackage(
      page,
      async (uvit, { device, model, runs }) => {
        const pipeline = await uvit.load(model, { device, compute: 'f32', tune: 'off' });
        const pictures = [];
        for (const { picture, ...settings } of runs) {
          const { images } = await pipeline.generate(settings);
          pictures.push([...images[0].rgba].filter((_, i) => i % 4 !== 3));
        }
        return pictures;
      },
      { device, model, runs },
    );
  } finally {
    await page.close();
  }
}

/** A recorded picture as rows of RGB. */
async function recorded(name) {
  const page = await openPage(browser, `${server.url}/blank.html`);
  const values = await page.evaluate(async (address) => {
    const blob = await (await fetch(address)).blob();
    const bitmap = await createImageBitmap(blob, { colorSpaceConversion: 'none' });
    const context = new OffscreenCanvas(bitmap.width, bitmap.height).getContext('2d');
    context.drawImage(bitmap, 0, 0);
    return [...context.getImageData(0, 0, bitmap.width, bitmap.height).data].filter((_, i) => i % 4 !== 3);
  }, `/expected/${name}.png`);
  await page.close();
  return values;
}

/** In dB, of values up to 255. */
function psnr(found, expected) {
  assert.equal(found.length, expected.length);
  const squares = found.reduce((sum, value, i) => sum + (value - expected[i]) ** 2, 0);
  return 10 * Math.log10((255 ** 2 * found.length) / squares);
}

for (const device of ['cpu', 'webgpu']) {
  test(`words become PyTorch's pictures through the stored form of the page: ${device}`, async () => {
    const pictures = await draw(device, '/models/avatars/manifest.json', RUNS);
    for (const [i, { picture }] of RUNS.entries()) {
      const found = psnr(pictures[i], await recorded(picture));
      assert.ok(found > QUANTISED, `${picture}: ${found.toFixed(1)} dB`);
    }
  });
}

test("words become PyTorch's pictures in f32, on the CPU and on WebGPU", { skip: WITHOUT }, async () => {
  execFileSync(
    'cargo',
    ['run', '--quiet', '--bin', 'uvit', '--', 'convert', checkpoints, '--dtype', 'f32', '--out', converted],
    { cwd: repository, stdio: ['ignore', 'ignore', 'inherit'] },
  );
  const about = JSON.parse(readFileSync(join(checkpoints, 'reference.json')));
  const bytes = readFileSync(join(checkpoints, 'reference.safetensors'));
  const start = 8 + Number(bytes.readBigUInt64LE(0));
  const header = JSON.parse(bytes.subarray(8, start));
  const runs = about.end_to_end.filter(({ mode }) => mode === 't2i');
  const settings = runs.map(({ prompt, t2i_cfg_mode: mode, steps, scale, seed }) => {
    return { prompt, ...(mode === 'empty_token' && { negativePrompt: '' }), steps, guidanceScale: scale + 1, seed };
  });
  // A software adapter takes its time: there the last three, which differ in kind.
  for (const [device, first] of [
    ['cpu', 0],
    ['webgpu', Math.max(0, runs.length - 3)],
  ]) {
    const pictures = await draw(device, '/converted/manifest.json', settings.slice(first));
    for (const [i, { id }] of runs.slice(first).entries()) {
      const [from, to] = header[`${id}/picture_u8`].data_offsets;
      const planes = bytes.subarray(start + from, start + to);
      const pixels = planes.length / 3;
      const off = pictures[i].map((value, j) => Math.abs(value - planes[(j % 3) * pixels + Math.floor(j / 3)]));
      assert.equal(off.length, planes.length);
      const far = off.filter((value) => value > 2).length;
      assert.ok(
        far <= planes.length / 1000,
        `${device} ${id}: ${far} of ${planes.length} values are off by more than 2`,
      );
    }
  }
});
