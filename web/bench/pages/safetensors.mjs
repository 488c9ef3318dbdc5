/** Reads a small safetensors file: eight bytes of length, a JSON header, the values. */

const ARRAYS = { F32: Float32Array, I32: Int32Array };

/** Tensors by name, each `{ data, shape }`. */
export async function readSafetensors(url) {
  const bytes = await (await fetchFile(url)).arrayBuffer();
  const start = 8 + Number(new DataView(bytes).getBigUint64(0, true));
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(bytes, 8, start - 8)));
  const tensors = {};
  for (const [name, { dtype, shape, data_offsets }] of Object.entries(header)) {
    if (name === '__metadata__') continue;
    const [first, end] = data_offsets;
    tensors[name] = { shape, data: new ARRAYS[dtype](bytes.slice(start + first, start + end)) };
  }
  return tensors;
}

export async function fetchFile(url) {
  const response = await fetch(url);
  if (!response.ok) throw new Error(`${url} answered ${response.status}`);
  return response;
}
