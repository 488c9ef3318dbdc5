/** What a model weighs, before any of it is fetched: what its manifest says. */

import type { Dtype } from 'uvit-web';

/** What one stored form of a model weighs, in bytes. */
export interface Weight {
  dtype: Dtype;
  /** Of all that is loaded to begin with. */
  all: number;
  /** Of its largest network: where they are loaded one after the other, no more is there at a time. */
  largest: number;
}

/** The part of a manifest that this is about. */
interface Manifest {
  components?: Record<string, { variants?: { dtype: Dtype; bytes: number }[] }>;
  variants?: { dtype: Dtype; bytes: number }[];
}

/** Networks that come with the first request that needs them. */
const ON_DEMAND = ['encoder', 'image_encoder', 'caption_decoder'];
/** Below so many bytes, nobody needs to be asked. */
export const SMALL = 0.8e9;

/** What a model weighs in each of its stored forms, the usual one first; none where the manifest cannot be read: others will say why. */
export async function weightsOf(manifest: string, signal: AbortSignal): Promise<Weight[]> {
  try {
    const { components, variants }: Manifest = await (await fetch(manifest, { signal })).json();
    const parts = Object.entries(components ?? { denoiser: { ...(variants && { variants }) } });
    const forms = parts.find(([name]) => name === 'denoiser')?.[1].variants ?? [];
    return forms.map(({ dtype }) => {
      const bytes = parts
        .filter(([name]) => !ON_DEMAND.includes(name))
        .map(([, { variants = [] }]) => (variants.find((it) => it.dtype === dtype) ?? variants[0])?.bytes ?? 0);
      return { dtype, all: bytes.reduce((sum, it) => sum + it, 0), largest: Math.max(...bytes) };
    });
  } catch {
    return [];
  }
}

/** `1.4 GB`; a small one in megabytes. */
export function gigabytes(bytes: number): string {
  return bytes < 1e9 ? `${(bytes / 1e6).toFixed(1)} MB` : `${(bytes / 1e9).toFixed(1)} GB`;
}
