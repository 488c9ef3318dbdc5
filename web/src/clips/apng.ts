/** APNG, as the PNG specification (third edition) has it: every pixel as it was drawn, in every browser that can be had. */

import { checkFrames, enlarged, type FrameOptions } from './frames.js';
import { chunk, number } from './png.js';

const SIGNATURE = new Uint8Array([0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a]);
const [RGB, RGBA] = [2, 6];

/**
 * A clip as an animated PNG that runs for ever, `image/png`; `frameRate` is in frames a second. Rejects with a `UvitError`
 * `INVALID_ARGUMENT` where there are no frames, frames of several sizes, or a rate or scale that makes no sense.
 */
export async function encodeApng(frames: ImageData[], frameRate: number, options: FrameOptions = {}): Promise<Blob> {
  checkFrames(frames, frameRate, options);
  const [first] = frames as [ImageData];
  const { scale = 1 } = options;
  const [width, height] = [first.width * scale, first.height * scale];
  const opaque = frames.every(({ data }) => data.every((value, i) => i % 4 !== 3 || value === 255));
  const header = new Uint8Array([8, opaque ? RGB : RGBA, 0, 0, 0]);
  const size = [number(width), number(height)];
  // The delay is a fraction of two 16-bit numbers.
  const parts = Math.min(100, Math.floor(65535 / Math.ceil(frameRate)));
  const delay = [number(parts, 2), number(Math.round(parts * frameRate), 2)];
  const chunks: BlobPart[] = [
    SIGNATURE,
    chunk('IHDR', ...size, header),
    chunk('acTL', number(frames.length), number(0)),
  ];
  let order = 0;
  for (const [k, frame] of frames.entries()) {
    const pixels = scale === 1 ? frame.data : enlarged(frame, scale);
    const data = await deflated(filtered(pixels, width, height, opaque ? 3 : 4));
    // Over what was there: nothing is to be restored nor blended.
    chunks.push(chunk('fcTL', number(order++), ...size, number(0), number(0), ...delay, new Uint8Array(2)));
    // The first is the picture of those who do not know of animations.
    chunks.push(k === 0 ? chunk('IDAT', data) : chunk('fdAT', number(order++), data));
  }
  return new Blob([...chunks, chunk('IEND')], { type: 'image/png' });
}

/** Rows, each as its differences from whichever of its neighbours is most like it, which compresses well. */
function filtered(rgba: Uint8ClampedArray, width: number, height: number, channels: 3 | 4): Uint8Array<ArrayBuffer> {
  const row = width * channels;
  const all = new Uint8Array((row + 1) * height);
  let [above, now] = [new Uint8Array(row), new Uint8Array(row)];
  /** By number, as files name them: none, the left one, the upper one. */
  const filters = [() => 0, (i: number) => now[i - channels] ?? 0, (i: number) => above[i] ?? 0];
  for (let y = 0; y < height; y++) {
    for (let i = 0; i < row; i++) {
      now[i] = rgba[4 * (y * width + Math.floor(i / channels)) + (i % channels)] ?? 0;
    }
    const costs = filters.map((near) =>
      now.reduce((sum, value, i) => sum + Math.abs(((value - near(i)) << 24) >> 24), 0),
    );
    const best = costs.indexOf(Math.min(...costs));
    const near = filters[best] as (i: number) => number;
    const begin = y * (row + 1);
    all[begin] = best;
    for (let i = 0; i < row; i++) all[begin + 1 + i] = (now[i] ?? 0) - near(i);
    [above, now] = [now, above];
  }
  return all;
}

async function deflated(bytes: Uint8Array<ArrayBuffer>): Promise<Uint8Array> {
  const stream = new Blob([bytes]).stream().pipeThrough(new CompressionStream('deflate'));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}
