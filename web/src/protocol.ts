/**
 * Every message between the page and its worker. Requests carry an id that the page chose; each is answered
 * by exactly one reply (`capabilities`, `loaded`, `result`, `tensors`, `profile` or `error`), and before it by any number of
 * events (`progress`, `step`) with the same id. `alive`, `workers` and `crash` belong to no request: a lock that is held
 * by a worker which must not die, how many workers are left to share the work, and that the worker cannot go on.
 */

import type { ErrorParts } from './errors.js';
import type {
  AdapterInfo,
  Capabilities,
  ComputeChoice,
  Device,
  DeviceChoice,
  Dtype,
  GenerateSettings,
  LoadProgress,
  Mode,
  PipelineInfo,
  Preset,
  Profile,
  Stage,
  Timings,
  TuneChoice,
  WasmChoice,
} from './types.js';
import type { Arrays, Outputs, Tensors } from './uvit_web.js';

/** The settings of one generation as the wasm core takes them; what is absent gets the model's default. */
export interface CoreGenerateOptions {
  mode?: Mode;
  label?: number | string;
  prompt?: string | string[];
  prompt2?: string | string[];
  negativePrompt?: string | string[];
  steps?: number;
  guidanceScale?: number;
  guidanceRescale?: number;
  seed: number;
  count: number;
  frames?: number;
  overlap?: number;
  sampler?: string;
  grid?: string;
  eta?: number;
  churn?: number;
  strength?: number;
  freshNoise?: boolean;
  preset?: Preset;
  guidanceInterval?: [number, number];
  beams?: number;
  latents?: boolean;
  /** `[width, height]` of the array `imageRgba`. */
  imageSize?: [number, number];
  cache: boolean;
  preview: boolean;
  floatPixels: boolean;
}

/** What the wasm core says about one generation. */
export interface ResultMetadata extends GenerateSettings {
  texts: string[];
  seed: number;
  width: number;
  height: number;
  channels: number;
  /** 0 for models of single pictures. */
  frameRate: number;
  device: Device;
  deviceReason: string;
  adapter: AdapterInfo | null;
  warnings: string[];
  timings: Timings;
  dispatches: number;
  workers: number;
}

/** The options of `load()` that matter beyond the page. */
export interface CoreLoadOptions {
  device: DeviceChoice;
  dtype?: Dtype;
  compute?: ComputeChoice;
  threads?: number;
  wasm: WasmChoice;
  tune?: TuneChoice;
  keepLoaded?: boolean;
  tiling?: boolean;
}

export type Request =
  | { type: 'capabilities'; id: number }
  | { type: 'load'; id: number; manifestUrl: string; options: CoreLoadOptions }
  | { type: 'generate'; id: number; options: CoreGenerateOptions; arrays: Arrays }
  | { type: 'forward'; id: number; component: string; tensors: Tensors }
  | { type: 'profile'; id: number; count: number }
  /** Has no reply of its own: the generation with this id is answered with `ABORTED`, if it still runs. */
  | { type: 'abort'; id: number };

export type Reply =
  | { type: 'capabilities'; id: number; capabilities: Capabilities }
  | { type: 'loaded'; id: number; info: PipelineInfo }
  | {
      type: 'result';
      id: number;
      metadata: ResultMetadata;
      rgba: Uint8Array;
      floats?: Float32Array;
      latents?: Outputs;
    }
  | { type: 'tensors'; id: number; tensors: Outputs }
  | { type: 'profile'; id: number; profile: Profile | null }
  | { type: 'error'; id: number; error: ErrorParts };

export type Event =
  | { type: 'progress'; id: number; progress: LoadProgress }
  /**
   * `preview` holds the RGBA of all pictures, one after the other, each of that width and height, which else are 0; so many `frames`
   * are a clip's, 0 for single pictures.
   */
  | {
      type: 'step';
      id: number;
      stage: Stage;
      step: number;
      steps: number;
      elapsedMs: number;
      window: number;
      windows: number;
      width: number;
      height: number;
      frames: number;
      /** Mostly none. */
      texts: string[];
      preview?: Uint8Array;
    }
  | { type: 'alive'; lock: string }
  | { type: 'workers'; workers: number }
  | { type: 'crash'; error: ErrorParts };

export type FromWorker = Reply | Event;
