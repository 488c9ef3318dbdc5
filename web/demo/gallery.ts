/** The pictures: noise before, previews while drawing, results with their seeds and a way to save them, and those drawn before. */

import type { GenerateResult, PipelineInfo } from 'uvit-web';
import { button, byId, make } from './elements.js';
import { withSettings } from './png.js';

/** A picture that was drawn, and what draws it again. */
export interface Drawing {
  image: ImageData;
  seed: number;
  /** What it shows, as it was asked for or told. */
  title: string;
  /** Such as `smiley-noto-seed-42-25-steps`. */
  file: string;
  /** How it was drawn, for the file. */
  settings: object;
  address: URLSearchParams;
}

/** How many pictures are kept. */
const KEPT = 24;

/** Pixels of a picture's side. */
let side = 0;

const gallery = byId('gallery', HTMLElement);
const strip = byId('strip', HTMLFieldSetElement);

/** Frames full of noise: what a diffusion model starts from. */
export function showNoise(count: number, size: number): void {
  side = size;
  gallery.style.setProperty('--image-size', `${size}px`);
  gallery.style.setProperty('--columns', String(columns(count)));
  const random = generator(count * 7919 + size);
  gallery.replaceChildren(
    ...Array.from({ length: count }, () => {
      const canvas = make('canvas', { role: 'img', 'aria-label': 'Noise, nothing drawn yet', 'data-kind': 'noise' });
      canvas.width = size;
      canvas.height = size;
      paint(canvas, noise(size, random));
      return make('figure', {}, canvas, make('figcaption'));
    }),
  );
}

/** The current estimates, painted into the frames: smoothly where they are smaller than the pictures will be. */
export function showPreviews(previews: ImageData[]): void {
  for (const [k, canvas] of canvases().entries()) {
    const image = previews[k];
    if (!image) continue;
    paint(canvas, image);
    canvas.dataset.kind = 'preview';
    canvas.classList.toggle('small', image.width < side);
    canvas.ariaLabel = 'A picture taking shape';
  }
}

/** The pictures of a result; `addressOf` gives what draws the one with this seed again. */
export function drawingsOf(
  result: GenerateResult,
  info: PipelineInfo,
  addressOf: (seed: number) => URLSearchParams,
): Drawing[] {
  const { name } = info;
  const { device, settings } = result;
  const { labelName, prompt } = settings;
  return result.images.map(({ imageData: image, seed, width, height }, k) => ({
    image,
    seed,
    title: result.texts[k] ?? labelName ?? (String(prompt ?? '') || `One of the ${name}`),
    file: fileName(result, info, k),
    settings: { ...settings, name, seed, count: 1, device, width, height },
    address: addressOf(seed),
  }));
}

/** What may be done with a picture, beside saving it: a button with a word for it, and words for those who do not see where it is. */
export interface Offer {
  text: string;
  aim: string;
  onPress: (canvas: HTMLCanvasElement) => void;
}

/** Finished pictures in the frames, with what is offered for each. */
export function showPictures(drawings: Drawing[], offer: Offer): void {
  const frames = canvases();
  for (const [k, { image, seed, title, file, settings }] of drawings.entries()) {
    const canvas = frames[k];
    if (!canvas) continue;
    paint(canvas, image);
    canvas.dataset.kind = 'picture';
    canvas.ariaLabel = `${title}, seed ${seed}`;
    const keep = button('save', 'Save as PNG', () => {
      // At its own size, one pixel for each that the model drew.
      canvas.toBlob((blob) => blob && save(withSettings(blob, settings), `${file}.png`), 'image/png');
    });
    keep.ariaLabel = `Save the picture with seed ${seed} as PNG`;
    canvas.nextElementSibling?.replaceChildren(
      make('span', {}, `Seed ${seed}`),
      keep,
      offered(offer, canvas, `the picture with seed ${seed}`),
    );
  }
}

