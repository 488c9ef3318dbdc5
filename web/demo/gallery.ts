/** The pictures: noise before, previews while drawing, results with their seeds and a way to save them. */

import type { GenerateResult } from 'uvit-web';
import { button, byId, make } from './elements.js';

const gallery = byId('gallery', HTMLElement);

/** Frames full of noise: what a diffusion model starts from. */
export function showNoise(count: number, size: number): void {
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

/** The current estimates, painted into the frames. */
export function showPreviews(previews: ImageData[]): void {
  for (const [k, canvas] of canvases().entries()) {
    const image = previews[k];
    if (!image) continue;
    paint(canvas, image);
    canvas.dataset.kind = 'preview';
    canvas.ariaLabel = 'A picture taking shape';
  }
}

/** The finished pictures; `onVary` gets the one that another is to start from. */
export function showPictures(result: GenerateResult, onVary: (canvas: HTMLCanvasElement) => void): void {
  const frames = canvases();
  for (const [k, image] of result.images.entries()) {
    const canvas = frames[k];
    if (!canvas) continue;
    paint(canvas, image.imageData);
    canvas.dataset.kind = 'picture';
    canvas.ariaLabel = `${result.settings.labelName ?? 'Picture'}, seed ${image.seed}`;
    const keep = button('save', 'Save as PNG', () => {
      // At its own size, one pixel for each that the model drew.
      canvas.toBlob((blob) => blob && save(blob, `${fileName(result, k)}.png`), 'image/png');
    });
    keep.ariaLabel = `Save the picture with seed ${image.seed} as PNG`;
    const vary = button('save vary', 'Vary', () => onVary(canvas));
    vary.ariaLabel = `Vary the picture with seed ${image.seed}: the next start from it`;
    canvas.nextElementSibling?.replaceChildren(make('span', {}, `Seed ${image.seed}`), keep, vary);
  }
}

function canvases(): HTMLCanvasElement[] {
  return [...gallery.querySelectorAll('canvas')];
}

function columns(count: number): number {
  return count <= 1 ? 1 : count <= 4 ? 2 : count <= 9 ? 3 : 4;
}

function paint(canvas: HTMLCanvasElement, image: ImageData): void {
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

/** Such as `smiley-noto-seed-42-25-steps`. */
export function fileName(result: GenerateResult, k: number): string {
  const { labelName, steps } = result.settings;
  const label = (labelName ?? 'picture')
    .toLowerCase()
    .replace(/[^a-z0-9]+/g, '-')
    .replace(/^-|-$/g, '');
  return `${label}-seed-${result.images[k]?.seed}-${steps}-steps`;
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
