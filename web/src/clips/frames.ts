/** Frames on their way into a file: what is refused, and larger ones for those who see them in a chat. */

import { UvitError } from '../errors.js';

/** What becomes of frames before they are encoded. */
export interface FrameOptions {
  /** Each pixel becomes a square of so many: a whole number, 1 to 64. Default 1; of WebM, what makes the shorter side at least 256. */
  scale?: number;
}

/** Throws for what no file can hold. */
export function checkFrames(frames: ImageData[], frameRate: number, { scale }: FrameOptions): void {
  const [first] = frames;
  if (!first) throw refused('there are no frames', 'Give at least one ImageData');
  const odd = frames.find(({ width, height }) => width !== first.width || height !== first.height);
  if (odd) {
    const sizes = `${first.width} x ${first.height} and ${odd.width} x ${odd.height}`;
    throw refused(`the frames are of several sizes, ${sizes}`, 'Give frames of one size');
  }
  if (!(frameRate > 0 && frameRate <= 240)) {
    throw refused(`frameRate is ${frameRate}`, 'Give the frames a second, above 0, at most 240');
  }
  if (scale !== undefined && !(Number.isInteger(scale) && scale >= 1 && scale <= 64)) {
    throw refused(`scale is ${scale}`, 'Give a whole number, 1 to 64');
  }
}

/** Pixels of a frame, each as a square. */
export function enlarged({ width, height, data }: ImageData, scale: number): Uint8ClampedArray<ArrayBuffer> {
  const pixels = new Uint32Array(data.buffer, data.byteOffset, width * height);
  const wide = width * scale;
  const larger = new Uint32Array(wide * height * scale);
  for (let y = 0; y < height; y++) {
    const row = y * scale * wide;
    for (let x = 0; x < wide; x++) larger[row + x] = pixels[y * width + Math.floor(x / scale)] ?? 0;
    for (let k = 1; k < scale; k++) larger.copyWithin(row + k * wide, row, row + wide);
  }
  return new Uint8ClampedArray(larger.buffer);
}

export function refused(cause: string, remedy: string): UvitError {
  return new UvitError('INVALID_ARGUMENT', cause, remedy);
}
