/** What was drawn, as files. Loaded once somebody saves: encoders are no part of what a page needs to draw. */

import { encodeApng, encodeGif, encodeWebm, supportsWebm, withSettings } from 'uvit-web/clips';
import type { Clip } from './clips.js';

/** In which form a clip is saved. */
export type Form = 'APNG' | 'WebM' | 'GIF';

/** A file, how its name ends, and what a person should know of it. */
export interface Saved {
  blob: Blob;
  ending: string;
  note: string;
}

/** Where a GIF is shown, nobody else enlarges it. */
const GIF_SIDE = 256;

/** A picture that says how it was drawn. */
export function pictureFile(png: Blob, settings: object): Blob {
  return withSettings(png, settings);
}

/** A clip; an animated PNG where the browser encodes no video. */
export async function clipFile({ frames, frameRate }: Clip, form: Form, settings: object): Promise<Saved> {
  const [{ width, height }] = frames as [ImageData];
  if (form === 'GIF') {
    const scale = Math.max(1, Math.round(GIF_SIDE / Math.min(width, height)));
    return { blob: await encodeGif(frames, frameRate, { scale }), ending: 'gif', note: '' };
  }
  if (form === 'WebM' && (await supportsWebm(width, height))) {
    return { blob: await encodeWebm(frames, frameRate), ending: 'webm', note: '' };
  }
  // At its own size, one pixel for each that the model drew.
  const blob = withSettings(await encodeApng(frames, frameRate), settings);
  const without = 'This browser encodes no video (it has no WebCodecs), so this is an animated PNG';
  return {
    blob,
    ending: 'png',
    note: form === 'WebM' ? without : 'An animated PNG, for browsers and viewers that know them',
  };
}
