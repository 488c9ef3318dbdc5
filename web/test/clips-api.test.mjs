/**
 * Clips by `generate()`, on both devices: of one window and of several, that begin with given frames or start from a clip, as the tool
 * draws them natively; what results and steps hold; and what is refused. The model is small, with random weights.
 */

import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { launch, openPage, WEBGPU, withPackage } from './browser.mjs';
import { startServer } from './server.mjs';

const repository = fileURLToPath(new URL('../..', import.meta.url));
/** Values of a frame, and frames of the network. */
const [FRAME, OWN] = [3 * 8 * 8, 8];
const MODEL = '/small/manifest.json';

let folder;
let server;
let browser;
before(async () => {
  folder = mkdtempSync(join(tmpdir(), 'uvit-clips-'));
  cargo('--example', 'clip-model', '--', join(folder, 'small'));
  const web = join(repository, 'web');
  server = await startServer({
    '/package/': join(web, 'dist'),
    '/models/': join(web, 'models'),
    '/small/': join(folder, 'small'),
  });
  browser = await launch(WEBGPU);
});
after(async () => {
  await browser.close();
  await server.close();
  rmSync(folder, { recursive: true });
});

function cargo(...words) {
  execFileSync('cargo', ['run', '--quiet', ...words], { cwd: repository, stdio: ['ignore', 'ignore', 'inherit'] });
}

/** What the tool draws, in f32 on the CPU. */
function native(...words) {
  const out = join(folder, 'native.npy');
  const settings = ['--device', 'cpu', '--compute', 'f32', '--label', '1', '--seed', '3', '--out', out];
  cargo('--bin', 'uvit', '--', 'generate', join(folder, 'small'), ...settings, ...words);
  const bytes = readFileSync(out);
  const header = 10 + bytes.readUInt16LE(8);
  return new Float32Array(bytes.buffer.slice(bytes.byteOffset + header, bytes.byteOffset + bytes.length));
}

function furthest(a, b) {
  assert.equal(a.length, b.length);
  return a.reduce((most, value, i) => Math.max(most, Math.abs(value - b[i])), 0);
}

async function inPage(body, argument) {
  const page = await openPage(browser, `${server.url}/blank.html`);
  try {
    return await withPackage(page, body, argument);
  } finally {
    await page.close();
  }
}

for (const device of ['cpu', 'webgpu']) {
  test(`clips of one window and of several are those of the tool, and are handed out clip by clip: ${device}`, async () => {
    const { info, one, long } = await inPage(
      async (uvit, [model, device]) => {
        const pipeline = await uvit.load(model, { device, compute: 'f32', tune: 'off' });
        const steps = [];
        const onStep = ({ step, steps: all, window, windows, preview, clips }) =>
          steps.push({ step, all, window, windows, shown: [preview.length, clips.map((clip) => clip.length)] });
        const settings = { label: 1, seed: 3, floatPixels: true };
        const describe = ({ images, clips, frames, frameRate, settings }) => ({
          frames,
          frameRate,
          clips: clips.map((clip) => clip.length),
          same: clips.flat().every((frame, k) => frame === images[k].imageData),
          seeds: images.map(({ seed }) => seed),
          settings,
          size: [images[0].width, images[0].height, images[0].floats.length],
          floats: images.flatMap(({ floats }) => [...floats]),
        });
        const one = describe(await pipeline.generate(settings));
        const long = describe(
          await pipeline.generate({ ...settings, count: 2, frames: 19, overlap: 2, preview: true, onStep }),
        );
        return { info: pipeline.info, one, long: { ...long, steps } };
      },
      [MODEL, device],
    );
    assert.deepEqual([info.frames, info.frameRate, info.initImageShape], [OWN, 6, [3, 8, 8]]);
    assert.deepEqual([one.frames, one.frameRate, one.clips, one.same], [OWN, 6, [OWN], true]);
    assert.deepEqual([one.settings.frames, one.settings.overlap, one.settings.firstFrames], [OWN, 0, 0]);
    assert.deepEqual(one.size, [8, 8, FRAME]);
    assert.ok(furthest(one.floats, native()) < 1e-4);
    assert.deepEqual([long.frames, long.clips, long.same], [19, [19, 19], true]);
    assert.deepEqual([...new Set(long.seeds)], [3, 4]);
    assert.deepEqual([long.settings.frames, long.settings.overlap], [19, 2]);
    assert.ok(furthest(long.floats.slice(0, 19 * FRAME), native('--frames', '19', '--overlap', '2')) < 1e-4);
    assert.deepEqual(
      long.steps,
      Array.from({ length: 12 }, (_, k) => ({
        step: k + 1,
        all: 12,
        window: 1 + Math.floor(k / 4),
        windows: 3,
        shown: [2 * OWN, [OWN, OWN]],
      })),
    );
  });

  test(`frames are kept as they are given, and a clip starts from a clip: ${device}`, async () => {
    const found = await inPage(
      async (uvit, [model, device, own]) => {
        const pipeline = await uvit.load(model, { device, compute: 'f32', tune: 'off' });
        const settings = { label: 1, seed: 3, floatPixels: true };
        const colours = ['#f01408', '#14c828', '#3c3cf0'];
        const picture = (colour) => {
          const canvas = new OffscreenCanvas(16, 16);
          const context = canvas.getContext('2d');
          context.fillStyle = colour;
          context.fillRect(0, 0, 16, 16);
          return canvas;
        };
        const begun = await pipeline.generate({ ...settings, frames: 12, firstFrames: colours.map(picture) });
        const kept = begun.clips[0].slice(0, 3).map(({ data }) => [data[0], data[1], data[2], data[252]]);
        const goesOn = begun.clips[0][3].data.some((value, i) => value !== begun.clips[0][2].data[i]);
        // The last frames of a clip, as floats, are the first of the next.
        const last = begun.images.slice(-2).flatMap(({ floats }) => [...floats]);
        const next = await pipeline.generate({ ...settings, seed: 9, firstFrames: new Float32Array(last) });
        const exact = next.images
          .slice(0, 2)
          .flatMap(({ floats }) => [...floats])
          .every((value, i) => value === last[i]);
        const floats = new Float32Array(next.images.flatMap(({ floats }) => [...floats]));
        const start = { ...settings, initImage: floats, strength: 0.5 };
        const far = ({ images }) =>
          Math.hypot(...images.flatMap(({ floats }) => [...floats]).map((value, i) => value - floats[i]));
        const near = far(await pipeline.generate(start));
        const anew = far(await pipeline.generate(settings));
        // Two masks: one for all frames, and one for each.
        const mask = new Float32Array(64).fill(1);
        mask[63] = 0;
        const masked = await pipeline.generate({ ...start, mask });
        const corner = masked.images.every(({ floats: of }, k) => of[63] === floats[k * 192 + 63]);
        const each = new Float32Array(own * 64).fill(1);
        each.fill(0, 5 * 64, 6 * 64);
        const frame = (await pipeline.generate({ ...start, mask: each })).images[5].floats;
        const fifth = frame.every((value, i) => value === floats[5 * 192 + i]);
        // A list of pictures is a clip, too.
        const listed = await pipeline.generate({ ...settings, initImage: next.clips[0], strength: 0.5 });
        return {
          kept,
          goesOn,
          exact,
          near,
          anew,
          corner,
          fifth,
          listed: far(listed),
          settings: [begun.settings.firstFrames, masked.settings.masked, masked.settings.strength],
        };
      },
      [MODEL, device, OWN],
    );
    assert.deepEqual(found.kept, [
      [240, 20, 8, 240],
      [20, 200, 40, 20],
      [60, 60, 240, 60],
    ]);
    assert.ok(found.goesOn && found.exact && found.corner && found.fifth);
    assert.ok(found.near < found.anew && found.listed < found.anew, `${found.near} ${found.listed} ${found.anew}`);
    assert.deepEqual(found.settings, [3, true, 0.5]);
  });
}

