/** Reads .safetensors files: `[name, { dtype, shape, bytes }]` of every tensor. */
export function tensorsIn(data) {
  const begin = 8 + Number(data.readBigUInt64LE());
  const { __metadata__, ...header } = JSON.parse(data.subarray(8, begin).toString());
  return Object.entries(header).map(([name, { dtype, shape, data_offsets: at }]) => [
    name,
    { dtype, shape, bytes: data.subarray(begin + at[0], begin + at[1]) },
  ]);
}

const KINDS = {
  F64: Float64Array,
  F32: Float32Array,
  F16: Uint16Array,
  I64: BigInt64Array,
  I32: Int32Array,
  U8: Uint8Array,
};

/** A tensor's values; halves become floats. */
export function valuesOf({ dtype, bytes }) {
  const values = new KINDS[dtype](bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.length));
  return dtype === 'F16' ? Float32Array.from(values, half) : values;
}

function half(bits) {
  const [sign, exponent, fraction] = [bits >> 15 ? -1 : 1, (bits >> 10) & 31, bits & 1023];
  return sign * (exponent ? 2 ** (exponent - 15) * (1 + fraction / 1024) : 2 ** -24 * fraction);
}
