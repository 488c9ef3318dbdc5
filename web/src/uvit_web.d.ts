/**
 * The contract with the wasm core: what `src/js/` of the Rust crate exports and `worker.ts` uses. The module
 * itself is the glue that wasm-bindgen writes to `pkg/`; the build puts it beside `worker.js`. Written by hand
 * so that the package type-checks on a machine without Rust.
 *
 * Every rejection is an Error with the properties `code`, `cause` and `remedy`.
 */

export default function init(options: { module_or_path: URL }): Promise<unknown>;

/** JSON of `Capabilities`. */
export function capabilities(): Promise<string>;

/** One load of one model. */
export class Loader {
  private constructor();
  /** Reads the manifest and asks for the device; `optionsJson` is `{ device, dtype? }`. */
  static create(manifestJson: string, optionsJson: string): Promise<Loader>;
  /** JSON `[{ file, bytes, sha256 }]`, in the order in which they are to be added. */
  shards(): string;
  /** Checks the shard's hash and uploads it. */
  addShard(index: number, bytes: Uint8Array): Promise<void>;
  /** Compiles the kernels; the loader is spent afterwards. */
  finish(): Promise<WasmPipeline>;
  free(): void;
}

/** A loaded model on its device. */
export class WasmPipeline {
  private constructor();
  /** JSON of `PipelineInfo`. */
  info(): string;
  /** `onStep` gets JSON of `Step` and, when asked for, the RGBA of all pictures one after the other. */
  generate(
    optionsJson: string,
    startLatents: Float32Array | undefined,
    onStep: (json: string, preview?: Uint8Array) => void,
  ): Promise<WasmResult>;
  /** Stops the running generation at the next chance; it rejects with `ABORTED`. */
  abort(): void;
  dispose(): void;
  free(): void;
}

/** One finished generation. */
export class WasmResult {
  private constructor();
  /** JSON of `ResultMetadata`. */
  metadata(): string;
  /** `[count, height, width, 4]`. */
  rgba(): Uint8Array;
  /** `[count, channels, height, width]`. */
  floats(): Float32Array;
  free(): void;
}