test('what a model of clips, or of pictures, does not take is refused, and both go on', async () => {
  const { errors, after } = await inPage(
    async (uvit, [model, own]) => {
      const [clips, pictures] = await Promise.all(
        [model, '/models/emoji/manifest.json'].map((url) => uvit.load(url, { device: 'cpu', threads: 1 })),
      );
      const one = { label: 0, steps: 1 };
      const some = (count) => Array.from({ length: count }, () => new ImageData(8, 8));
      const floats = (frames) => new Float32Array(frames * 192);
      const errors = [];
      for (const options of [
        { frames: 5 },
        { frames: 1025 },
        { frames: 1.5 },
        { frames: 12, overlap: 8 },
        { overlap: 0 },
        { firstFrames: some(0) },
        { firstFrames: some(own) },
        { firstFrames: new ImageData(8, 8) },
        { firstFrames: ['frame'] },
        { firstFrames: floats(own) },
        { firstFrames: new Float32Array(191) },
        { initImage: some(own - 1) },
        { initImage: new ImageData(8, 8) },
        { initImage: floats(own - 1) },
        { initImage: floats(own), frames: 12 },
        { initImage: floats(own), mask: new Float32Array(3 * 64) },
        { startLatents: floats(own), frames: 12 },
        { frames: 12, sampler: 'dpm_adaptive' },
      ]) {
        errors.push(await globalThis.attempt(clips.generate({ ...one, ...options })));
      }
      for (const options of [{ frames: 16 }, { overlap: 2 }, { firstFrames: some(1) }, { initImage: some(1) }]) {
        errors.push(await globalThis.attempt(pictures.generate({ ...one, ...options })));
      }
      const after = [await clips.generate(one), await pictures.generate(one)];
      return {
        errors,
        after: after.map(({ images, clips, frames, frameRate }) => [images.length, clips.length, frames, frameRate]),
      };
    },
    [MODEL, OWN],
  );
  const said = errors.map(({ code, cause, remedy }) => {
    assert.equal(code, 'INVALID_ARGUMENT', cause);
    return `${cause}: ${remedy}`;
  });
  const words = [
    /frames is 5, and the model draws 8 at a time: Give a whole number from 8 to 1024/,
    /frames is 1025/,
    /frames is 1.5/,
    /overlap is 8, and a window has 8 frames: Give a whole number from 1 to 7/,
    /overlap is 0/,
    /firstFrames holds 0 pictures/,
    /begin with has 8 frames: Give 1 to 7 frames/,
    /firstFrames is no array/,
    /firstFrames cannot be read/,
    /begin with has 8 frames/,
    /begin with has 191 values/,
    /initImage holds 7 pictures/,
    /initImage is no array/,
    /initImage has 1344 values, not 1536/,
    /initImage has 1536 values, not 2304/,
    /mask has 192 values, not 64 or 512/,
    /start latents are given, and 12 frames take 2 windows/,
    /frames needs steps that are known beforehand/,
    /frames is given, and the model draws single pictures/,
    /overlap is given, and the model draws single pictures/,
    /firstFrames is given, and the model draws single pictures/,
    /initImage is an array/,
  ];
  assert.equal(said.length, words.length);
  for (const [k, pattern] of words.entries()) assert.match(said[k], pattern);
  assert.deepEqual(after, [
    [8, 1, 8, 6],
    [1, 0, 1, 0],
  ]);
});
