/** The public types: what goes into `load()` and `generate()` and what comes out, with units and ranges. */

/** Which device is asked for; `auto` takes WebGPU where a real adapter exists and the CPU otherwise. */
export type DeviceChoice = 'auto' | 'webgpu' | 'cpu';

/** Which device runs. */
export type Device = 'webgpu' | 'cpu';

/** How weights are stored in a variant of the model. */
export type Dtype = 'f32' | 'f16' | 'q8' | 'q4';

/**
 * What arithmetic is done with the weights. `f32`: exact. `quality`: integers, as good as f32 to the eye. `fast`: the
 * shortest integers. Integers are the CPU's.
 */
export type Compute = 'f32' | 'quality' | 'fast' | 'f16' | 'w8a8';
/** `auto`: f32 on a GPU; on the CPU the faster of `quality` and `f32`, which look the same, measured while the model loads. */
export type ComputeChoice = 'auto' | Compute;

/** Few-step settings: DPM-Solver++ (2M) in 12 or 6 steps. */
export type Preset = 'fast' | 'draft';

/**
 * Which of pictures and words is given and which is made, for models of both: words to picture, picture to words, both out of nothing,
 * a picture alone, words alone, a picture by way of words to another, words by way of a picture to others.
 */
export type Mode = 't2i' | 'i2t' | 'joint' | 'i' | 't' | 'i2t2i' | 't2i2t';

/** A build of the wasm core, for one device: `webgpu`, or the CPU, at different speeds. */
export type WasmVariant = 'webgpu' | 'simd128' | 'relaxed-simd' | 'threads';

/** When to measure which variants of the kernels are fastest. */
export type TuneChoice = 'auto' | 'off' | 'again';

/** Which build is asked for; `auto` takes the best for the device that the browser and the page allow. */
export type WasmChoice = 'auto' | WasmVariant;

/** How far `load()` has come. */
export interface LoadProgress {
  /**
   * `runtime`: the wasm module starts. `manifest`: the model's description is fetched. `weights`: bytes
   * arrive, are checked and uploaded. `compile`: kernels are prepared. Where a GPU fails and `auto` goes on with the CPU, it
   * begins again.
   */
  phase: 'runtime' | 'manifest' | 'weights' | 'compile';
  /** Bytes of weights received so far. */
  loadedBytes: number;
  /** Bytes of weights in all; 0 until the manifest has been read. */
  totalBytes: number;
}

/** Options of `load()`. */
export interface LoadOptions {
  /** Default `auto`. */
  device?: DeviceChoice;
  /** Which stored variant to fetch; default: the manifest's first. */
  dtype?: Dtype;
  /** Default `auto`. */
  compute?: ComputeChoice;
  /**
   * How many threads or workers the CPU device may use, at least 1. Default: the machine's cores, at most 8. Threads
   * share one memory and need a page that is cross-origin isolated; elsewhere up to 4 workers share the pictures of
   * a batch and the halves of guidance, each with a copy of the weights, as memory allows.
   */
  threads?: number;
  /** Default `auto`. It must be one of the device's; `threads` needs a page that is cross-origin isolated. */
  wasm?: WasmChoice;
  /**
   * Whether to measure which variants of the kernels are fastest on this GPU, for at most 1.5 s (10 s on a software
   * adapter) while the weights arrive. Default `auto`: once, then the browser remembers it for this model. `off`:
   * never. `again`: even if it is remembered.
   */
  tune?: TuneChoice;
  /**
   * Whether all networks of a model stay loaded. With `false`, each is fetched when its stage begins and goes with it: slower (the
   * browser's cache apart), in the memory of the largest, and on the CPU without helper workers. Default true.
   */
  keepLoaded?: boolean;
  /**
   * Whether autoencoders compute large pictures in bands wherever that saves memory: the same pictures, in up to twice the time.
   * Default false: only where the device's limits ask for it.
   */
  tiling?: boolean;
  /** Called as bytes arrive. */
  onProgress?: (progress: LoadProgress) => void;
  /** Stops loading and frees what was loaded; `load()` rejects with code `ABORTED`. */
  signal?: AbortSignal;
}

