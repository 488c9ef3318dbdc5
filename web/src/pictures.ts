/** The arrays of `generate()`: floats as they are, and whatever a canvas can draw as the network takes it. */

import { invalidArgument, toUvitError, UvitError } from './errors.js';
import { own } from './settings.js';
import type { GenerateOptions, PipelineInfo } from './types.js';
import type { Arrays } from './uvit_web.js';

/** Pictures of more pixels go to the core made smaller: it keeps two copies, in a memory that never shrinks. */
const MOST_PIXELS = 2 ** 23;
/** Longer sides have no place on some browsers' canvases. */
const LONGEST_SIDE = 2 ** 14;
/** How a picture is decoded that is too large to be decoded whole. */
const SMALLER = { resizeWidth: 2048, resizeQuality: 'high' } as const;

/** What goes to the core beside the settings. */
export interface Given {
  arrays: Arrays;
  /** `[width, height]` of `arrays.imageRgba`. */
  imageSize?: [number, number];
}

/**
 * The arrays among the options, in copies that may be transferred. Floats and elements are read at once, so that what becomes
 * of them later does not matter.
 */
export function arraysOf(options: GenerateOptions, info: PipelineInfo): Promise<Given> {
  const { image: seen, initImage, firstFrames, mask, startLatents, context, nullContext, count = 1 } = options;
  const [channels] = info.initImageShape;
  const [frame, ofLatent] = [info.initImageShape, info.latentShape].map(([c, h, w]) => c * h * w) as [number, number];
  const moves = info.frames > 0;
  const frames = moves ? (options.frames ?? info.frames) : 1;
  const [image, latent] = [frames * frame, frames * ofLatent];
  // UniDiffuser draws more than a picture: the core knows how much noise that takes.
  const noise = info.architecture === 'unidiffuser' ? undefined : [count * ofLatent * (info.frames || 1)];
  // Other channels than these lie in a space of the model's own.
  const toImage = channels === 3 ? toPlanes : channels === 1 ? toGrey : undefined;
  const alone = toImage ? '' : ', of latents: this model has no encoder for pictures';
  const shape = (moves ? [frames, ...info.initImageShape] : info.initImageShape).join(', ');
  const several = `[${shape}], for all ${moves ? 'clips' : 'pictures'} or one for each${alone}`;
  const lengths = [...new Set([image, count * image, latent, count * latent])];
  // A mask is as large as what it is for.
  const ofLatents = initImage instanceof Float32Array && ![image, count * image].includes(initImage.length);
  const [, height, width] = ofLatents ? info.latentShape : info.initImageShape;
  const embedding = '[tokens, dim], for all pictures or one for each';
  const seenShape = info.imageShape ?? ['channels', 'height', 'width'];
  const ofSeen = info.imageShape && [info.imageShape.reduce((product, size) => product * size)];
  let whole: ImageData | undefined;
  return Promise.all([
    // How it is cropped and resized decides what is seen, and is the core's matter.
    read(
      'image',
      seen,
      ofSeen,
      `[${seenShape.join(', ')}], from -1 to 1`,
      (picture) => {
        whole = picture;
        return undefined;
      },
      'white',
    ),
    read('startLatents', startLatents, noise, '[count, channels, height, width]'),
    read(
      'initImage',
      initImage,
      lengths,
      several,
      toImage && (({ data }) => toImage(data, -1)),
      'white',
      height,
      moves ? [frames, frames] : undefined,
    ),
    // As many as there are: the core's matter.
    read(
      'firstFrames',
      firstFrames,
      undefined,
      `[frames, ${info.initImageShape.join(', ')}]${alone}`,
      toImage && (({ data }) => toImage(data, -1)),
      'white',
      height,
      [1, Number.MAX_SAFE_INTEGER],
    ),
    read(
      'mask',
      mask,
      moves ? [height * width, frames * height * width] : [height * width],
      `[${height}, ${width}]${moves ? ` or [${frames}, ${height}, ${width}]` : ''}, from 0 to 1`,
      ({ data }) => toGrey(data, 0),
      'black',
      height,
    ),
    // How long they are to be is the network's matter.
    read('context', context, undefined, embedding),
    read('nullContext', nullContext, undefined, embedding),
  ]).then(([floats, start, init, first, painted, text, noText]) => ({
    arrays: {
      ...(floats && { image: floats }),
      ...(whole && { imageRgba: new Uint8Array(whole.data.buffer) }),
      ...(start && { startLatents: start }),
      ...(init && { initImage: init }),
      ...(first && { firstFrames: first }),
      ...(painted && { mask: painted }),
      ...(text && { context: text }),
      ...(noText && { nullContext: noText }),
    },
    ...(whole && { imageSize: [whole.width, whole.height] as [number, number] }),
  }));

  async function read(
    name: string,
    given: ImageBitmapSource | ImageBitmapSource[] | Float32Array | undefined,
    lengths: number[] | null | undefined,
    shape: string,
    convert?: (picture: ImageData) => Float32Array | undefined,
    ground = '',
    square?: number,
    /** What is given is a list of so many, at least and at most. */
    counts?: [number, number],
  ): Promise<Float32Array | undefined> {
    if (given === undefined) return undefined;
    const pictures = counts
      ? `an array of ${counts[0] === counts[1] ? counts[0] : ''} images, canvases, ImageData or Blobs`
      : 'an image, a canvas, an ImageData or a Blob with a picture';
    const remedy = `Give a Float32Array ${shape}${convert ? `; or ${pictures}` : ''}`;
    try {
      if (!(given instanceof Float32Array)) {
        if (!convert) throw invalidArgument(`${name} is not a Float32Array`, remedy);
        const list = Array.isArray(given);
        if (list !== Boolean(counts)) throw invalidArgument(`${name} is ${list ? 'an' : 'no'} array`, remedy);
        const all = list ? given : [given];
        if (counts && (all.length < counts[0] || all.length > counts[1])) {
          throw invalidArgument(`${name} holds ${all.length} pictures`, remedy);
        }
        const parts = await Promise.all(all.map(async (picture) => convert(await pixels(picture, ground, square))));
        return counts ? joined(parts) : parts[0];
      }
      if (lengths && !lengths.includes(given.length)) {
        throw invalidArgument(`${name} has ${given.length} values, not ${lengths.join(' or ')}`, remedy);
      }
      if (!given.every(Number.isFinite)) throw invalidArgument(`${name} has values that are not finite`, remedy);
      return own(given);
    } catch (thrown) {
      if (thrown instanceof UvitError) throw thrown;
      throw invalidArgument(`${name} cannot be read (${toUvitError(thrown).cause})`, remedy);
    }
  }
}

