/** Whether a device can bear a large model: what it weighs, beside what the browser tells of the machine. Loaded for large ones alone. */

import { capabilities, type DeviceChoice, UvitError } from 'uvit-web';
import { gigabytes, type Weight } from './need.js';

/** Beside the weights, there is what is computed. */
const ROOM = 1.25;
/** So much of a machine's memory a page can count on. */
const SHARE = 0.5;
/** WebAssembly's addresses end here, and so does what the CPU can hold. */
const ADDRESSES = 2 ** 32;
/** Where nothing is told of the machine, so many bytes are ventured. */
const UNASKED = 1.6e9;

/** How a model can be loaded on a device: all at once, part by part, or, as far as can be known, not at all. */
export type Verdict = 'whole' | 'parts' | UvitError;

/** Whether a device bears a stored form. */
export async function verdictOn({ dtype, all, largest }: Weight, device: DeviceChoice): Promise<Verdict> {
  const cpu = device === 'cpu' || (device === 'auto' && (await capabilities()).auto.device === 'cpu');
  // Not in TypeScript's library, nor in every browser.
  const { deviceMemory } = navigator as { deviceMemory?: number };
  const told = (deviceMemory ?? Number.POSITIVE_INFINITY) * 2 ** 30 * SHARE;
  const least = Math.min(told, cpu ? ADDRESSES : Number.POSITIVE_INFINITY);
  if (all * ROOM <= least && (deviceMemory || all < UNASKED)) return 'whole';
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