/** One class that the model can draw. */
export interface Label {
  /** What the network is given: 0 to the number of labels - 1. */
  index: number;
  /** What `generate({ label })` takes as well as the index. */
  name: string;
  /** What is drawn, for models that sort their labels so. */
  kind?: string;
  /** How it is drawn, for models that sort their labels so. */
  style?: string;
}

/** A licence of the weights, or of something that the model learned from. */
export interface Licence {
  /** What it covers. */
  name: string;
  /** SPDX identifier. */
  spdx: string;
  /** Whom to credit, and for what. */
  attribution: string;
}

/** The GPU adapter as the browser describes it; browsers leave some of these empty on purpose. */
export interface AdapterInfo {
  vendor: string;
  architecture: string;
  description: string;
  /** True for a software rasteriser: correct, and slow. */
  isFallbackAdapter: boolean;
  /** Invocations of its smallest subgroup; 1 where kernels cannot use them. */
  subgroupSize: number;
  /** Whether its kernels can compute in f16. */
  shaderF16: boolean;
}

/** Which variants of the kernels a GPU runs, and what else was tried. */
export interface TunedInfo {
  tuning: Tuning;
  /** Whether an earlier load had measured it. */
  remembered: boolean;
  /** What was tried in this load; times are of the network's kernels of that kind, null where they were not measured. */
  trials: {
    tuning: Tuning;
    matmulMs: number | null;
    matmulFewMs: number | null;
    matmulOneMs: number | null;
    attentionMs: number | null;
    error: string | null;
  }[];
  /** What all that took. */
  ms: number;
}

/** Tiles that one invocation of a kernel computes. */
export interface Tuning {
  attention: { queries: number; keys4: number; shared: boolean };
  /** Of matmuls of many rows. */
  matmul: MatmulTile;
  /** Of few. */
  matmulFew: MatmulTile;
  /** Of one. */
  matmulOne: MatmulTile;
}

/** What one invocation of a matmul computes, and with whom it shares loads. */
export interface MatmulTile {
  rows: number;
  /** Vec4s. */
  columns: number;
  /** Neighbours that share loads by subgroup; 1: none. */
  lanes: number;
  /** Side of the squares in workgroup memory; 0: none. */
  tile: number;
}

/** Where the time of a forward goes. */
export interface Profile {
  /** `gpu`: timestamp queries. `host`: without them, one submission a kernel. */
  clock: 'gpu' | 'host';
  /** Multiply-adds a second that the adapter reaches in registers. */
  peak: number;
  /** In order. */
  kernels: { kernel: string; shape: string; multiplyAdds: number; bytes: number; nanoseconds: number }[];
}

/** A network of the model that generating runs. */
export interface Component {
  /**
   * What it does: `denoiser`, the one that is sampled, `text_encoder`, `text_projector`, `preview_decoder`,
   * `decoder`, `encoder`, `image_encoder` or `caption_decoder`.
   */
  name: string;
  /** What `forward()` takes and gives for it. */
  ports: Port[];
}

/** A tensor that goes into the network or comes out of it. */
export interface Port {
  name: string;
  /** What goes in: floats (`Float32Array`), the network's times (`Float64Array`) or indices (`Uint32Array`), or what comes out (`Float32Array`). */
  kind: 'floats' | 'times' | 'indices' | 'output';
  /** Of one item: a tensor has so many values for every item. */
  shape: number[];
}

