/**
 * The model of clips in Chromium, against what PyTorch computed of the same seeds: as the page has it, in 8 and in 4 bits, and, where
 * it is, the f32 checkpoint (UVIT_CLIPS names its folder, as in tests/clips.rs).
 */

import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { launch, openPage, WEBGPU, withPackage } from './browser.mjs';
import { tensorsIn, valuesOf } from './safetensors.mjs';
import { startServer } from './server.mjs';

const repository = fileURLToPath(new URL('../..', import.meta.url));
const checkpoint = process.env.UVIT_CLIPS;
const WITHOUT = !checkpoint && 'the f32 clips checkpoint is not here (UVIT_CLIPS)';

/** The clips of a reference, and the guidance that they were drawn with. */
const GROUPS = { samples: 1, guided: 2 };
const [FRAMES, PLANE] = [16, 32 * 32];

let server;
let browser;
let converted;
before(async () => {
  converted = mkdtempSync(join(tmpdir(), 'uvit-clips-'));
  const web = join(repository, 'web');
  server = await startServer({
    '/package/': join(web, 'dist'),
    '/models/': join(web, 'models'),
    '/converted/': converted,
  });
  browser = await launch(WEBGPU);
});
after(async () => {
  await browser.close();
  await server.close();
  rmSync(converted, { recursive: true });
});

/** The values of a file's tensors, by name. */
function tensors(file) {
  const all = new Map(tensorsIn(readFileSync(file)));
  return (name) => valuesOf(all.get(name));
}

/** Those clips of a file, `[group, index]`: what to ask for, and PyTorch's values as the API hands them out: by frame, in [-1, 1]. */
function wanted(of, clips) {
  return clips.map(([group, k]) => {
    const [seed, label] = ['seed', 'y'].map((part) => of(`${group}.${part}`)[k]);
    const size = 3 * FRAMES * PLANE;
    const values = of(`${group}.x`).subarray(k * size, (k + 1) * size);
    // There channel, frame, place; here frame, channel, place.
    const floats = new Float32Array(size);
    for (let c = 0; c < 3; c++) {
      for (let f = 0; f < FRAMES; f++) {
        floats.set(values.subarray((c * FRAMES + f) * PLANE, (c * FRAMES + f + 1) * PLANE), (f * 3 + c) * PLANE);
      }
    }
    return { settings: { seed, label, guidanceScale: GROUPS[group] }, floats: floats.map(clip) };
  });
}

function clip(value) {
  return Math.min(1, Math.max(-1, value));
}

/** The floats of each clip, drawn in the page. */
async function drawn(model, options, clips) {
  const page = await openPage(browser, `${server.url}/blank.html`);
  try {
    const all = await withPackage(
      page,
      async (uvit, [model, options, clips]) => {
        const pipeline = await uvit.load(model, { tune: 'off', ...options });
        const all = [];
        for (const settings of clips) {
          const { images } = await pipeline.generate({ ...settings, floatPixels: true });
          all.push(images.flatMap(({ floats }) => [...floats]));
        }
        return all;
      },
      [model, options, clips.map(({ settings }) => settings)],
    );
    return all.map((floats) => Float32Array.from(floats, clip));
  } finally {
    await page.close();
  }
}

/** Peak signal-to-noise ratio in dB. */
function ratio(got, want) {
  assert.equal(got.length, want.length);
  const squares = got.reduce((sum, value, i) => sum + (value - want[i]) ** 2, 0);
  return 10 * Math.log10((4 * want.length) / squares);
}

for (const [device, dtype, least, clips] of [
  [
    'cpu',
    'q8',
    45,
    [
      ['samples', 1],
      ['guided', 0],
    ],
  ],
  [
    'cpu',
    'q4',
    30,
    [
      ['samples', 1],
      ['guided', 0],
    ],
  ],
  ['webgpu', 'q8', 45, [['samples', 1]]],
]) {
  test(`the page's model draws PyTorch's clips of the same seeds: ${device}, ${dtype}`, async () => {
    const expected = wanted(tensors(join(repository, 'tests/recorded/clips.safetensors')), clips);
    const got = await drawn('/models/clips/manifest.json', { device, dtype, compute: 'f32' }, expected);
    for (const [i, { floats, settings }] of expected.entries()) {
      const db = ratio(got[i], floats);
      assert.ok(db >= least, `${JSON.stringify(settings)}: ${db} dB`);
    }
  });
}

for (const [device, clips] of [
  [
    'cpu',
    Object.entries({ samples: 8, guided: 4 }).flatMap(([group, n]) => Array.from({ length: n }, (_, k) => [group, k])),
  ],
  // A software adapter takes its time.
  [
    'webgpu',
    [
      ['samples', 1],
      ['guided', 0],
    ],
  ],
]) {
  test(`the checkpoint draws PyTorch's clips of the same seeds, in f32: ${device}`, { skip: WITHOUT }, async () => {
    const config = ['--config', join(checkpoint, 'config.json'), '--dtype', 'f32', '--out', converted, '--force'];
    const convert = ['--bin', 'uvit', '--', 'convert', join(checkpoint, 'clips.safetensors'), ...config];
    execFileSync('cargo', ['run', '--quiet', ...convert], { cwd: repository, stdio: ['ignore', 'ignore', 'inherit'] });
    const expected = wanted(tensors(join(checkpoint, 'reference.safetensors')), clips);
    const got = await drawn('/converted/manifest.json', { device, compute: 'f32' }, expected);
    const byte = (value) => Math.round((value + 1) * 127.5);
    for (const [i, { floats, settings }] of expected.entries()) {
      const far = got[i].filter((value, j) => Math.abs(byte(value) - byte(floats[j])) > 2).length;
      assert.ok(far <= floats.length / 1000, `${JSON.stringify(settings)}: ${far} values are off by more than 2`);
    }
  });
}
