/** Clips as files: what was encoded is decoded by the browser, frame by frame, and is what it was. */

import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { launch, openPage } from './browser.mjs';
import { startServer } from './server.mjs';

let server;
let browser;
before(async () => {
  server = await startServer();
  browser = await launch();
});
after(async () => {
  await browser.close();
  await server.close();
});

/**
 * Runs `body` with the encoders, a clip of so many frames, and `decoded(blob)`: what the browser makes of a file, for each frame
 * its RGBA and milliseconds.
 */
async function withClip({ width, height, frames, seeThrough = false }, body, argument) {
  const page = await openPage(browser, `${server.url}/blank.html`);
  try {
    return await page.evaluate(
      async ([source, { width, height, frames, seeThrough }, argument]) => {
        const clips = await import(new URL('/package/clips/index.js', location.href).href);
        const clip = Array.from({ length: frames }, (_, k) => {
          const image = new ImageData(width, height);
          for (let i = 0; i < width * height; i++) {
            const [x, y] = [i % width, Math.floor(i / width)];
            // A square that moves over bands, with the small differences of what a network draws.
            const inside = x >= k && x < k + 5 && y > 2 && y < 9;
            const grain = (x * 7 + y * 13 + k * 5) % 3;
            const colour = inside ? [220, 60, 40] : y % 8 < 4 ? [40, 90, 200] : [240, 220, 90];
            for (let c = 0; c < 3; c++) image.data[4 * i + c] = colour[c] + grain;
            image.data[4 * i + 3] = seeThrough && inside ? 128 : 255;
          }
          return image;
        });
        const decoded = async (blob) => {
          const decoder = new ImageDecoder({ data: await blob.arrayBuffer(), type: blob.type });
          await decoder.tracks.ready;
          const { frameCount, repetitionCount } = decoder.tracks.selectedTrack;
          const found = [];
          for (let frameIndex = 0; frameIndex < frameCount; frameIndex++) {
            const { image } = await decoder.decode({ frameIndex });
            const [w, h] = [image.displayWidth, image.displayHeight];
            const context = new OffscreenCanvas(w, h).getContext('2d');
            context.drawImage(image, 0, 0);
            found.push({ w, h, ms: image.duration / 1000, rgba: [...context.getImageData(0, 0, w, h).data] });
          }
          return { found, loops: repetitionCount };
        };
        const refusal = ({ code, cause, remedy }) => ({ code, cause, remedy });
        return new Function(`return (${source})`)()({ clips, clip, decoded, refusal }, argument);
      },
      [body.toString(), { width, height, frames, seeThrough }, argument],
    );
  } finally {
    await page.close();
  }
}

for (const [name, shape, rate] of [
  ['16 frames of 32 x 32', { width: 32, height: 32, frames: 16 }, 8],
  ['5 frames of 13 x 7, some of it transparent', { width: 13, height: 7, frames: 5, seeThrough: true }, 12.5],
  ['a single frame', { width: 16, height: 16, frames: 1 }, 8],
]) {
  test(`an APNG holds every value: ${name}`, async () => {
    const { found, loops, clip } = await withClip(
      shape,
      async ({ clips, clip, decoded }, rate) => ({
        ...(await decoded(await clips.encodeApng(clip, rate))),
        clip: clip.map(({ data }) => [...data]),
      }),
      rate,
    );
    assert.equal(found.length, shape.frames);
    if (shape.frames > 1) assert.equal(loops, Number.POSITIVE_INFINITY);
    for (const [k, { w, h, rgba, ms }] of found.entries()) {
      assert.deepEqual([w, h], [shape.width, shape.height]);
      if (shape.frames > 1) assert.ok(Math.abs(ms - 1000 / rate) < 0.01, `${ms} ms`);
      // Halves of opacity are multiplied in and out on the way.
      const far = Math.max(...rgba.map((value, i) => Math.abs(value - clip[k][i])));
      assert.ok(far <= (shape.seeThrough ? 1 : 0), `frame ${k} is off by ${far}`);
    }
  });
}

test('an APNG is enlarged to whole squares, and says how it was made', async () => {
  const { found, text, clip } = await withClip({ width: 8, height: 6, frames: 2 }, async ({ clips, clip, decoded }) => {
    const blob = clips.withSettings(await clips.encodeApng(clip, 8, { scale: 3 }), { seed: 7, prompt: 'größer' });
    return {
      found: (await decoded(blob)).found,
      text: new TextDecoder().decode(await blob.arrayBuffer()),
      clip: clip.map(({ data }) => [...data]),
    };
  });
  assert.match(text, /iTXtSettings\0\0\0\0\0\{"seed":7,"prompt":"größer"\}/);
  const { w, h, rgba } = found[1];
  assert.deepEqual([w, h], [24, 18]);
  for (let i = 0; i < w * h; i++) {
    const from = 4 * (8 * Math.floor(i / w / 3) + Math.floor((i % w) / 3));
    assert.deepEqual(rgba.slice(4 * i, 4 * i + 4), clip[1].slice(from, from + 4));
  }
});