/** One after the other. */
function joined(parts: (Float32Array | undefined)[]): Float32Array {
  const size = parts[0]?.length ?? 0;
  const all = new Float32Array(parts.length * size);
  for (const [k, part] of parts.entries()) if (part) all.set(part, k * size);
  return all;
}

/** A picture, upright; what is to be whole and is too large, in small, where that can be done beside the page. */
async function decoded(source: ImageBitmapSource, square?: number): Promise<ImageBitmap> {
  const bitmap = await createImageBitmap(source).catch(() => createImageBitmap(source, SMALLER));
  const scale = fitting(bitmap.width, bitmap.height);
  if (square || scale === 1 || !(source instanceof Blob)) return bitmap;
  const [resizeWidth, resizeHeight] = scaled(bitmap.width, bitmap.height, scale);
  bitmap.close();
  return createImageBitmap(source, { resizeWidth, resizeHeight, resizeQuality: 'high' });
}

/** By how much a picture is made smaller. */
function fitting(width: number, height: number): number {
  return Math.min(1, Math.sqrt(MOST_PIXELS / (width * height)), LONGEST_SIDE / Math.max(width, height));
}

function scaled(width: number, height: number, scale: number): [number, number] {
  return [Math.max(1, Math.floor(width * scale)), Math.max(1, Math.floor(height * scale))];
}

/** A picture on a ground, as RGBA: whole, or resized so that it covers a square, whose middle it then fills. */
async function pixels(source: ImageBitmapSource, ground: string, square?: number): Promise<ImageData> {
  const bitmap = await decoded(source, square);
  const { width, height } = bitmap;
  const scale = square ? square / Math.min(width, height) : fitting(width, height);
  const [w, h] = square ? [width * scale, height * scale] : scaled(width, height, scale);
  const [across, down] = square ? [square, square] : [w, h];
  // Firefox has had this for less long than what else the package needs.
  const canvas =
    typeof OffscreenCanvas === 'function'
      ? new OffscreenCanvas(across, down)
      : Object.assign(document.createElement('canvas'), { width: across, height: down });
  const context = canvas.getContext('2d', { willReadFrequently: true }) as OffscreenCanvasRenderingContext2D;
  context.fillStyle = ground;
  context.fillRect(0, 0, across, down);
  context.imageSmoothingQuality = 'high';
  context.drawImage(bitmap, (across - w) / 2, (down - h) / 2, w, h);
  bitmap.close();
  return context.getImageData(0, 0, across, down);
}

/** RGBA to `[3, height, width]`, -1 to 1. */
function toPlanes(rgba: Uint8ClampedArray): Float32Array {
  const plane = rgba.length / 4;
  return Float32Array.from(
    { length: 3 * plane },
    (_, i) => (rgba[(i % plane) * 4 + Math.floor(i / plane)] ?? 0) / 127.5 - 1,
  );
}

/** RGBA to luminance `[height, width]`, from `least` to 1. */
function toGrey(rgba: Uint8ClampedArray, least: number): Float32Array {
  const share = (i: number, weight: number) => (rgba[i] ?? 0) * weight;
  // In whole numbers, so that white is 1.
  const luminance = (i: number) => (share(i, 299) + share(i + 1, 587) + share(i + 2, 114)) / 255_000;
  return Float32Array.from({ length: rgba.length / 4 }, (_, i) => least + (1 - least) * luminance(4 * i));
}
