/** The pictures and clips: noise before, previews while drawing, results with their seeds and a way to save them, and those drawn before. */

import type { GenerateResult, PipelineInfo } from 'uvit-web';
import { type Clip, clipsOf, posterOf } from './clips.js';
import { button, byId, make, paint } from './elements.js';
import type { Screen } from './player.js';
import type { Form } from './saving.js';

/** A picture or a clip that was drawn, and what draws it again. */
export interface Drawing {
  /** Of a clip, the frame that stands for it. */
  image: ImageData;
  clip?: Clip;
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

/** Larger pictures are not shown pixel by pixel. */
const LARGE = 256;
const FORMS: Form[] = ['APNG', 'WebM', 'GIF'];

const gallery = byId('gallery', HTMLElement);
const strip = byId('strip', HTMLFieldSetElement);

/** What plays clips, once there is a player. */
let project: (screens: Screen[]) => void = () => {};

export function projectBy(player: (screens: Screen[]) => void): void {
  project = player;
}

/** Frames full of noise: what a diffusion model starts from. */
export function showNoise(count: number, size: number): void {
  side = size;
  project([]);
  gallery.style.setProperty('--image-size', `${size > LARGE ? 1 : size}px`);
  gallery.classList.toggle('large', size > LARGE);
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

/** Clips that are not finished, or no longer: estimates, played in the frames. */
export function showEstimates(clips: Clip[]): void {
  const frames = canvases().slice(0, clips.length);
  for (const canvas of frames) {
    canvas.dataset.kind = 'preview';
    canvas.classList.toggle('small', (clips[0]?.frames[0]?.width ?? side) < side);
    canvas.ariaLabel = 'A clip taking shape';
  }
  project(frames.map((canvas, k) => ({ canvas, clip: clips[k] as Clip })));
}

/** The pictures or clips of a result; `addressOf` gives what draws the one with this seed again. */
export function drawingsOf(
  result: GenerateResult,
  info: PipelineInfo,
  addressOf: (seed: number) => URLSearchParams,
): Drawing[] {
  const { name } = info;
  const { device, settings } = result;
  const { labelName, prompt } = settings;
  const clips = clipsOf(result);
  const pictures = clips.length > 0 ? clips.map(posterOf) : result.images.map(({ imageData }) => imageData);
  return pictures.map((image, k) => {
    const [{ width, height }, clip] = [image, clips[k]];
    const seed = result.seed + k;
    return {
      image,
      ...(clip && { clip }),
      seed,
      title: result.texts[k] ?? labelName ?? (String(prompt ?? '') || `One of the ${name}`),
      file: fileName(result, info, k),
      settings: { ...settings, name, seed, count: 1, device, width, height },
      address: addressOf(seed),
    };
  });
}

/** What may be done with a picture, beside saving it: a button with a word for it, and words for those who do not see where it is. */
export interface Offer {
  text: string;
  aim: string;
  onPress: (canvas: HTMLCanvasElement) => void;
}

/** Finished pictures or clips in the frames, with what is offered for each; `say` tells what became of one that was saved. */
export function showPictures(drawings: Drawing[], offer: Offer, say: (words: string) => void = () => {}): void {
  const frames = canvases().slice(0, drawings.length);
  for (const [k, canvas] of frames.entries()) {
    const drawing = drawings[k] as Drawing;
    const { image, clip, seed, title } = drawing;
    paint(canvas, image);
    canvas.dataset.kind = 'picture';
    canvas.classList.remove('small');
    canvas.ariaLabel = `${title}, seed ${seed}${clip ? `, a clip of ${clip.frames.length} frames` : ''}`;
    canvas.nextElementSibling?.replaceChildren(
      make('span', {}, `Seed ${seed}`),
      clip ? formsOf(drawing, clip, say) : saveButton(drawing, canvas),
      offered(offer, canvas, `the ${clip ? 'clip' : 'picture'} with seed ${seed}`),
    );
  }
  const moving = frames.flatMap((canvas, k) => {
    const clip = drawings[k]?.clip;
    return clip ? [{ canvas, clip }] : [];
  });
  project(moving);
}

function saveButton({ seed, settings, file }: Drawing, canvas: HTMLCanvasElement): HTMLElement {
  const keep = button('save', 'Save as PNG', () => {
    // At its own size, one pixel for each that the model drew.
    canvas.toBlob(async (png) => {
      if (!png) return;
      const { pictureFile } = await import('./saving.js');
      save(pictureFile(png, settings), `${file}.png`);
    }, 'image/png');
  });
  keep.ariaLabel = `Save the picture with seed ${seed} as PNG`;
  return keep;
}

/** A button for each form in which a clip is saved. */
function formsOf({ seed, settings, file }: Drawing, clip: Clip, say: (words: string) => void): HTMLElement {
  const buttons = FORMS.map((form) => {
    const keep = button('save', form, async () => {
      keep.disabled = true;
      try {
        const { clipFile } = await import('./saving.js');
        const { blob, ending, note } = await clipFile(clip, form, settings);
        save(blob, `${file}.${ending}`);
        say(`Saved ${file}.${ending}${note && `. ${note}`}`);
      } catch (thrown) {
        say(`Not saved: ${thrown instanceof Error ? thrown.message : thrown}`);
      }
      keep.disabled = false;
    });
    keep.ariaLabel = `Save the clip with seed ${seed} as ${form}`;
    keep.title = `Save as ${form}`;
    return keep;
  });
  return make('fieldset', { class: 'forms', 'aria-label': `Save the clip with seed ${seed}` }, ...buttons);
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

/** Hands the person a file. */
export function save(blob: Blob, name: string): void {
  const url = URL.createObjectURL(blob);
  make('a', { href: url, download: name }).click();
  // The browser has taken the blob by the time the next task runs.
  setTimeout(() => URL.revokeObjectURL(url), 1000);
}

/** Such as `smiley-noto-seed-42-25-steps`; of a prompt, its beginning. */
export function fileName({ settings, seed }: GenerateResult, info: PipelineInfo, k: number): string {
  const said = String(settings.labelName ?? settings.prompt ?? '');
  const name = said
    .toLowerCase()
    .replace(/[^\p{L}\p{N}]+/gu, '-')
    .slice(0, 60)
    .replace(/^-|-$/g, '');
  return `${name || info.name}-seed-${seed + k}-${settings.steps}-steps`;
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