test('a GIF lasts as long as it should, and its colours are close', async () => {
  const { found, loops, clip } = await withClip(
    { width: 32, height: 32, frames: 16 },
    async ({ clips, clip, decoded }) => ({
      ...(await decoded(await clips.encodeGif(clip, 8))),
      clip: clip.map(({ data }) => [...data]),
    }),
  );
  assert.equal(found.length, 16);
  assert.equal(loops, Number.POSITIVE_INFINITY);
  const whole = found.reduce((sum, { ms }) => sum + ms, 0);
  assert.ok(Math.abs(whole - 2000) < 1, `${whole} ms`);
  for (const [k, { rgba }] of found.entries()) {
    const far = Math.max(...rgba.map((value, i) => Math.abs(value - clip[k][i])));
    assert.ok(far <= 12, `frame ${k} is off by ${far}`);
  }
});

for (const [name, shape, rate, size] of [
  ['16 frames of 32 x 32', { width: 32, height: 32, frames: 16 }, 8, [256, 256]],
  ['40 frames of 33 x 21 at one a second, in clusters', { width: 33, height: 21, frames: 40 }, 1, [33 * 14, 21 * 14]],
]) {
  test(`a WebM plays, with its frames where they belong: ${name}`, async () => {
    const found = await withClip(
      shape,
      async ({ clips, clip }, rate) => {
        const { width, height } = clip[0];
        if (!(await clips.supportsWebm(width, height))) return undefined;
        const video = document.createElement('video');
        video.muted = true;
        document.body.append(video);
        video.src = URL.createObjectURL(await clips.encodeWebm(clip, rate));
        await new Promise((resolve, reject) => {
          video.onloadeddata = resolve;
          video.onerror = () => reject(new Error(video.error.message));
        });
        const { videoWidth, videoHeight, duration } = video;
        const context = new OffscreenCanvas(width, height).getContext('2d');
        const means = [];
        for (const k of [0, 3, clip.length - 1, 1]) {
          // "seeked" comes before there is anything else to draw.
          const shown = new Promise((resolve) =>
            video.requestVideoFrameCallback((_, { mediaTime }) => resolve(mediaTime)),
          );
          video.currentTime = (k + 0.5) / rate;
          const at = await shown;
          context.drawImage(video, 0, 0, width, height);
          const { data } = context.getImageData(0, 0, width, height);
          const error = (other) => data.reduce((sum, value, i) => sum + Math.abs(value - other[i]), 0) / data.length;
          means.push({ k, at, mine: error(clip[k].data), other: error(clip[(k + 2) % clip.length].data) });
        }
        video.currentTime = 0;
        video.playbackRate = 16;
        await video.play();
        await new Promise((resolve) => video.addEventListener('ended', resolve, { once: true }));
        return { size: [videoWidth, videoHeight], duration, means };
      },
      rate,
    );
    assert.ok(found, 'this Chromium encodes video');
    assert.deepEqual(found.size, size);
    assert.ok(Math.abs(found.duration - shape.frames / rate) < 0.01, `${found.duration} s`);
    for (const { k, at, mine, other } of found.means) {
      assert.ok(Math.abs(at - k / rate) < 0.002, `frame ${k} is at ${at} s`);
      assert.ok(mine < 3, `frame ${k} is off by ${mine} on average`);
      if (k + 2 < 28) assert.ok(mine < other, `frame ${k} is another`);
    }
  });
}

test('what no file can hold is refused, and a browser without an encoder says what to save instead', async () => {
  const refusals = await withClip({ width: 8, height: 8, frames: 2 }, async ({ clips, clip, refusal }) => {
    const { encodeApng, encodeGif, encodeWebm } = clips;
    const asked = [
      () => encodeApng([], 8),
      () => encodeGif([clip[0], new ImageData(4, 8)], 8),
      () => encodeWebm(clip, 0),
      () => encodeApng(clip, Number.NaN),
      () => encodeGif(clip, 8, { scale: 1.5 }),
    ];
    const found = [];
    for (const ask of asked) found.push(await ask().catch(refusal));
    delete globalThis.VideoEncoder;
    return { found, supported: await clips.supportsWebm(8, 8), without: await encodeWebm(clip, 8).catch(refusal) };
  });
  const causes = refusals.found.map(({ code, cause }) => `${code}: ${cause}`);
  assert.deepEqual(causes, [
    'INVALID_ARGUMENT: there are no frames',
    'INVALID_ARGUMENT: the frames are of several sizes, 8 x 8 and 4 x 8',
    'INVALID_ARGUMENT: frameRate is 0',
    'INVALID_ARGUMENT: frameRate is NaN',
    'INVALID_ARGUMENT: scale is 1.5',
  ]);
  assert.equal(refusals.supported, false);
  assert.equal(refusals.without.code, 'UNSUPPORTED_PLATFORM');
  assert.match(refusals.without.cause, /WebCodecs/);
  assert.match(refusals.without.remedy, /animated PNG/);
});
