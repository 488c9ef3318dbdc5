/** WebM (RFC 9559, with what WebM allows of it): one track of VP9 or VP8, encoded by the browser through WebCodecs. */

import { UvitError } from '../errors.js';
import { element, float, text, whole } from './ebml.js';
import { checkFrames, enlarged, type FrameOptions } from './frames.js';

/** Encoders have a least size, and pixels that are squares survive the halved resolution of colours. */
const LEAST_SIDE = 256;
/** Each is a place to jump to; within a cluster, times are 16-bit numbers of milliseconds. */
const CLUSTER_SECONDS = 16;

/** As WebCodecs calls them, and as WebM does; the first that the browser encodes is taken. */
const CODECS = [
  ['vp09.00.30.08', 'V_VP9'],
  ['vp8', 'V_VP8'],
] as const;

/** Whether this browser encodes video of some size; of frames that are smaller than 256, enlarged ones count. */
export async function supportsWebm(width: number, height: number): Promise<boolean> {
  const scale = scaleOf(width, height);
  return (await configured(width * scale, height * scale, 1)) !== undefined;
}

/**
 * A clip as a WebM video, `video/webm`; `frameRate` is in frames a second. Where `scale` is not given, and where a side is odd, pixels
 * become squares of an even size, so that none of their colours is lost. Rejects with a `UvitError`: as `encodeApng` does, and with
 * `UNSUPPORTED_PLATFORM` where the browser encodes no video (`supportsWebm` tells beforehand).
 */
export async function encodeWebm(frames: ImageData[], frameRate: number, options: FrameOptions = {}): Promise<Blob> {
  checkFrames(frames, frameRate, options);
  const [first] = frames as [ImageData];
  let scale = options.scale ?? scaleOf(first.width, first.height);
  if ((first.width * scale) % 2 || (first.height * scale) % 2) scale *= 2;
  const [width, height] = [first.width * scale, first.height * scale];
  const found = await configured(width, height, frameRate);
  if (!found) {
    throw new UvitError(
      'UNSUPPORTED_PLATFORM',
      'this browser encodes no video (it has no WebCodecs, or none with VP9 or VP8)',
      'Save an animated PNG (encodeApng) instead',
    );
  }
  const chunks: EncodedVideoChunk[] = [];
  let space: VideoColorSpaceInit | undefined;
  let failed: DOMException | undefined;
  const encoder = new VideoEncoder({
    output: (chunk, metadata) => {
      chunks.push(chunk);
      space ??= metadata?.decoderConfig?.colorSpace;
    },
    error: (error) => {
      failed = error;
    },
  });
  try {
    encoder.configure(found.config);
    // Wherever there is WebCodecs, there is this one, in workers too.
    const canvas = new OffscreenCanvas(width, height);
    const context = canvas.getContext('2d', { alpha: false }) as OffscreenCanvasRenderingContext2D;
    const every = Math.max(1, Math.floor(CLUSTER_SECONDS * frameRate));
    for (const [k, frame] of frames.entries()) {
      context.putImageData(new ImageData(enlarged(frame, scale), width, height), 0, 0);
      const [timestamp, next] = [k, k + 1].map((at) => Math.round((at * 1e6) / frameRate)) as [number, number];
      const video = new VideoFrame(canvas, { timestamp, duration: next - timestamp, alpha: 'discard' });
      encoder.encode(video, { keyFrame: k % every === 0 });
      video.close();
    }
    await encoder.flush();
  } catch (thrown) {
    failed ??= thrown as DOMException;
  } finally {
    if (encoder.state !== 'closed') encoder.close();
  }
  if (failed) {
    const cause = `this browser could not encode the video (${failed.message})`;
    throw new UvitError('UNSUPPORTED_PLATFORM', cause, 'Save an animated PNG (encodeApng) instead');
  }
  return new Blob([file(chunks, { ...found, width, height, frameRate, space })], { type: 'video/webm' });
}

/** Even, so that a square has whole samples of colour. */
function scaleOf(width: number, height: number): number {
  const scale = Math.ceil(LEAST_SIDE / Math.min(width, height));
  return scale === 1 ? 1 : scale + (scale % 2);
}