/** What was loaded. */
export interface PipelineInfo {
  /** The model's own name. */
  name: string;
  /** Identifies the model's weights. */
  modelHash: string;
  /** The network's family, e.g. `uvit`. */
  architecture: string;
  /** What `forward()` takes and gives unless told otherwise: those of the denoiser. */
  ports: Port[];
  /** The networks that generating runs, in order. */
  components: Component[];
  /** How the weights are stored. */
  dtype: Dtype;
  /** What arithmetic is done with them. */
  compute: Compute;
  /** The build of the wasm core that runs. */
  wasm: WasmVariant;
  /** Threads in the CPU device's pool; 1 where there is none. */
  threads: number;
  /** Workers that share the items of a batch on the CPU device; 1 where there is one. Falls when one is lost. */
  workers: number;
  device: Device;
  /** Why this device was chosen, as a sentence for people. */
  deviceReason: string;
  /** Null on the CPU. */
  adapter: AdapterInfo | null;
  /** Absent or null on the CPU. */
  tuned?: TunedInfo | null;
  labels: Label[];
  /** Whether `generate()` takes a `prompt`, which it then needs. */
  prompts: boolean;
  defaults: { steps: number; guidanceScale: number; sampler: string };
  /** Values that `generate({ sampler })` takes: those that the model's schedule bears. */
  samplers: string[];
  /** Values that `generate({ grid })` takes, likewise. */
  grids: string[];
  /** Whether `generate({ cache: true })` has a calibrated schedule. */
  cache: boolean;
  /** Width and height of a picture in pixels. */
  imageSize: number;
  /** Colour channels of a picture; for models of latents that nothing decodes, theirs. */
  channels: number;
  /** Frames of the clips that the network draws, the fewest that `generate({ frames })` takes; 0 for models of single pictures. */
  frames: number;
  /** Frames a second at which the clips are meant to be played; 0 for models of single pictures. */
  frameRate: number;
  /**
   * `[channels, height, width]` of what `generate({ initImage })` takes: pictures, or a clip's frames; for models of latents that have
   * no encoder, latents.
   */
  initImageShape: [number, number, number];
  /** Values that `generate({ mode })` takes: those that the model's networks allow. None for models of pictures alone. */
  modes: Mode[];
  /** `[channels, height, width]` of the floats that `generate({ image })` takes; null for models that look at no pictures. */
  imageShape: [number, number, number] | null;
  /** `[channels, height, width]` of what the network draws: pictures, a clip's frames, or latents of either. */
  latentShape: [number, number, number];
  /** Number of weights. */
  parameters: number;
  /** Of the weights and of what the model learned from. */
  licences: Licence[];
  /** Bytes of weights that were fetched. */
  bytes: number;
  /** Milliseconds from the manifest to a model that is ready, the fetching of its weights among them. */
  loadMs: number;
  /** The label that stands for "no label" in guidance; absent for models without one. */
  nullClass?: number | null;
}

/**
 * What a generation is at: texts are read, pictures that are given become latents, the network is called, latents become pixels, and
 * words. Models of pixels only sample.
 */
export type Stage = 'text' | 'encoding' | 'sampling' | 'decoding' | 'captioning';

/** One finished step of a stage: of `sampling` a call of the network, of `encoding` and `decoding` a picture or frame, of `captioning` a token. */
export interface Step {
  stage: Stage;
  /** 1 to `steps`; of the stages around sampling, 0 says that they begin. */
  step: number;
  /**
   * In this stage: calls of the network, of N steps N, but `heun` makes 2 N - 1, `plms` N + 1 (1 of 1) and `pndm` N + 9, times the
   * windows of a long clip; or pictures; or the most tokens that a text may have.
   */
  steps: number;
  /** Which window of a long clip is drawn, 1 to `windows`. */
  window: number;
  /** 1, or of a clip of more frames than the network draws how many windows it takes. */
  windows: number;
  /** Milliseconds since this stage began. */
  elapsedMs: number;
  /**
   * The network's estimate of the finished pictures, one for each; only with `preview: true`, while sampling. Models of latents show
   * what their preview decoder makes of it, in its size, or one pixel for each of the latents, coloured by the manifest's linear
   * map: smaller than the picture. Without either, these are the latents' first channels. Of clips the frames of the window that is
   * drawn, all those of the first clip before those of the second.
   */
  preview?: ImageData[];
  /** The same for models of clips, an array for each clip. */
  clips?: ImageData[][];
  /**
   * The texts, one for each item: while captioning as far as they go, and with `preview: true` while sampling what the estimate says.
   */
  texts?: string[];
}

/** Texts that grow by a token. */
export interface TextEvent {
  /** As far as they go, one for each item that was begun. With several beams, the best of them now: later it may be another. */
  texts: string[];
  /** How many tokens they have. */
  tokens: number;
}

