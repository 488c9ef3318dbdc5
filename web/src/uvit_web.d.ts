/**
 * The contract with the wasm core: what `src/js/` of the Rust crate exports and `worker.ts` uses. The module
 * itself is the glue that wasm-bindgen writes to `pkg/<variant>/`; the build puts it into `dist/<variant>/`. Written by hand
 * so that the package type-checks on a machine without Rust.
 *
 * Every rejection is an Error with the properties `code`, `cause` and `remedy`.
 */

export default function init(options: {
  module_or_path: WebAssembly.Module;
  /** The memory to enter, in threads. */
  memory?: WebAssembly.Memory;
}): Promise<unknown>;

/** JSON of `Capabilities`; in the build `webgpu` alone. */
export function capabilities(): Promise<string>;

/** Starts the pool of threads that the CPU device uses from then on. Only in the build `threads`, as are the next three. */
export const initThreadPool: undefined | ((count: number) => Promise<unknown>);
/** A thread enters the pool, for good. */
export const wbg_rayon_start_worker: undefined | ((receiver: number) => void);
/** Says who starts the threads; the package's build adds this to the glue. */
export const setStartWorkers:
  | undefined
  | ((start: (module: WebAssembly.Module, memory: WebAssembly.Memory, builder: PoolBuilder) => Promise<void>) => void);

/** What `initThreadPool` hands to the starter of threads. */
export interface PoolBuilder {
  numThreads(): number;
  /** Where in the shared memory the threads find their orders. */
  receiver(): number;
  /** Address of the glue. */
  mainJS(): string;
  /** To be called once every thread has entered the memory. */
  build(): void;
}

/**
 * JSON `[{ of, file, bytes, sha256 }]`, in the order in which they are to be added: `of` is the component or the asset. The options
 * are those of `Loader.create`.
 */
export function files(manifestJson: string, optionsJson: string): string;

/** Named tensors, as the network's ports take them. */
export type Tensors = Record<string, Float32Array | Float64Array | Uint32Array>;

/** Named tensors, as the network's ports give them. */
export type Outputs = Record<string, Float32Array>;

/**
 * What `generate()` takes beside its options: `[count, channels, height, width]`, `[channels, height, width]` or that, `[height, width]`;
 * of clips frame after frame.
 * The picture to look at comes as `image`, `[channels, height, width]`, or as `imageRgba`, of the size in the options' `imageSize`.
 */
export type Arrays = {
  image?: Float32Array;
  imageRgba?: Uint8Array;
  firstFrames?: Float32Array;
  startLatents?: Float32Array;
  initImage?: Float32Array;
  mask?: Float32Array;
  context?: Float32Array;
  nullContext?: Float32Array;
};

/** One load of one model. */
export class Loader {
  private constructor();
  /**
   * Reads the manifest and asks for the device; `optionsJson` is `{ device, reason?, dtype?, compute?, threads?, tune?, records?,
   * keepLoaded?, tiling?, onlyDenoiser? }`, threads those of the pool. With `auto`, a build takes the device that it has, or says
   * why it cannot: the cause is a sentence for people.
   */
  static create(manifestJson: string, optionsJson: string): Promise<Loader>;
  /** Checks a file's hash and uploads what it holds. */
  addFile(index: number, bytes: Uint8Array): Promise<void>;
  /** The loader is spent afterwards. `bring` gets a file that is needed later: JSON of `{ file, bytes, sha256 }`. */
  finish(bring: (fileJson: string) => Promise<Uint8Array>): Promise<WasmPipeline>;
  free(): void;
}

/** A loaded model on its device. */
export class WasmPipeline {
  private constructor();
  /** JSON of `PipelineInfo`. */
  info(): string;
  /** JSON of `Profile`; in the build `webgpu` alone. */
  profile(count: number): Promise<string>;
  /**
   * One forward of a component's network: a tensor for every port that takes one (floats, times in f64, indices in u32);
   * resolves with one for every port that gives one.
   */
  forward(component: string, tensors: Tensors): Promise<Outputs>;
  /**
   * `onStep` gets JSON of `Step` and, when asked for, the RGBA of all pictures one after the other. The items of the
   * batch are split over `workers`, this one included; `remote` computes a part elsewhere: worker is 1 .. workers - 1.
   */
  generate(
    optionsJson: string,
    arrays: Arrays,
    onStep: (json: string, preview?: Uint8Array) => void,
    workers: number,
    remote: (worker: number, tensors: Tensors) => Promise<Outputs>,
  ): Promise<WasmResult>;
  /** Stops the running generation or forward at the next chance; it rejects with `ABORTED`. */
  abort(): void;
  dispose(): void;
  free(): void;
}

/** One finished generation. */
export class WasmResult {
  private constructor();
  /** JSON of `ResultMetadata`. */
  metadata(): string;
  /** `[count, height, width, 4]`; nothing without pictures. */
  rgba(): Uint8Array;
  /** `[count, channels, height, width]`. */
  floats(): Float32Array;
  /** As they were drawn, by the names of the ports. */
  latents(): Outputs;
  free(): void;
}
