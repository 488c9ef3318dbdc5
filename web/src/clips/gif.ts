/**
 * GIF, for whoever takes nothing else: 255 colours a clip, by modern-gif. Of the encoders that there are it is kept up, has types, and is
 * 9 kB after gzip; gifenc, half of that, has had no release since 2021 and lost 4 dB more of a clip of noisy pixel art. The package's
 * build puts it into this file (`bundled()` in build.mjs), so that the package goes on having no dependencies.
 */

import { encode } from 'modern-gif';
import { checkFrames, enlarged, type FrameOptions } from './frames.js';

/**
 * A clip as a GIF that runs for ever. `frameRate` is in frames a second; a GIF's are shown for hundredths of a second, at least two, and
 * so that the whole lasts as long as it should. Rejects as `encodeApng` does.
 */
export async function encodeGif(frames: ImageData[], frameRate: number, options: FrameOptions = {}): Promise<Blob> {
  checkFrames(frames, frameRate, options);
  const [{ width, height }] = frames as [ImageData];
  const { scale = 1 } = options;
  const until = (k: number) => Math.round((k * 100) / Math.min(frameRate, 50));
  return encode({
    width: width * scale,
    height: height * scale,
    frames: frames.map((frame, k) => ({ data: enlarged(frame, scale), delay: 10 * (until(k + 1) - until(k)) })),
    format: 'blob',
  });
}
