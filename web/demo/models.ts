/** The models that come with the page. One is loaded at a time, and its files are fetched only once it is picked. */

import { AVATARS, describeAvatar, HELD_OUT } from './avatars.js';

export interface Model {
  /** In the address, as `?model=avatars`, and its folder. */
  id: string;
  name: string;
  /** What it draws, and from what. */
  about: string;
  /** What a visitor who asks for nothing sees first, as in the address: the model at its best. */
  first: Record<string, string>;
  /** For models of pictures and words: prompts by short names, one that nobody has thought of, and pictures with what they show. */
  words?: { examples: [string, string][]; compose: () => string; pictures: [string, string][] };
}

/** By what they draw; the first of all is the one that the page starts with. */
export const GROUPS: Record<string, Model[]> = {
  Pictures: [
    {
      id: 'emoji',
      name: 'Emoji',
      about: 'Ten kinds of emoji in three styles.',
      first: { label: 'animal (noto)', seed: '4' },
    },
    {
      id: 'avatars',
      name: 'Avatars and words',
      about: 'Pixel-art people and what they look like: hair, skin, mood, glasses, hats, shirts and backgrounds.',
      first: { prompt: AVATARS[0]?.[1] ?? '', seed: '7' },
      words: { examples: AVATARS, compose: describeAvatar, pictures: HELD_OUT },
    },
  ],
};

export const MODELS = Object.values(GROUPS).flat();

/** Its description, beside which its files lie. */
export function manifestOf({ id }: Model): string {
  return `models/${id}/manifest.json`;
}
