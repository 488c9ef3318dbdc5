/** The frame that a clip begins with, if it is not to be drawn: a picture of one's own, or a frame of another clip. */

import type { GenerateOptions, PipelineInfo } from 'uvit-web';
import { button, byId, paint } from './elements.js';
import { middle } from './gallery.js';

const section = byId('first', HTMLFieldSetElement);
const file = byId('first-file', HTMLInputElement);
const taken = byId('first-taken', HTMLElement);
const canvas = byId('first-frame', HTMLCanvasElement);

/** Width and height of a frame; 0 for models of pictures, and for those that take none. */
let size = 0;
let frame: ImageData | undefined;

/** Wires what needs no model; `onError` hears of files that cannot be read. */
export function startFirst(onError: (thrown: unknown) => void): void {
  file.addEventListener('change', () => {
    const [given] = file.files ?? [];
    if (given) takeFirstFile(given).catch(onError);
    file.value = '';
  });
  byId('first-remove', HTMLElement).append(
    button('quiet', 'Remove', () => {
      forget();
      file.focus();
    }),
  );
}

/** What the model decides: whether clips may begin with a frame, and how large it is. */
export function fillFirst({ frames, initImageShape, imageSize }: PipelineInfo): void {
  const [channels] = initImageShape;
  const wanted = frames > 0 && (channels === 1 || channels === 3) ? imageSize : 0;
  if (wanted !== size) forget();
  size = wanted;
  section.disabled = section.hidden = size === 0;
}

/** Whether clips may begin with a frame. */
export function takesFirst(): boolean {
  return size > 0;
}

export async function takeFirstFile(given: File): Promise<void> {
  takeFirst(middle(await createImageBitmap(given), size));
}

/** Takes a frame of the model's own size. */
export function takeFirst(image: ImageData): void {
  frame = image;
  paint(canvas, image);
  show();
}

/** The part of the options that this is about. */
export function readFirst(): GenerateOptions {
  return frame && size > 0 ? { firstFrames: [frame] } : {};
}

function forget(): void {
  frame = undefined;
  show();
}

function show(): void {
  taken.hidden = !frame;
  byId('first-hint', HTMLElement).hidden = !!frame;
}
