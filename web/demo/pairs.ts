/** Pictures and the words to them: those that were made, with their seeds, and some that nobody made here, to begin with. */

import type { GenerateResult, Mode } from 'uvit-web';
import { button, byId, make, paint } from './elements.js';
import type { Drawing } from './gallery.js';
import { asPicture, MODES, type Picture } from './panes.js';

/** A picture with its words; either may be missing, where one was made alone. */
export interface Pair {
  picture: Picture | undefined;
  words: string;
  seed: number;
  mode: Mode;
  /** What makes it again. */
  address: URLSearchParams;
}

/** What is done with a pair, or with a half of it. */
export interface Takers {
  onPicture(picture: Picture): void;
  onExample(image: HTMLImageElement): void;
  onWords(words: string): void;
  onPair(pair: Pair): void;
}

/** How many are kept. */
const KEPT = 24;

const cards = byId('cards', HTMLUListElement);
let takers: Takers;

/** Fills the gallery with examples: addresses of pictures with their words. */
export function startPairs(examples: [string, string][], on: Takers): void {
  takers = on;
  cards.replaceChildren(
    ...examples.map(([src, words]) => {
      const image = make('img', { src, alt: words, width: '64', height: '64', loading: 'lazy' });
      const take = button('thumb', '', () => takers.onExample(image));
      take.ariaLabel = `Take the picture: ${words}`;
      take.append(image);
      const example = card(take, words, 'Example');
      example.classList.add('example');
      return example;
    }),
  );
}

/** What a generation has made, with what it was given. */
export function pairsOf(
  mode: Mode,
  { texts, seed, settings: { count } }: GenerateResult,
  drawings: Drawing[],
  given: { picture: Picture | undefined; words: string },
  addressOf: (seed: number) => URLSearchParams,
): Pair[] {
  return Array.from({ length: count }, (_, k) => {
    const drawing = drawings[k];
    return {
      picture: drawing ? asPicture(drawing) : mode === 'i2t' ? given.picture : undefined,
      words: texts[k] ?? (mode === 't2i' ? given.words : ''),
      seed: seed + k,
      mode,
      address: addressOf(seed + k),
    };
  });
}

/** Puts pairs first in the gallery. */
export function keepPairs(pairs: Pair[]): void {
  for (const pair of [...pairs].reverse()) {
    const { picture, words, seed, mode } = pair;
    const again = button('link', `Seed ${seed}`, () => takers.onPair(pair));
    again.title = 'Back to both, and to how they were made';
    let thumb: HTMLElement = make('span', { class: 'thumb none' });
    if (picture) {
      thumb = button('thumb', '', () => takers.onPicture(picture));
      thumb.ariaLabel = `Take the picture${words && `: ${words}`}, seed ${seed}`;
      const small = make('canvas');
      paint(small, picture.image);
      thumb.append(small);
    }
    cards.prepend(card(thumb, words, again, `, ${MODES[mode].done}`));
  }
  cards.scrollTo(0, 0);
  const made = cards.querySelectorAll('li:has(.link)');
  for (const old of [...made].slice(KEPT)) old.remove();
}

function card(thumb: HTMLElement, words: string, ...from: (string | HTMLElement)[]): HTMLElement {
  const say = words
    ? button('said', words, () => takers.onWords(words))
    : make('p', { class: 'said none' }, 'No words');
  say.title = words;
  return make('li', { class: 'card' }, thumb, make('div', {}, say, make('p', { class: 'hint' }, ...from)));
}