/** Options of `generate()`; every one may be left out. */
export interface GenerateOptions {
  /** Index or name of what to draw; see `pipeline.info.labels`. */
  label?: number | string;
  /**
   * What the pictures show, for all or one text for each, for models that take prompts (`info.prompts`). May be empty; of one that
   * is too long the end is left out, which `warnings` tell.
   */
  prompt?: string | string[];
  /**
   * What is given and what is made, one of `info.modes`. Default, for models that have modes: of a prompt a picture, of an image words,
   * of neither both, or a picture where the model writes no words.
   */
  mode?: Mode;
  /**
   * The picture that words or another picture are made of: floats of `info.imageShape` in [-1, 1], or whatever a canvas can draw, an
   * `ImageData` or a `Blob`: upright as its EXIF data says, over white, the first of an animation. The middle square is taken and
   * resized as the model's authors do, by the core. Pictures of more than 2^23 pixels are made smaller as they are decoded.
   */
  image?: Float32Array | ImageBitmapSource;
  /** Texts that are followed at a time while one is written, at least 1, of which the best one stays. Default: the model's. */
  beams?: number;
  /** Called after each token while words are written. */
  onText?: (event: TextEvent) => void;
  /** Return what was drawn before it became pixels and words, too. Default false. */
  latents?: boolean;
  /** What the second text encoder reads, likewise, of models that have two. Default: the prompt. */
  prompt2?: string | string[];
  /** What guidance leads away from, likewise. Default: no text. */
  negativePrompt?: string | string[];
  /**
   * 1 to 1000, for `pndm` at least 4; more is slower and finer. A step is one network call, but `heun` makes two, save in the
   * last, `plms` one more in all and `pndm` nine. Default: the model's.
   */
  steps?: number;
  /** How strongly the label pulls: `uncond + s (cond - uncond)`. 1 is off and twice as fast. Default: the model's. */
  guidanceScale?: number;
  /**
   * How far the guided output is rescaled to vary as the unguided one (arXiv:2305.08891, equations 15 and 16), 0 to 1: against
   * colours that strong guidance burns. Costs a readback a step. Default 0, off.
   */
  guidanceRescale?: number;
  /** 0 to 2^32 - 1; picture or clip k gets seed + k. Default: a random one, always returned. */
  seed?: number;
  /** Pictures or clips made at once, at least 1. Default 1. */
  count?: number;
  /**
   * For models of clips: frames of each, `info.frames` (the default) to 1024. Longer clips than the network draws are drawn in
   * windows of `info.frames` frames, of which each is given the last frames of the one before.
   */
  frames?: number;
  /**
   * Frames that a window of a long clip is given, 1 to `info.frames` - 1; the last window is given more where it takes that to end with
   * the clip. Default: a quarter of `info.frames`.
   */
  overlap?: number;
  /**
   * For models of clips: how they begin, fewer than `info.frames` frames for all of them, kept exactly. Floats
   * `[frames, channels, height, width]` in [-1, 1], for models of latents also latents; or pictures, made to fit as `initImage` is.
   */
  firstFrames?: Float32Array | ImageBitmapSource[];
  /**
   * One of `pipeline.info.samplers`, which may be `dpmpp_2m`, `dpmpp_3m`, `dpmpp_2m_sde`, `unipc`, `deis`, `dpmpp_3s`, `dpm_solver`,
   * `dpm_adaptive` (as many steps as it needs), `euler`, `euler_ancestral`, `heun`, `ddim`, `ddpm`, `plms`, `pndm`, `lcm`,
   * `euler_maruyama_sde` and `euler_maruyama_ode`. Default: the model's.
   */
  sampler?: string;
  /**
   * How the sampler's times are spread, one of `pipeline.info.grids`, which may be `time_uniform`, `log_snr`, `quadratic`, `karras`
   * and, on schedules of training steps, `linspace`, `leading`, `trailing`, `respaced` and `strided`; not for `euler_maruyama_*`.
   * Default: the model's with its own sampler, else the sampler's own.
   */
  grid?: string;
  /** `ddim` alone: noise that is drawn anew at every step, from 0, none, to 1, as much as `ddpm` does. Default 0. */
  eta?: number;
  /** `euler` alone: fresh noise over all steps, at least 0 (S_churn of arXiv:2206.00364). Default 0, none. */
  churn?: number;
  /** Fewer steps with a solver that bears them, where `steps` and `sampler` are not given. Default: none. */
  preset?: Preset;
  /**
   * Guide only while t lies between these, from 0 (the picture) to 1 (noise), the smaller first; other steps take half the
   * time. Default: always.
   */
  guidanceInterval?: [number, number];
  /** Leave out inner blocks in some steps, as the model's calibrated schedule says; see `info.cache`. Default false. */
  cache?: boolean;
  /** Stops this call, running or queued; it rejects with code `ABORTED` and name `AbortError`. */
  signal?: AbortSignal;
  /** Called after each step. */
  onStep?: (step: Step) => void;
  /** Hand `onStep` pictures of the current estimate; costs one readback a step, and a forward of the preview decoder. Default false. */
  preview?: boolean;
  /**
   * Start noise instead of the seed's, `[count, channels, height, width]`, standard normal; for clips of one window as the denoiser's
   * first port has it.
   */
  startLatents?: Float32Array;
  /**
   * A picture to start from: floats `[channels, height, width]` in [-1, 1] for all pictures, or one for each; or whatever a canvas
   * can draw, an `ImageData` or a `Blob`. Of those, the middle is taken that covers the model's picture, resized, over white, and
   * a byte b becomes b / 127.5 - 1. Models of latents make latents of it by their encoder (the distribution's mean), which is fetched
   * with the first picture; they also take latents of `info.latentShape` as floats, those without an encoder nothing else. Floats
   * that could be either are a picture. For models of clips it is a clip, as many frames as are drawn: an array of pictures, or floats
   * `[frames, channels, height, width]`.
   */
  initImage?: Float32Array | ImageBitmapSource | ImageBitmapSource[];
  /**
   * With `initImage`: how much of the way from noise to a picture is walked anew, above 0, at most 1: of N steps the last
   * floor(N strength), of a rectified flow (Stable Diffusion 3) all but the first floor(N - N strength). Default: 0.8, with a mask 1.
   */
  strength?: number;
  /**
   * With `initImage`: what is painted anew (1) and what is kept (0), floats `[height, width]` in [0, 1], or a picture as above, over
   * black, of which the luminance counts: white is painted anew. What is kept comes out as it went in. For latents it is as large as
   * they are. Of a picture's latents, those are drawn anew of whose square any pixel is. For clips it is one for all frames, or floats
   * `[frames, height, width]`.
   */
  mask?: Float32Array | ImageBitmapSource;
  /** With `mask`, and for clips that keep frames: what is kept gets other noise at every step, not that of the start. Default false. */
  freshNoise?: boolean;
  /**
   * Instead of a prompt, the text's embedding, `[tokens, dim]` for all pictures or one for each, for networks that draw a text
   * (`info.ports` has `context` or `text`), which need one of the two.
   */
  context?: Float32Array;
  /** Likewise, that of the empty text: guidance needs it. */
  nullContext?: Float32Array;
  /** Return the unclipped float pixels as well. Default false. */
  floatPixels?: boolean;
}

