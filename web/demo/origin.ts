/** What pictures start from, if not from the seed's noise alone: a picture, with a mask painted over it, or noise of one's own. */

import type { GenerateOptions, PipelineInfo } from 'uvit-web';
import { button, byId } from './elements.js';
import { middle } from './gallery.js';

const section = byId('origin', HTMLFieldSetElement);
const editor = byId('editor', HTMLElement);
const picture = byId('init-picture', HTMLCanvasElement);
const mask = byId('init-mask', HTMLCanvasElement);
const brush = byId('brush', HTMLInputElement);
const strength = byId('strength', HTMLInputElement);
const pictureFile = byId('picture-file', HTMLInputElement);
const latentsFile = byId('latents-file', HTMLInputElement);
const forget = byId('forget-latents', HTMLButtonElement);
const gallery = byId('gallery', HTMLElement);
const pane = byId('picture-pane', HTMLElement);
// Pixels are read again and again.
const [painted, strokes] = [picture, mask].map((canvas) => canvas.getContext('2d', { willReadFrequently: true })) as [
  CanvasRenderingContext2D,
  CanvasRenderingContext2D,
];

/** Width and height of the model's pictures; 0 while it is not known, and for models that start from none. */
let size = 0;
/** Whether a picture may be dropped: to start from, or as a frame. */
let droppable = false;
/** Whether the strength is the person's choice, or as usual with a mask or without. */
let strengthChosen = false;
let latents: Float32Array | undefined;
/** Where the brush was last, in the model's pixels. */
let last: [number, number] | undefined;

/** Wires what needs no model; `onError` hears of files that cannot be read, `onDrop` of one that was dropped. */
export function startOrigin(onError: (thrown: unknown) => void, onDrop: (file: File) => void): void {
  pictureFile.addEventListener('change', () => {
    const [file] = pictureFile.files ?? [];
    if (file) startFromFile(file).catch(onError);
  });
  pane.addEventListener('dragover', (event) => {
    if (!droppable || !event.dataTransfer?.types.includes('Files')) return;
    event.preventDefault();
    gallery.classList.add('drop');
  });
  pane.addEventListener('dragleave', () => gallery.classList.remove('drop'));
  pane.addEventListener('drop', (event) => {
    event.preventDefault();
    gallery.classList.remove('drop');
    const [file] = event.dataTransfer?.files ?? [];
    if (file && droppable) onDrop(file);
  });

  mask.addEventListener('pointerdown', (event) => {
    if (!event.isPrimary || event.button !== 0) return;
    mask.setPointerCapture(event.pointerId);
    stroke(event);
  });
  mask.addEventListener('pointermove', (event) => {
    if (mask.hasPointerCapture(event.pointerId)) stroke(event);
  });
  mask.addEventListener('lostpointercapture', () => {
    last = undefined;
    showStrength();
  });
  byId('tools', HTMLElement).append(
    button('quiet', 'Clear', () => fill('destination-out')),
    button('quiet', 'Invert', () => fill('source-out')),
    button('quiet', 'Keep the middle', () => {
      fill('source-over');
      strokes.clearRect(size / 4, size / 4, size / 2, size / 2);
    }),
    button('quiet', 'Remove picture', () => {
      editor.hidden = true;
      pictureFile.value = '';
      pictureFile.focus();
    }),
  );

  const asked = Number(new URLSearchParams(location.search).get('strength'));
  strengthChosen = asked > 0 && asked <= 1;
  if (strengthChosen) strength.value = String(asked);
  strength.addEventListener('input', () => {
    strengthChosen = true;
    showStrength();
  });

  latentsFile.addEventListener('change', () => {
    forgetLatents();
    const [file] = latentsFile.files ?? [];
    if (!file) return;
    const read = async () => (await import('./floats.js')).readFloats(file);
    read().then(
      (values) => {
        latents = values;
        forget.hidden = false;
      },
      (thrown) => {
        latentsFile.value = '';
        onError(thrown);
      },
    );
  });
  forget.addEventListener('click', () => {
    latentsFile.value = '';
    forgetLatents();
    latentsFile.focus();
  });
}

/** What the model decides: whether there are pictures to start from, and how large they are. */
export function fillOrigin({ initImageShape, latentShape, imageSize, frames }: PipelineInfo): void {
  const [channels, height] = initImageShape;
  droppable = channels === 1 || channels === 3;
  // A clip is no picture to start from, and a picture no clip: it may be its first frame.
  size = droppable && frames === 0 ? height : 0;
  // What is disabled cannot be in the way of what is sent: there is no brush for pictures of no size.
  section.disabled = section.hidden = size === 0;
  gallery.classList.toggle('startless', !droppable);
  gallery.classList.toggle('latents', imageSize !== latentShape[1]);
  if (picture.width === size) return;
  editor.hidden = true;
  for (const canvas of [picture, mask]) canvas.width = canvas.height = size;
  strokes.fillStyle = strokes.strokeStyle = '#4a4bd6';
  brush.max = String(size / 2);
  brush.value = String(size / 5);
}

/** Likewise, from a file. */
export async function startFromFile(file: File): Promise<void> {
  if (size > 0) startFrom(await createImageBitmap(file));
}

/** Takes a picture to start from: its middle, as the package would. */
export function startFrom(source: ImageBitmap | HTMLCanvasElement): void {
  painted.putImageData(middle(source, size), 0, 0);
  fill('destination-out');
  editor.hidden = false;
  byId('more', HTMLDetailsElement).open = true;
}

/** The part of the options that this is about. */
export function readOrigin(): GenerateOptions {
  const start = latents && { startLatents: latents };
  if (editor.hidden) return { ...start };
  const values = opacity();
  const parts = values.some((value) => value > 0) && { mask: values };
  return { ...start, initImage: picture, strength: Number(strength.value), ...parts };
}

/** The mask: 1 where it is painted. */
function opacity(): Float32Array {
  const { data } = strokes.getImageData(0, 0, size, size);
  return Float32Array.from({ length: data.length / 4 }, (_, i) => (data[4 * i + 3] ?? 0) / 255);
}

/** From where the brush was to where it is. */
function stroke({ offsetX, offsetY }: PointerEvent): void {
  const scale = size / mask.clientWidth;
  const [x, y] = [offsetX * scale, offsetY * scale];
  strokes.lineWidth = Number(brush.value);
  strokes.lineCap = 'round';
  strokes.beginPath();
  strokes.moveTo(...(last ?? [x, y]));
  // A line without any length would not be drawn.
  strokes.lineTo(x + 0.01, y);
  strokes.stroke();
  last = [x, y];
}

/** All of the mask at once. */
function fill(how: GlobalCompositeOperation): void {
  strokes.globalCompositeOperation = how;
  strokes.fillRect(0, 0, size, size);
  strokes.globalCompositeOperation = 'source-over';
  showStrength();
}

function showStrength(): void {
  if (!strengthChosen) strength.value = opacity().some((value) => value > 0) ? '1' : '0.8';
  byId('strength-value', HTMLOutputElement).value = Number(strength.value).toFixed(2);
}

function forgetLatents(): void {
  latents = undefined;
  forget.hidden = true;
}
