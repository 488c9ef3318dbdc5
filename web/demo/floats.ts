/** Files of floats: `.npy`, `.safetensors` and bare 32-bit floats are read, `.npy` is written. */

import { UvitError } from 'uvit-web';

/** The floats of a file, in its order; a `.safetensors` file must hold one tensor. */
export async function readFloats(file: File): Promise<Float32Array> {
  const bytes = await file.arrayBuffer();
  const text = (from: number, length: number) => new TextDecoder().decode(new Uint8Array(bytes, from, length));
  try {
    const view = new DataView(bytes);
    if (bytes.byteLength > 10 && text(1, 5) === 'NUMPY') {
      const long = view.getUint8(6) > 1;
      const from = long ? 12 : 10;
      const length = long ? view.getUint32(8, true) : view.getUint16(8, true);
      const header = text(from, length);
      if (/'fortran_order': *True/.test(header)) throw new Error('it is in Fortran order');
      return floats(/'descr': *'(.*?)'/.exec(header)?.[1], bytes.slice(from + length));
    }
    if (file.name.endsWith('.safetensors')) {
      const values = 8 + Number(view.getBigUint64(0, true));
      const { __metadata__, ...tensors } = JSON.parse(text(8, values - 8));
      const [tensor, other] = Object.values(tensors) as { dtype: string; data_offsets: [number, number] }[];
      if (!tensor || other) throw new Error('it holds none or several tensors');
      const [from, to] = tensor.data_offsets;
      return floats(tensor.dtype, bytes.slice(values + from, values + to));
    }
    return floats('F32', bytes);
  } catch (thrown) {
    const cause = `${file.name} cannot be read (${thrown instanceof Error ? thrown.message : thrown})`;
    throw new UvitError('INVALID_ARGUMENT', cause, 'Give .npy, .safetensors or bare 32-bit floats, least byte first');
  }
}

function floats(type: string | undefined, bytes: ArrayBuffer): Float32Array {
  if (type === '<f4' || type === 'F32') return new Float32Array(bytes);
  if (type === '<f8' || type === 'F64') return Float32Array.from(new Float64Array(bytes));
  throw new Error(`its values are ${type}, not 32- or 64-bit floats`);
}

/** A `.npy` file with values one after the other, of so many dimensions as there are in `shape`. */
export function toNpy(values: Float32Array[], shape: number[]): Blob {
  const header = `{'descr': '<f4', 'fortran_order': False, 'shape': (${shape.join(', ')}), }`;
  // The values begin at a multiple of 64, after a line break.
  const padded = `${header.padEnd(Math.ceil((header.length + 11) / 64) * 64 - 11)}\n`;
  const magic = new Uint8Array([
    0x93,
    ...new TextEncoder().encode('NUMPY'),
    1,
    0,
    padded.length & 255,
    padded.length >> 8,
  ]);
  return new Blob([magic, padded, ...(values as Float32Array<ArrayBuffer>[])]);
}