/** Options of `variations()`: those of `generate()` with either `image` or `prompt`. */
export type VariationOptions = Omit<GenerateOptions, 'mode'>;

/**
 * What `forward()` takes: a tensor for every one of `info.ports` (or of the component's) that goes in, n items of it one after the
 * other: floats as a `Float32Array`, times and indices as typed arrays or lists of numbers.
 */
export type ForwardTensors = Record<string, Float32Array | Float64Array | Uint32Array | number[]>;

/** Options of `forward()`. */
export interface ForwardOptions {
  /** The network to call, one of `info.components`. Default `denoiser`. */
  component?: string;
}

/** One picture, or a frame of a clip. */
export interface GeneratedImage {
  /** Pixels, `[height, width, 4]`, 0 to 255; the same memory as `imageData.data`. */
  rgba: Uint8ClampedArray;
  /** The pixels as a canvas takes them. */
  imageData: ImageData;
  /** The seed that gives this picture alone, or the clip that it is a frame of. */
  seed: number;
  width: number;
  height: number;
  /** `[channels, height, width]`, about -1 to 1, not clipped; only with `floatPixels: true`. */
  floats?: Float32Array;
}

/** What a picture was made with: together with the seed, enough to make it again. */
export interface GenerateSettings {
  /** What was given and what was made; null for models of pictures alone. */
  mode: Mode | null;
  /** Index; null where the model has no labels or none was given. */
  label: number | null;
  labelName: string | null;
  prompt: string | string[] | null;
  /** Where it was given. */
  prompt2?: string | string[];
  negativePrompt: string | string[] | null;
  steps: number;
  guidanceScale: number;
  guidanceRescale: number;
  sampler: string;
  /** Null for a sampler that has but one. */
  grid: string | null;
  eta: number;
  churn: number;
  /** Null without `initImage`. */
  strength: number | null;
  /** Whether there was a mask. */
  masked: boolean;
  guidanceInterval: [number, number] | null;
  cache: boolean;
  count: number;
  /** Frames of a clip; 1 for models of single pictures. */
  frames: number;
  /** Frames that each window was given of the one before; 0 where there was but one window. */
  overlap: number;
  /** How many frames were given that the clips begin with. */
  firstFrames: number;
  dtype: Dtype;
  compute: Compute;
  /** Identifies everything in the model that decides a picture: its weights, parameters and sampling. */
  modelHash: string;
}

