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

/** The frame that stands for a clip where there is room for one. */
export function middleOf({ frames }: Clip): ImageData {
  return frames[Math.floor(frames.length / 2)] as ImageData;
}

/** `16 frames, 2.0 s`. */
export function lengthOf(frames: number, frameRate: number): string {
  return `${frames} frames, ${(frames / frameRate).toFixed(1)} s`;
}
