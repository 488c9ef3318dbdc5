/**
 * Which build of the wasm core this browser gets, decided before anything is downloaded. Each holds one device: `webgpu`
 * the GPU's, the other three the CPU's. Those compute the same; `relaxed-simd` has faster instructions, and `threads`
 * shares one memory among several threads.
 */

import { invalidArgument, UvitError } from './errors.js';
import type { CpuFacts, DeviceChoice, WasmChoice, WasmVariant } from './types.js';

const HEADER = [0x00, 0x61, 0x73, 0x6d, 0x01, 0x00, 0x00, 0x00];
/** `(type (func (result v128)))` and one function of that type. */
const ONE_FUNCTION = [0x01, 0x05, 0x01, 0x60, 0x00, 0x01, 0x7b, 0x03, 0x02, 0x01, 0x00];
/** `i32.const 0  i8x16.splat` */
const ZEROS = [0x41, 0x00, 0xfd, 0x0f];

/** `(module (func (result v128)  i32.const 0  i8x16.splat  i8x16.popcnt))` */
const SIMD128 = moduleOf([...ZEROS, 0xfd, 0x62]);

/**
 * `(module (func (result v128)  i32.const 0  i8x16.splat  i32.const 0  i8x16.splat  i32.const 0  i8x16.splat
 *    i32x4.relaxed_dot_i8x16_i7x16_add_s))`: the instruction that this build is there for.
 */
const RELAXED_SIMD = moduleOf([...ZEROS, ...ZEROS, ...ZEROS, 0xfd, 0x93, 0x02]);

/** What the browser offers to the CPU device. */
export function cpuFacts(): CpuFacts {
  return {
    simd128: WebAssembly.validate(SIMD128),
    relaxedSimd: WebAssembly.validate(RELAXED_SIMD),
    threads: globalThis.crossOriginIsolated === true && typeof SharedArrayBuffer === 'function',
    hardwareConcurrency: navigator.hardwareConcurrency || 1,
  };
}

/** The builds to try, the best one first: one where a build was asked for by name. Throws where none can run. */
export function variantsFor(choice: WasmChoice, device: DeviceChoice, cpu: CpuFacts): WasmVariant[] {
  if (!cpu.simd128) throw unsupported('WebAssembly SIMD (simd128)');
  const other = choice === 'webgpu' ? 'cpu' : 'webgpu';
  if (choice !== 'auto' && device === other) {
    throw invalidArgument(
      `wasm is ${JSON.stringify(choice)}, a build that has no device "${device}"`,
      'Leave wasm out: the best build for the device is taken',
    );
  }
  if (device === 'webgpu' || choice === 'webgpu') return ['webgpu'];
  if ((choice === 'relaxed-simd' || choice === 'threads') && !cpu.relaxedSimd) {
    throw unsupported(`relaxed SIMD, which wasm: ${JSON.stringify(choice)} needs`);
  }
  if (choice === 'threads' && !cpu.threads) {
    throw invalidArgument(
      'wasm is "threads", and this page is not cross-origin isolated: it has no shared memory',
      'Serve the page with Cross-Origin-Opener-Policy: same-origin (COOP) and ' +
        'Cross-Origin-Embedder-Policy: require-corp (COEP), or leave wasm out',
    );
  }
  if (choice !== 'auto') return [choice];
  const gpu: WasmVariant[] = device === 'auto' ? ['webgpu'] : [];
  if (!cpu.relaxedSimd) return [...gpu, 'simd128'];
  return cpu.threads ? [...gpu, 'threads', 'relaxed-simd'] : [...gpu, 'relaxed-simd'];
}

function moduleOf(instructions: number[]): Uint8Array<ArrayBuffer> {
  // One body: its length, no locals, the instructions, end.
  const body = [instructions.length + 2, 0x00, ...instructions, 0x0b];
  return new Uint8Array([...HEADER, ...ONE_FUNCTION, 0x0a, body.length + 1, 0x01, ...body]);
}

function unsupported(what: string): UvitError {
  return new UvitError(
    'SIMD_UNSUPPORTED',
    `this browser does not have ${what}`,
    'Update the browser: Chrome and Edge from 91, Firefox from 89 and Safari from 16.4 have SIMD; ' +
      'relaxed SIMD came with Chrome 114',
  );
}