/** Where the time went, in milliseconds. */
export interface Timings {
  /** From the first stage's start to the pixels. */
  totalMs: number;
  /** Reading texts; 0 where none was new. */
  textMs: number;
  /** Each call of the network. */
  stepMs: number[];
  /** Encoding pictures to start from; 0 where there are none, and for models of pixels. */
  encodingMs: number;
  /** Decoding latents; 0 where there are none. */
  decodeMs: number;
  /** Writing words; 0 where none were made. */
  captionMs: number;
  /** What encoding and submitting to the GPU took of all that; 0 on the CPU. */
  encodeMs: number;
}

/** What `generate()` resolves with. */
export interface GenerateResult {
  /** All pictures, or all frames of all clips in order. None in the modes that make words alone. */
  images: GeneratedImage[];
  /** For models of clips the frames of each, in the memory of `images`; else none. */
  clips: ImageData[][];
  /** Frames of a clip; 1 for models of single pictures. */
  frames: number;
  /** Frames a second at which clips are meant to be played; 0 for models of single pictures. */
  frameRate: number;
  /** The words that were made, one text for each item; none in modes that make none. */
  texts: string[];
  /**
   * What was drawn, item after item, by its port's name: latents, the picture's embedding and the text's; only with `latents: true`.
   */
  latents?: Record<string, Float32Array>;
  /** The first picture's seed. */
  seed: number;
  settings: GenerateSettings;
  /** What one should know, as sentences for people: a text that was cut, say. Mostly none. */
  warnings: string[];
  timings: Timings;
  device: Device;
  deviceReason: string;
  adapter: AdapterInfo | null;
  /** What arithmetic was done. */
  compute: Compute;
  /** Workers that shared this call's items. */
  workers: number;
  /** GPU dispatches of this call; 0 on the CPU. */
  dispatches: number;
}

/** What the browser offers to the CPU device. */
export interface CpuFacts {
  /** Without it nothing runs. */
  simd128: boolean;
  relaxedSimd: boolean;
  /** Shared memory: the page is cross-origin isolated. */
  threads: boolean;
  /** Cores that the browser admits to. */
  hardwareConcurrency: number;
}

/** What this browser can run. */
export interface Capabilities {
  /** Version of the wasm core. */
  version: string;
  cpu: CpuFacts;
  /** What `device: 'auto'` would take, and why, as a sentence for people. */
  auto: { device: Device; reason: string };
  webgpu: {
    available: boolean;
    /** Why not. */
    code?: 'NO_WEBGPU' | 'INSECURE_CONTEXT' | 'LIMIT_TOO_SMALL';
    reason?: string;
    /** What to do about it. */
    remedy?: string;
    adapter?: AdapterInfo;
    limits?: { maxStorageBufferBindingSize: number };
  };
}