/** A picture in the frame that was not drawn here. */
export function showTaken(image: ImageData, from: string, title: string, offer: Offer): void {
  const [canvas] = canvases();
  if (!canvas) return;
  paint(canvas, image);
  canvas.dataset.kind = 'taken';
  canvas.ariaLabel = title;
  canvas.nextElementSibling?.replaceChildren(make('span', {}, from), offered(offer, canvas, 'the picture'));
}

function offered({ text, aim, onPress }: Offer, canvas: HTMLCanvasElement, which: string): HTMLElement {
  const offer = button('save vary', text, () => onPress(canvas));
  offer.ariaLabel = `${text} ${which}: ${aim}`;
  return offer;
}

/** A picture as small as the model's are, over white: its middle, as the package would take it. */
export function middle(source: ImageBitmap | HTMLImageElement | HTMLCanvasElement, size: number): ImageData {
  const scale = size / Math.min(source.width, source.height);
  const [width, height] = [source.width * scale, source.height * scale];
  const canvas = make('canvas', { width: String(size), height: String(size) });
  const context = canvas.getContext('2d') as CanvasRenderingContext2D;
  context.fillStyle = '#fff';
  context.fillRect(0, 0, size, size);
  context.imageSmoothingQuality = 'high';
  context.drawImage(source, (size - width) / 2, (size - height) / 2, width, height);
  return context.getImageData(0, 0, size, size);
}

/** Puts pictures among those drawn before, from which `onAgain` takes one up. */
export function keepPictures(drawings: Drawing[], onAgain: (drawing: Drawing) => void): void {
  for (const drawing of [...drawings].reverse()) {
    const small = make('canvas');
    paint(small, drawing.image);
    const again = button('thumb', '', () => {
      mark(again);
      onAgain(drawing);
    });
    again.append(small);
    again.title = `${drawing.title}, seed ${drawing.seed}`;
    again.ariaLabel = `Back to: ${again.title}`;
    strip.prepend(again);
  }
  while (strip.childElementCount > KEPT) strip.lastElementChild?.remove();
  mark();
  // A single one is in sight already.
  byId('earlier', HTMLElement).hidden = strip.childElementCount < 2;
}

/** Says which of those drawn before is in sight once more. */
function mark(shown?: HTMLElement): void {
  for (const thumb of strip.children) thumb.ariaCurrent = thumb === shown ? 'true' : null;
}

function canvases(): HTMLCanvasElement[] {
  return [...gallery.querySelectorAll('canvas')];
}

function columns(count: number): number {
  return count <= 1 ? 1 : count <= 4 ? 2 : count <= 9 ? 3 : 4;
}

/** The whole of a picture. */
export function paint(canvas: HTMLCanvasElement, image: ImageData): void {
  canvas.width = image.width;
  canvas.height = image.height;
  canvas.getContext('2d')?.putImageData(image, 0, 0);
}

/** Hands the person a file. */
export function save(blob: Blob, name: string): void {
  const url = URL.createObjectURL(blob);
  make('a', { href: url, download: name }).click();
  // The browser has taken the blob by the time the next task runs.
  setTimeout(() => URL.revokeObjectURL(url), 1000);
}

/** Such as `smiley-noto-seed-42-25-steps`; of a prompt, its beginning. */
export function fileName({ settings, images }: GenerateResult, info: PipelineInfo, k: number): string {
  const said = String(settings.labelName ?? settings.prompt ?? '');
  const name = said
    .toLowerCase()
    .replace(/[^\p{L}\p{N}]+/gu, '-')
    .slice(0, 60)
    .replace(/^-|-$/g, '');
  return `${name || info.name}-seed-${images[k]?.seed}-${settings.steps}-steps`;
}

/** Gaussian-looking noise as the network's input would look, for the eye only. */
function noise(size: number, random: () => number): ImageData {
  const image = new ImageData(size, size);
  for (let i = 0; i < image.data.length; i++) {
    const normal = random() + random() + random() + random() - 2;
    image.data[i] = i % 4 === 3 ? 255 : 128 + normal * 110;
  }
  return image;
}

/** A small seeded generator, so that the empty page always looks the same. */
function generator(seed: number): () => number {
  let state = seed;
  return () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state / 2 ** 32;
  };
}
