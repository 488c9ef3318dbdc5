/** Pictures as files that say how they were drawn, as those of the tool do: `uvit generate --from` draws them again. */

/** The signature and the header, after which other chunks may stand. */
const HEADER = 33;

/** A PNG with one text more. */
export function withSettings(png: Blob, settings: object): Blob {
  // Neither compressed nor in a language nor translated.
  const chunk = new TextEncoder().encode(`iTXtSettings\0\0\0\0\0${JSON.stringify(settings)}`);
  const parts = [png.slice(0, HEADER), number(chunk.length - 4), chunk, number(checksum(chunk)), png.slice(HEADER)];
  return new Blob(parts, { type: png.type });
}

/** Most significant byte first. */
function number(value: number): DataView<ArrayBuffer> {
  const view = new DataView(new ArrayBuffer(4));
  view.setUint32(0, value);
  return view;
}

/** CRC-32, as every chunk ends with one. */
function checksum(bytes: Uint8Array): number {
  let rest = -1;
  for (const byte of bytes) {
    rest ^= byte;
    for (let bit = 0; bit < 8; bit++) rest = (rest >>> 1) ^ (rest & 1 ? 0xedb88320 : 0);
  }
  return ~rest;
}
