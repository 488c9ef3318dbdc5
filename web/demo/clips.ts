/** What moves, as the page keeps it, and what a model of clips says of itself. */

import type { GenerateResult, PipelineInfo, Step } from 'uvit-web';

/** Frames in order, and how many of them a second has. */
export interface Clip {
  frames: ImageData[];
  frameRate: number;
}

/** The clips of a result; none of a model of pictures. */
export function clipsOf({ clips, frameRate }: GenerateResult): Clip[] {
  return clips.map((frames) => ({ frames, frameRate }));
}

/** The clips that a step's preview estimates. */
export function estimatesOf({ clips = [] }: Step, { frameRate }: PipelineInfo): Clip[] {
  return clips.map((frames) => ({ frames, frameRate }));
}

/** Which frame stands for a clip where nothing moves: an early one, since by the middle what moves may have left. */
export function posterAt(frames: number): number {
  return Math.floor(frames / 8);
}

export function posterOf({ frames }: Clip): ImageData {
  return frames[posterAt(frames.length)] as ImageData;
}

/** `16 frames, 2.0 s`. */
export function lengthOf(frames: number, frameRate: number): string {
  return `${frames} frames, ${(frames / frameRate).toFixed(1)} s`;
}
