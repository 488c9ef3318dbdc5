/** A loaded model as the page sees it: it forwards to the worker and shapes what comes back into pictures. */

import type { Client, RequestEvent } from './client.js';
import { buffersOf } from './core.js';
import { aborted, internal, UvitError } from './errors.js';
import { arraysOf } from './pictures.js';
import type { Reply } from './protocol.js';
import { checked, checkForward, coreOptions, variationOptions, whole } from './settings.js';
import type {
  ForwardOptions,
  ForwardTensors,
  GeneratedImage,
  GenerateOptions,
  GenerateResult,
  PipelineInfo,
  Profile,
  Step,
  VariationOptions,
} from './types.js';

export class Pipeline {
  /** What was loaded, on which device, and why that one. */
  readonly info: PipelineInfo;
  readonly #client: Client;
  /** Settles once the calls so far were sent: a picture that is still being decoded must not change their order. */
  #sent: Promise<unknown> = Promise.resolve();

  /** @internal Use `load()`. */
  constructor(client: Client, info: PipelineInfo) {
    this.#client = client;
    this.info = info;
    client.onWorkers = (workers) => {
      info.workers = workers;
    };
  }

  /**
   * Makes `count` pictures, or texts, or both, as the mode says. A call made while another runs waits for its turn, in order. Rejects with a
   * {@link UvitError}; after any rejection but `DEVICE_LOST`, `DISPOSED`,
   * `INTERNAL` and the `WORKER_LOST` that asks for another `load()`, the pipeline goes on working.
   */
  async generate(options: GenerateOptions = {}): Promise<GenerateResult> {
    const { core, reading, signal, onStep, onText } = checked(() => {
      const { signal, onStep, onText } = options;
      return { core: coreOptions(options), reading: arraysOf(options, this.info), signal, onStep, onText };
    });
    const { arrays, imageSize } = await this.#inTurn(reading);
    if (signal?.aborted) throw aborted('This generation');
    const id = this.#client.nextId();
    const onAbort = () => this.#client.abort(id);
    signal?.addEventListener('abort', onAbort, { once: true });
    try {
      const answer = await this.#client.request(
        { type: 'generate', id, options: { ...core, ...(imageSize && { imageSize }) }, arrays },
        // Steps that were already on their way when the caller aborted are not news to it any more.
        (event) => {
          if (signal?.aborted) return;
          const step = stepOf(event);
          // One listener that throws must not cost the other its event.
          try {
            if (step.stage === 'captioning' && step.texts) onText?.({ texts: step.texts, tokens: step.step });
          } finally {
            onStep?.(step);
          }
        },
        buffersOf(arrays),
      );
      // The last step may have finished while the abort was on its way: the caller's wish still counts.
      if (signal?.aborted) throw aborted('This generation');
      if (answer.type !== 'result') throw internal(`the worker answered generate with ${answer.type}`);
      return resultOf(answer);
    } finally {
      signal?.removeEventListener('abort', onAbort);
    }
  }

  /**
   * Other pictures like the `image`, by way of words, or other words for the `prompt`, by way of a picture: `generate()` in the mode
   * `i2t2i` or `t2i2t`, with all its other options.
   */
  async variations(options: VariationOptions): Promise<GenerateResult> {
    return this.generate(checked(() => variationOptions(options)));
  }

  /**
   * Calls a network once, for samplers of your own: that which is sampled, or another of `info.components`. Takes a tensor for
   * each of its ports that goes in, and resolves with one for each that comes out. Waits for its turn among the calls of
   * `generate()`, in order.
   */
  async forward(given: ForwardTensors, options: ForwardOptions = {}): Promise<Record<string, Float32Array>> {
    const { component, tensors } = checked(() => checkForward(given, options, this.info.components));
    await this.#sent;
    const id = this.#client.nextId();
    const answer = await this.#client.request(
      { type: 'forward', id, component, tensors },
      () => {},
      buffersOf(tensors),
    );
    if (answer.type !== 'tensors') throw internal(`the worker answered forward with ${answer.type}`);
    return answer.tensors;
  }

  /**
   * Times every kernel of a forward of `count` pictures (default 1) on the GPU, by its own clock where it has one. Takes a
   * dozen forwards' time. Null on the CPU. Waits for its turn, as `forward()`.
   */
  async profile(count = 1): Promise<Profile | null> {
    const work = { type: 'profile', count: whole('count', count, 1, 64) } as const;
    await this.#sent;
    const answer = await this.#client.request({ ...work, id: this.#client.nextId() }, () => {});
    if (answer.type !== 'profile') throw internal(`the worker answered profile with ${answer.type}`);
    return answer.profile;
  }

  /** What is being read, once the calls before this one were sent. */
  #inTurn<T>(reading: Promise<T>): Promise<T> {
    const mine = Promise.all([reading, this.#sent]).then(([read]) => read);
    this.#sent = Promise.allSettled([mine, this.#sent]).then(() => {});
    return mine;
  }

  /** Frees the memory on every device; what is running, and every later call, rejects with `DISPOSED`. */
  dispose(): void {
    this.#client.close(new UvitError('DISPOSED', 'this pipeline was disposed of', 'Call load() for a new one'));
  }
}