async function configured(
  width: number,
  height: number,
  framerate: number,
): Promise<{ config: VideoEncoderConfig; codec: string } | undefined> {
  if (typeof VideoEncoder !== 'function') return undefined;
  // Of edges that jump, usual rates leave little; clips are short.
  const bitrate = Math.round(Math.max(1e6, 2 * width * height * framerate));
  for (const [name, codec] of CODECS) {
    const config: VideoEncoderConfig = { codec: name, width, height, framerate, bitrate, latencyMode: 'quality' };
    const { supported } = await VideoEncoder.isConfigSupported(config).catch(() => ({ supported: false }));
    if (supported) return { config, codec };
  }
  return undefined;
}

interface Track {
  codec: string;
  width: number;
  height: number;
  frameRate: number;
  space: VideoColorSpaceInit | undefined;
}

function file(chunks: EncodedVideoChunk[], { codec, width, height, frameRate, space }: Track): Uint8Array<ArrayBuffer> {
  const head = element(
    0x1a45dfa3,
    whole(0x4286, 1), // version of EBML
    whole(0x42f7, 1),
    whole(0x42f2, 4), // longest name
    whole(0x42f3, 8), // longest size
    text(0x4282, 'webm'),
    whole(0x4287, 2), // version of WebM
    whole(0x4285, 2),
  );
  const info = element(
    0x1549a966,
    whole(0x2ad7b1, 1e6), // nanoseconds in a tick
    float(0x4489, (chunks.length * 1000) / frameRate),
    text(0x4d80, 'uvit-web'),
    text(0x5741, 'uvit-web'),
  );
  const colour = space ? [element(0x55b0, ...colourOf(space))] : [];
  const track = element(
    0xae,
    whole(0xd7, 1), // number
    whole(0x73c5, 1), // identity
    whole(0x83, 1), // video
    whole(0x9c, 0), // frames come one a block
    text(0x86, codec),
    whole(0x23e383, Math.round(1e9 / frameRate)), // nanoseconds a frame
    element(0xe0, whole(0xb0, width), whole(0xba, height), ...colour),
  );
  const clusters: { ms: number; blocks: Uint8Array[] }[] = [];
  for (const chunk of chunks) {
    const ms = Math.round(chunk.timestamp / 1000);
    if (chunk.type === 'key') clusters.push({ ms, blocks: [] });
    const cluster = clusters.at(-1);
    if (cluster) cluster.blocks.push(block(chunk, ms - cluster.ms));
  }
  const bodies = clusters.map(({ ms, blocks }) => element(0x1f43b675, whole(0xe7, ms), ...blocks));
  const tracks = element(0x1654ae6b, track);
  /** Where each cluster stands, for those who jump: every number is as long as any other. */
  const cues = (from: number) => {
    let at = from;
    return element(
      0x1c53bb6b,
      ...clusters.map(({ ms }, k) => {
        const point = element(0xbb, whole(0xb3, ms), element(0xb7, whole(0xf7, 1), whole(0xf1, at)));
        at += bodies[k]?.length ?? 0;
        return point;
      }),
    );
  };
  const before = info.length + tracks.length;
  const index = cues(before + cues(0).length);
  const segment = element(0x18538067, info, tracks, index, ...bodies);
  const all = new Uint8Array(head.length + segment.length);
  all.set(head);
  all.set(segment, head.length);
  return all;
}

/** A SimpleBlock: of the first track, at so many milliseconds, perhaps a key frame. */
function block(chunk: EncodedVideoChunk, ms: number): Uint8Array {
  const data = new Uint8Array(4 + chunk.byteLength);
  new DataView(data.buffer).setInt16(1, ms);
  data[0] = 0x81;
  data[3] = chunk.type === 'key' ? 0x80 : 0;
  chunk.copyTo(data.subarray(4));
  return element(0xa3, data);
}

/** What the encoder made of the colours, by the numbers of ISO/IEC 23091-2. */
function colourOf({ matrix, primaries, transfer, fullRange }: VideoColorSpaceInit): Uint8Array[] {
  const numbers: Record<string, number> = { rgb: 0, bt709: 1, bt470bg: 5, smpte170m: 6, 'iec61966-2-1': 13 };
  const UNKNOWN = 2;
  return [
    whole(0x55b1, numbers[matrix ?? ''] ?? UNKNOWN),
    whole(0x55b9, fullRange ? 2 : 1),
    whole(0x55ba, numbers[transfer ?? ''] ?? UNKNOWN),
    whole(0x55bb, numbers[primaries ?? ''] ?? UNKNOWN),
  ];
}
