/** Plays clips: all in sight at once, under one row of controls, by keys too. Where people want less motion, only once they ask. */

import { type Clip, posterAt } from './clips.js';
import { byId, paint } from './elements.js';

/** A clip and where it is seen. */
export interface Screen {
  canvas: HTMLCanvasElement;
  clip: Clip;
}

const bar = byId('player', HTMLFieldSetElement);
const gallery = byId('gallery', HTMLElement);
const toggle = byId('play', HTMLButtonElement);
const scrub = byId('scrub', HTMLInputElement);
const counter = byId('frame', HTMLOutputElement);
const loop = byId('loop', HTMLInputElement);
const speeds = byId('speeds', HTMLElement);
const calm = matchMedia('(prefers-reduced-motion: reduce)');

let screens: Screen[] = [];
/** The frame in sight, and how much of its time is over. */
let at = 0;
let playing = false;
let speed = 1;
let last: number | undefined;

/** Whether frames move by themselves unless somebody stops them. */
export function movesUnasked(): boolean {
  return !calm.matches;
}

/** Wires the controls. */
export function startPlayer(): void {
  toggle.addEventListener('click', () => play(!playing));
  scrub.addEventListener('input', () => {
    play(false);
    seek(Number(scrub.value) - 1);
  });
  speeds.addEventListener('change', () => {
    speed = Number(speeds.querySelector<HTMLInputElement>(':checked')?.value ?? 1);
  });
  for (const place of [gallery, bar]) place.addEventListener('keydown', onKey);
  // A press on the picture itself is what people try first.
  gallery.addEventListener('click', ({ target }) => {
    if (screens.some(({ canvas }) => canvas === target)) play(!playing);
  });
}

/** Shows clips, at the frame where those before were, if there were any; none: there is nothing to be played. */
export function screen(shown: Screen[]): void {
  const begins = screens.length === 0;
  screens = shown;
  bar.disabled = screens.length === 0;
  if (screens.length === 0) {
    gallery.removeAttribute('tabindex');
    gallery.removeAttribute('role');
    gallery.ariaLabel = null;
    play(false);
    [scrub.value, counter.value] = ['1', ''];
    return;
  }
  gallery.tabIndex = 0;
  gallery.role = 'group';
  gallery.ariaLabel = 'Clips: space plays them, arrows go frame by frame';
  const frames = length();
  scrub.max = String(frames);
  if (begins) {
    at = movesUnasked() ? 0 : posterAt(frames);
    play(movesUnasked());
  }
  seek(Math.min(at, frames - 1));
}

/** The frame in sight. */
export function frameInSight({ frames }: Clip): ImageData | undefined {
  return frames[Math.min(Math.floor(at), frames.length - 1)];
}

function length(): number {
  return Math.max(...screens.map(({ clip }) => clip.frames.length));
}

function play(on: boolean): void {
  if (on && !loop.checked && Math.floor(at) >= length() - 1) at = 0;
  const idle = !playing;
  playing = on && screens.length > 0;
  toggle.ariaLabel = playing ? 'Pause' : 'Play';
  toggle.title = toggle.ariaLabel;
  toggle.classList.toggle('playing', playing);
  last = undefined;
  if (playing && idle) requestAnimationFrame(tick);
}

function tick(now: number): void {
  if (!playing) return;
  const rate = screens[0]?.clip.frameRate ?? 1;
  // A page that was out of sight goes on where it was.
  const passed = last === undefined ? 0 : Math.min(now - last, 250);
  last = now;
  const [before, frames] = [Math.floor(at), length()];
  at += (passed / 1000) * rate * speed;
  if (at >= frames && !loop.checked) {
    seek(frames - 1);
    play(false);
    return;
  }
  at %= frames;
  if (Math.floor(at) !== before) show();
  requestAnimationFrame(tick);
}

function seek(frame: number): void {
  at = frame;
  show();
}

function show(): void {
  for (const { canvas, clip } of screens) {
    const image = frameInSight(clip);
    if (image) paint(canvas, image);
  }
  const [frame, frames] = [Math.floor(at) + 1, length()];
  scrub.value = String(frame);
  scrub.ariaValueText = `Frame ${frame} of ${frames}`;
  counter.value = `${frame} / ${frames}`;
}

function onKey(event: KeyboardEvent): void {
  const { key, target } = event;
  if (screens.length === 0 || event.ctrlKey || event.metaKey || event.altKey) return;
  // Buttons have keys of their own, and so have radio buttons.
  const own = target instanceof HTMLButtonElement || (target instanceof HTMLInputElement && target !== scrub);
  if (own) return;
  const frames = length();
  const frame = Math.floor(at);
  const to: Record<string, number> = {
    ArrowLeft: (frame + frames - 1) % frames,
    ArrowRight: (frame + 1) % frames,
    Home: 0,
    End: frames - 1,
  };
  const aim = to[key];
  if (key === ' ') play(!playing);
  else if (aim !== undefined) {
    play(false);
    seek(aim);
  } else return;
  event.preventDefault();
}
