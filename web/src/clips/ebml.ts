/** EBML (RFC 8794), which WebM is written in: elements with a name, a size and content, one within the other. */

/** The name is a number, as the specification writes it. */
export function element(name: number, ...content: Uint8Array[]): Uint8Array<ArrayBuffer> {
  const names = name.toString(16).match(/../g) ?? [];
  const size = content.reduce((sum, part) => sum + part.length, 0);
  const all = new Uint8Array(names.length + 8 + size);
  all.set(names.map((digits) => Number.parseInt(digits, 16)));
  const view = new DataView(all.buffer, names.length);
  // Eight bytes, of which the first says so: what stands where is then known beforehand.
  view.setUint32(0, 0x01000000 + Math.floor(size / 2 ** 32));
  view.setUint32(4, size % 2 ** 32);
  let at = names.length + 8;
  for (const part of content) {
    all.set(part, at);
    at += part.length;
  }
  return all;
}

/** A whole number, in eight bytes. */
export function whole(name: number, value: number): Uint8Array<ArrayBuffer> {
  const view = new DataView(new ArrayBuffer(8));
  view.setUint32(0, Math.floor(value / 2 ** 32));
  view.setUint32(4, value % 2 ** 32);
  return element(name, new Uint8Array(view.buffer));
}

export function float(name: number, value: number): Uint8Array<ArrayBuffer> {
  const view = new DataView(new ArrayBuffer(8));
  view.setFloat64(0, value);
  return element(name, new Uint8Array(view.buffer));
}

export function text(name: number, value: string): Uint8Array<ArrayBuffer> {
  return element(name, new TextEncoder().encode(value));
}
