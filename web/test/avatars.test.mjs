/**
 * Words become pictures in Chromium, pictures words, and nothing both, as PyTorch made them from the same seeds: the model of the page
 * against two of its pictures, and the f32 checkpoints, where they are, against all that it made in every mode. Those are found
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
import { tensorsIn, valuesOf } from './safetensors.mjs';
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

/** What PyTorch has computed: the runs, and the values of a tensor of theirs. */
function reference() {
  const { end_to_end: runs } = JSON.parse(readFileSync(join(checkpoints, 'reference.json')));
  const all = new Map(tensorsIn(readFileSync(join(checkpoints, 'reference.safetensors'))));
  const values = (name) => (all.has(name) ? valuesOf(all.get(name)) : undefined);
  return { runs, values };
}

/** What a run of the reference is asked for here. `beams` is left to the model where it is not given. */
function asked({ id, mode, seed, steps, scale, prompt, t2i_cfg_mode: form }, values, beams) {
  const planes = values(`${id}/input_u8`);
  return {
    mode,
    seed,
    steps,
    // Nothing guides what is made alone.
    ...(mode !== 'i' && mode !== 't' && { guidanceScale: scale + 1 }),
    ...(prompt !== undefined && { prompt }),
    ...(form === 'empty_token' && { negativePrompt: '' }),
    ...(planes && { image: [...planes] }),
    ...(beams && { beams }),
    latents: true,
  };
}

/** Makes what is asked for, one after the other on a device in f32. */
async function makeAll(device, requests) {
  const page = await openPage(browser, `${server.url}/blank.html`);
  try {
    return await withPackage(
      page,
      async (uvit, { device, requests }) => {
        const pipeline = await uvit.load('/converted/manifest.json', { device, compute: 'f32', tune: 'off' });
        const made = [];
        for (const { image, ...settings } of requests) {
          let picture;
          if (image) {
            picture = new ImageData(64, 64);
            for (let i = 0; i < picture.data.length; i++) {
              picture.data[i] = i % 4 === 3 ? 255 : image[(i % 4) * 4096 + Math.floor(i / 4)];
            }
          }
          const result = await pipeline.generate({ ...settings, ...(picture && { image: picture }) });
          const { images, texts, latents } = result;
          made.push({
            texts,
            pixels: images[0] && [...images[0].rgba].filter((_, i) => i % 4 !== 3),
            latents: Object.fromEntries(Object.entries(latents).map(([name, values]) => [name, [...values]])),
          });
        }
        return made;
      },
      { device, requests },
    );
  } finally {
    await page.close();
  }
}

/** Latents by the names of their ports, and of PyTorch's. */
const LATENTS = { img: 'final_z', clip_img: 'final_clip_img', text: 'final_text' };

for (const [device, some] of [
  ['cpu', undefined],
  // A software adapter takes its time: there some, which differ in kind.
  ['webgpu', ['t2i_empty_token', 't2i_steps10', 'i2t_0', 'joint_1', 'i2t2i_0']],
]) {
  test(`every mode makes what PyTorch makes of the same seed, in f32: ${device}`, { skip: WITHOUT }, async () => {
    if (!existsSync(join(converted, 'manifest.json'))) convert();
    const { runs, values } = reference();
    const chosen = runs.filter(({ id }) => !some || some.includes(id));
    const made = await makeAll(
      device,
      chosen.map((run) => asked(run, values)),
    );
    for (const [i, { id, mode, beam_caption: caption }] of chosen.entries()) {
      const { texts, pixels, latents } = made[i];
      for (const [port, name] of Object.entries(LATENTS)) {
        const expected = values(`${id}/${name}`);
        if (!expected) continue;
        assert.equal(latents[port]?.length, expected.length, `${id} ${port}`);
        const largest = expected.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
        const off = expected.reduce((most, value, j) => Math.max(most, Math.abs(value - latents[port][j])), 0);
        assert.ok(off <= 1e-3 * largest, `${device} ${id} ${port}: ${off / largest}`);
      }
      if (mode.endsWith('t')) assert.deepEqual(texts, [caption], `${device} ${id}`);
      if (!mode.endsWith('i') && mode !== 'joint') continue;
      const planes = values(`${id}/picture_u8`);
      assert.equal(pixels.length, planes.length);
      const far = pixels.filter((value, j) => Math.abs(value - planes[(j % 3) * 4096 + Math.floor(j / 3)]) > 2).length;
      assert.ok(
        far <= planes.length / 1000,
        `${device} ${id}: ${far} of ${planes.length} values are off by more than 2`,
      );
    }
  });
}

test("with one beam, words are PyTorch's greedy ones", { skip: WITHOUT }, async () => {
  if (!existsSync(join(converted, 'manifest.json'))) convert();
  const { runs, values } = reference();
  const chosen = runs.filter(({ id }) => ['i2t_1', 'joint_1', 't_1'].includes(id));
  const made = await makeAll(
    'cpu',
    chosen.map((run) => asked(run, values, 1)),
  );
  assert.deepEqual(
    made.map(({ texts }) => texts),
    chosen.map(({ greedy_caption: caption }) => [caption]),
  );
});

/** The f32 checkpoints as a model. */
function convert() {
  execFileSync(
    'cargo',
    ['run', '--quiet', '--bin', 'uvit', '--', 'convert', checkpoints, '--dtype', 'f32', '--out', converted],
    { cwd: repository, stdio: ['ignore', 'ignore', 'inherit'] },
  );
}
