/** A strip with a picture of every step: how a clip came out of noise. Pressed, a step's estimate is played in the large. */

import { type Clip, posterOf } from './clips.js';
import { button, byId, make, paint } from './elements.js';
import { movesUnasked } from './player.js';

/** Of more than so many bytes, steps are remembered by a single frame. */
const KEPT_BYTES = 96e6;

const strip = byId('film-steps', HTMLElement);
let bytes = 0;
/** The step that somebody looks at while others come; undefined: the newest. */
let chosen: HTMLElement | undefined;
let show: (clips: Clip[]) => void = () => {};

/** `onPress` gets the clips of the step that was pressed. */
export function startFilm(onPress: (clips: Clip[]) => void): void {
  show = onPress;
}

/** Forgets the steps. */
export function clearFilm(): void {
  bytes = 0;
  chosen = undefined;
  strip.replaceChildren();
}

/** Puts a step at the end, and shows it in the large unless another is being looked at. */
export function addStep(name: string, given: Clip[]): void {
  const [first] = given;
  if (!first) return;
  const size = given.reduce((sum, { frames }) => sum + frames.reduce((all, { data }) => all + data.length, 0), 0);
  bytes += size;
  const clips = bytes <= KEPT_BYTES ? given : given.map((clip) => ({ ...clip, frames: [posterOf(clip)] }));
  const small = make('canvas');
  paint(small, posterOf(first));
  const step = button('thumb', '', () => {
    // The newest is what goes on by itself.
    chosen = step === strip.lastElementChild ? undefined : step;
    mark(step);
    show(clips);
  });
  step.append(small);
  step.title = name;
  step.ariaLabel = name;
  let timer: ReturnType<typeof setInterval> | undefined;
  const rest = () => {
    clearInterval(timer);
    paint(small, posterOf(first));
  };
  const move = () => {
    clearInterval(timer);
    const { frames, frameRate } = clips[0] as Clip;
    if (!movesUnasked() || frames.length < 2) return;
    let frame = 0;
    timer = setInterval(() => {
      if (!step.isConnected) clearInterval(timer);
      paint(small, frames[frame++ % frames.length] as ImageData);
    }, 1000 / frameRate);
  };
  step.addEventListener('pointerenter', move);
  step.addEventListener('focus', move);
  step.addEventListener('pointerleave', rest);
  step.addEventListener('blur', rest);
  const followed = strip.scrollLeft + strip.clientWidth >= strip.scrollWidth - 2;
  strip.append(step);
  if (chosen) return;
  mark(step);
  if (followed) strip.scrollLeft = strip.scrollWidth;
  show(clips);
}

/** The finished clips are the last of the strip, and in sight. */
export function endFilm(clips: Clip[]): void {
  chosen = undefined;
  if (strip.childElementCount > 0) addStep('Finished', clips);
}

function mark(shown: HTMLElement): void {
  for (const step of strip.children) step.ariaCurrent = step === shown ? 'true' : null;
}
