/**
 * Clips as files: APNG, which keeps every value, GIF, and WebM where the browser encodes video. An entry of its own, `uvit-web/clips`,
 * so that a page loads it once somebody saves:
 *
 * ```ts
 * const { encodeApng } = await import('uvit-web/clips');
 * const blob = await encodeApng(clips[0], frameRate);
 * ```
 *
 * Of libraries there is one, for GIF, which is built in (see `gif.ts`). None for APNG is kept up, and the browser does its compression.
 * WebM's was given up by its author for one that is 38 kB after gzip and under a copyleft licence, and one track of video alone is a page
 * of code.
 */

export { encodeApng } from './apng.js';
export type { FrameOptions } from './frames.js';
export { encodeGif } from './gif.js';
export { withSettings } from './png.js';
export { encodeWebm, supportsWebm } from './webm.js';
