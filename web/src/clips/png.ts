/** What PNG and APNG files are made of, and the text in them that says how a picture was made. */

/** The signature and the header, after which other chunks may stand. */
const HEADER = 33;

/** Most significant byte first. */
export function number(value: number, bytes: 2 | 4 = 4): Uint8Array<ArrayBuffer> {
  const view = new DataView(new ArrayBuffer(bytes));
  if (bytes === 4) view.setUint32(0, value);
  else view.setUint16(0, value);
  return new Uint8Array(view.buffer);
}

/** A chunk: its length, its name, what it holds, and a checksum. */
export function chunk(name: string, ...parts: Uint8Array[]): Blob {
  const content = joined([new TextEncoder().encode(name), ...parts]);
  return new Blob([number(content.length - 4), content, number(checksum(content))]);
}

/**
 * A PNG, or an APNG, that says how it was made, as those of the tool do: `uvit generate --from` draws it again. `settings` are those of
 * `generate()`'s result, or whatever else JSON can carry.
 */
export function withSettings(png: Blob, settings: object): Blob {
  // Neither compressed nor in a language nor translated.
  const text = new TextEncoder().encode(`Settings\0\0\0\0\0${JSON.stringify(settings)}`);
  return new Blob([png.slice(0, HEADER), chunk('iTXt', text), png.slice(HEADER)], { type: png.type });
}

function joined(parts: Uint8Array[]): Uint8Array<ArrayBuffer> {
  const all = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    all.set(part, at);
    at += part.length;
  }
  return all;
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
