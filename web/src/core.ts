/** Fetches and starts one build of the wasm core, in whichever worker needs one. */

import { toUvitError, UvitError } from './errors.js';
import type { WasmVariant } from './types.js';
import type { Arrays, Tensors } from './uvit_web.js';

/** What the glue that wasm-bindgen writes exports. */
export type Core = typeof import('./uvit_web.js');

/** A build that runs, with its compiled module for other workers. */
export interface StartedCore {
  core: Core;
  module: WebAssembly.Module;
}

// Bundlers recognise these expressions and emit the files as they are. That the glue stays a file of its own is on
// purpose: only the chosen build's is fetched, and the threads of a pool import the same one.
const FILES: Record<WasmVariant, { glue: URL; wasm: URL }> = {
  webgpu: {
    glue: new URL('./webgpu/uvit_web.js', import.meta.url),
    wasm: new URL('./webgpu/uvit_web_bg.wasm', import.meta.url),
  },
  simd128: {
    glue: new URL('./simd128/uvit_web.js', import.meta.url),
    wasm: new URL('./simd128/uvit_web_bg.wasm', import.meta.url),
  },
  'relaxed-simd': {
    glue: new URL('./relaxed-simd/uvit_web.js', import.meta.url),
    wasm: new URL('./relaxed-simd/uvit_web_bg.wasm', import.meta.url),
  },
  threads: {
    glue: new URL('./threads/uvit_web.js', import.meta.url),
    wasm: new URL('./threads/uvit_web_bg.wasm', import.meta.url),
  },
};

/** Starts a build; `compiled` spares another download and compilation. */
export async function startCore(variant: WasmVariant, compiled?: WebAssembly.Module): Promise<StartedCore> {
  const { glue, wasm } = FILES[variant];
  try {
    const [core, module] = await Promise.all([importGlue(glue.href), compiled ?? compile(wasm.href)]);
    await core.default({ module_or_path: module });
    return { core, module };
  } catch (thrown) {
    throw new UvitError(
      'IO',
      `the runtime's wasm module (${variant}) could not be started (${toUvitError(thrown).cause})`,
      `Check that ${variant}/uvit_web_bg.wasm and its .js are served beside the worker, and that this page's ` +
        "content security policy allows 'wasm-unsafe-eval'",
    );
  }
}

/** The glue of a build as a module of its own. */
export function importGlue(url: string): Promise<Core> {
  return import(/* webpackIgnore: true */ /* @vite-ignore */ url);
}

async function compile(url: string): Promise<WebAssembly.Module> {
  const response = await fetch(url);
  if (!response.ok) throw new Error(`${url} answered ${response.status}`);
  // Streaming compiles while bytes arrive and lets the browser cache the machine code, but insists on the bare type.
  if (response.headers.get('Content-Type')?.trim().toLowerCase() === 'application/wasm') {
    return WebAssembly.compileStreaming(response);
  }
  return WebAssembly.compile(await response.arrayBuffer());
}

/** What may be transferred of tensors. */
export function buffersOf(tensors: Tensors | Arrays): ArrayBuffer[] {
  return Object.values(tensors).map((values) => values.buffer as ArrayBuffer);
}

/** Values that may be transferred: a view into wasm memory is copied first, for that memory cannot leave. */
export function owned<T extends Uint8Array | Float32Array>(values: T): T {
  return values.byteLength === values.buffer.byteLength ? values : (values.slice() as T);
}
