/** The two panes of a model of pictures and words: what is in them, ways to put a picture there, and the arrows between them. */

import { type GenerateResult, type Mode, type PipelineInfo, type Step, UvitError } from 'uvit-web';
import { byId } from './elements.js';
import { type Drawing, middle, type Offer, showNoise, showPictures, showPreviews, showTaken } from './gallery.js';

/** A picture, as what a model may be given, and as what it sees of it. */
export interface Picture {
  source: Blob | ImageData | HTMLImageElement;
  image: ImageData;
  /** Where it is from, in a word or two. */
  from: string;
  title: string;
  /** How it was drawn, if it was. */
  drawing?: Drawing;
}

/** How modes are called while they run, and afterwards. */
export const MODES: Record<Mode, { doing: string; done: string }> = {
  t2i: { doing: 'Drawing', done: 'words to picture' },
  i2t: { doing: 'Describing', done: 'picture to words' },
  joint: { doing: 'Making a pair', done: 'both out of nothing' },
  i: { doing: 'Drawing', done: 'picture alone' },
  t: { doing: 'Writing', done: 'words alone' },
  i2t2i: { doing: 'Varying', done: 'picture varied' },
  t2i2t: { doing: 'Rewording', done: 'words varied' },
};

const prompt = byId('prompt', HTMLTextAreaElement);
const saying = byId('saying', HTMLOutputElement);
const gallery = byId('gallery', HTMLElement);
const takeFile = byId('take-file', HTMLInputElement);
const arrows = [...document.querySelectorAll<HTMLButtonElement>('[data-mode]')];

/** Pixels of a picture's side. */
let size = 64;
let picture: Picture | undefined;
let offer: Offer;
let modes: Mode[] = [];

/** Wires the panes: `onMode` hears of arrows, `onFile` of pictures that are opened or pasted; `repaint` is offered below the picture. */
export function startPanes(onMode: (mode: Mode) => void, onFile: (file: File) => void, repaint: Offer): void {
  offer = repaint;
  for (const arrow of arrows) arrow.addEventListener('click', () => onMode(arrow.dataset.mode as Mode));
  prompt.addEventListener('keydown', (event) => {
    if (event.key !== 'Enter' || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    onMode('t2i');
  });
  takeFile.addEventListener('change', () => {
    const [file] = takeFile.files ?? [];
    if (file) onFile(file);
    takeFile.value = '';
  });
  document.addEventListener('paste', (event) => {
    const file = [...(event.clipboardData?.files ?? [])].find(({ type }) => type.startsWith('image/'));
    if (!file || modes.length === 0) return;
    event.preventDefault();
    onFile(file);
  });
}

/** What the model decides: which arrows there are. Nothing is left of the panes for a model of pictures alone. */
export function fillPanes(info: PipelineInfo): void {
  // Of words alone a picture can be made, whether or not that is called a mode.
  modes = info.modes.length > 0 ? info.modes : ['t2i'];
  size = info.imageSize;
  for (const arrow of arrows) arrow.hidden = !modes.includes(arrow.dataset.mode as Mode);
  byId('arrows', HTMLElement).classList.toggle('one', modes.length === 1);
  byId('count-label', HTMLElement).textContent = modes.length === 1 ? 'Pictures' : 'Pairs';
  byId('take', HTMLElement).hidden = !info.imageShape;
  allow(true);
}

/** Whether a model's panes are in sight, before it is known. */
export function openPanes(open: boolean, drawn: string, examples: boolean): void {
  document.documentElement.classList.toggle('any', open);
  document.documentElement.classList.toggle('strange', !examples);
  for (const id of ['words', 'arrows', 'picture-head', 'picture-alone', 'pairs']) byId(id, HTMLElement).hidden = !open;
  byId('count-label', HTMLElement).textContent = open ? 'Pairs' : drawn;
  byId('origin-hint', HTMLElement).textContent = open
    ? 'Or press Repaint below the picture. Draw then starts from it.'
    : 'Or drop one on the pictures, or press Vary below one of them.';
  if (!open) modes = [];
}

/** Arrows can be pressed while nothing runs; those that start from a picture once there is one. */
export function allow(idle: boolean, running?: Mode): void {
  for (const arrow of arrows) {
    const mode = arrow.dataset.mode as Mode;
    arrow.disabled = !idle || (mode.startsWith('i2') && !picture);
    arrow.classList.toggle('running', mode === running);
  }
  takeFile.disabled = !idle;
  // What is taking shape is neither to be saved nor started from.
  for (const button of gallery.querySelectorAll('button')) button.disabled = !idle;
}

/** The arrow of a mode. */
export function arrowOf(mode: Mode): HTMLElement {
  return arrows.find((arrow) => arrow.dataset.mode === mode) ?? prompt;
}

/** The picture that is in its pane. */
export function pictureInPane(): Picture | undefined {
  return picture;
}

/** Puts a picture into its pane: a file, or one that is in the page. */
export async function takePicture(source: File | HTMLImageElement): Promise<void> {
  if (busy()) return;
  const file = source instanceof File;
  const name = file ? source.name : source.alt;
  let seen: ImageBitmap;
  try {
    // Once more in small, if it is too large.
    seen = await createImageBitmap(source).catch(() => createImageBitmap(source, { resizeWidth: 1024 }));
  } catch {
    const cause = `there is no picture in ${name} that this browser can read`;
    throw new UvitError('INVALID_ARGUMENT', cause, 'Take a PNG or a JPEG');
  }
  putPicture({ source, image: middle(seen, size), from: file ? name : 'Example', title: name });
}

/** Likewise, one that is at hand already. */
export function putPicture(taken: Picture | undefined): void {
  picture = taken;
  showPane();
  allow(document.documentElement.dataset.state === 'ready');
}

function busy(): boolean {
  return /running|stopping/.test(document.documentElement.dataset.state ?? '');
}

/** Shows what is in the panes, in place of what was taking shape there. */
export function showPane(): void {
  saying.hidden = true;
  saying.textContent = '';
  prompt.hidden = false;
  showNoise(1, size);
  gallery.classList.toggle('bare', !picture);
  if (picture?.drawing) showPictures([picture.drawing], offer);
  else if (picture) showTaken(picture.image, picture.from, picture.title, offer);
}

/** What takes shape, in either pane. */
export function showShape({ stage, preview, texts }: Step): void {
  if (preview) {
    gallery.classList.remove('bare');
    showPreviews(preview);
  }
  const [text] = texts ?? [];
  if (text === undefined) return;
  prompt.hidden = true;
  saying.hidden = false;
  // What the estimate says changes with every step: only the words that stay are worth hearing.
  saying.ariaBusy = String(stage === 'sampling');
  saying.classList.toggle('vague', stage === 'sampling');
  if (saying.textContent !== text) saying.textContent = text;
}

/** Puts into the panes what a mode has made; what it was given stays. */
export function showMade(mode: Mode, { texts }: GenerateResult, [drawing]: Drawing[]): void {
  if (drawing && (mode.endsWith('i') || mode === 'joint')) picture = asPicture(drawing);
  if (mode.endsWith('t') && texts[0] !== undefined) prompt.value = texts[0];
  showPane();
}

/** A drawing as what may be given. */
export function asPicture(drawing: Drawing): Picture {
  return { source: drawing.image, image: drawing.image, from: '', title: drawing.title, drawing };
}