function stepOf(event: RequestEvent): Step {
  if (event.type !== 'step') throw internal(`generate got the event ${event.type}`);
  const { stage, step, steps, window, windows, elapsedMs, width, height, frames, texts } = event;
  const preview = event.preview && split(event.preview, width, height);
  return {
    stage,
    step,
    steps,
    window,
    windows,
    elapsedMs,
    ...(preview && { preview }),
    ...(preview && frames > 0 && { clips: inClips(preview, frames) }),
    ...(texts?.length && { texts }),
  };
}

function resultOf({ metadata, rgba, floats, latents }: Extract<Reply, { type: 'result' }>): GenerateResult {
  const { seed, width, height, channels, timings, device, deviceReason, adapter, dispatches, workers } = metadata;
  const {
    mode,
    texts,
    label,
    labelName,
    prompt,
    prompt2,
    negativePrompt,
    warnings,
    steps,
    guidanceScale,
    sampler,
    grid,
    guidanceInterval,
    cache,
  } = metadata;
  const { guidanceRescale, eta, churn, strength, masked, count, dtype, compute, modelHash } = metadata;
  const { frames, frameRate, overlap, firstFrames } = metadata;
  const values = channels * height * width;
  const images = split(rgba, width, height).map((imageData, k): GeneratedImage => {
    const image = { rgba: imageData.data, imageData, seed: seed + Math.floor(k / frames), width, height };
    return floats ? { ...image, floats: floats.slice(k * values, (k + 1) * values) } : image;
  });
  const pictures = images.map(({ imageData }) => imageData);
  return {
    images,
    clips: frameRate > 0 ? inClips(pictures, frames) : [],
    frames,
    frameRate,
    texts,
    ...(latents && { latents }),
    seed,
    settings: {
      mode,
      label,
      labelName,
      prompt,
      ...(prompt2 !== undefined && { prompt2 }),
      negativePrompt,
      steps,
      guidanceScale,
      guidanceRescale,
      sampler,
      grid,
      eta,
      churn,
      strength,
      masked,
      guidanceInterval,
      cache,
      count,
      frames,
      overlap,
      firstFrames,
      dtype,
      compute,
      modelHash,
    },
    warnings,
    timings,
    device,
    deviceReason,
    adapter,
    compute,
    workers,
    dispatches,
  };
}

/** All frames of all clips as an array for each. */
function inClips(images: ImageData[], frames: number): ImageData[][] {
  return Array.from({ length: images.length / frames }, (_, k) => images.slice(k * frames, (k + 1) * frames));
}

/** Cuts pictures that lie one after the other into one ImageData each. */
function split(rgba: Uint8Array, width: number, height: number): ImageData[] {
  const bytes = width * height * 4;
  const images: ImageData[] = [];
  for (let start = 0; start + bytes <= rgba.length; start += bytes) {
    const pixels = new Uint8ClampedArray(bytes);
    pixels.set(rgba.subarray(start, start + bytes));
    images.push(new ImageData(pixels, width, height));
  }
  return images;
}
