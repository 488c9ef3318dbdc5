/** Whether a device can bear a model, before any of it is fetched: what its manifest says beside what the browser tells of the machine. */

import { capabilities, type DeviceChoice, type Dtype, UvitError } from 'uvit-web';

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
/** Beside the weights, there is what is computed. */
const ROOM = 1.25;
/** So much of a machine's memory a page can count on. */
const SHARE = 0.5;
/** WebAssembly's addresses end here, and so does what the CPU can hold. */
const ADDRESSES = 2 ** 32;
/** Below that, nobody needs to be asked. */
const SMALL = 1e9;

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

/** How a model can be loaded on a device: all at once, part by part, or, as far as can be known, not at all. */
export type Verdict = 'whole' | 'parts' | UvitError;

/** Whether a device bears a stored form. */
export async function verdictOn({ dtype, all, largest }: Weight, device: DeviceChoice): Promise<Verdict> {
  if (all * ROOM < SMALL) return 'whole';
  const cpu = device === 'cpu' || (device === 'auto' && (await capabilities()).auto.device === 'cpu');
  // Not in TypeScript's library, nor in every browser.
  const { deviceMemory } = navigator as { deviceMemory?: number };
  const told = (deviceMemory ?? Number.POSITIVE_INFINITY) * 2 ** 30 * SHARE;
  const least = Math.min(told, cpu ? ADDRESSES : Number.POSITIVE_INFINITY);
  if (all * ROOM <= least && (deviceMemory || all * ROOM < 2 * SMALL)) return 'whole';
  const alone = largest < all ? ` (the largest network alone ${gigabytes(largest)})` : '';
  const need = `the model’s weights are ${gigabytes(all)} in ${dtype}${alone}`;
  if (!deviceMemory && all * ROOM <= least) {
    const cause = `${need}, and this browser does not say how much memory there is`;
    return refusal(cause, `Go on if this machine has ${gigabytes((all * ROOM) / SHARE)} or more`);
  }
  if (largest * ROOM <= least) return 'parts';
  const has =
    told <= least
      ? `of the ${deviceMemory} GB that this browser tells of, a page can count on half`
      : `on the CPU, a page can hold ${gigabytes(ADDRESSES)}`;
  return refusal(
    `${need}. With room to compute it takes about ${gigabytes(largest * ROOM)}, and ${has}`,
    'Nothing was fetched',
  );
}

function refusal(cause: string, remedy: string): UvitError {
  return new UvitError('OUT_OF_MEMORY', cause, remedy);
}

/** `1.4 GB`; a small one in megabytes. */
export function gigabytes(bytes: number): string {
  return bytes < 1e9 ? `${(bytes / 1e6).toFixed(1)} MB` : `${(bytes / 1e9).toFixed(1)} GB`;
}
