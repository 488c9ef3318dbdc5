/** The models that come with the page, and any other by its address. One is loaded at a time, and is fetched only once it is picked. */

import { AVATARS, describeAvatar, HELD_OUT } from './avatars.js';

export interface Model {
  /** In the address, as `?model=avatars`, and its folder; or where its manifest lies. */
  id: string;
  name: string;
  /** What it draws, and from what. */
  about: string;
  /** What a visitor who asks for nothing sees first, as in the address: the model at its best. */
  first: Record<string, string>;
  /** For models of pictures and words: prompts by short names, one that nobody has thought of, and pictures with what they show. */
  words?: { examples: [string, string][]; compose: () => string; pictures: [string, string][] };
  /** For models of clips: what is seen of each label. */
  clips?: Record<string, string>;
}

/** By what they draw; the first of all is the one that the page starts with. */
export const GROUPS: Record<string, Model[]> = {
  'Pictures of a kind': [
    {
      id: 'emoji',
      name: 'Emoji',
      about: 'Ten kinds of emoji in three styles.',
      first: { label: 'animal (noto)', seed: '4' },
    },
  ],
  'Pictures and words': [
    {
      id: 'avatars',
      name: 'Avatars and words',
      about: 'Pixel-art people and what they look like: hair, skin, mood, glasses, hats, shirts and backgrounds.',
      first: { prompt: AVATARS[0]?.[1] ?? '', seed: '7' },
      words: { examples: AVATARS, compose: describeAvatar, pictures: HELD_OUT },
    },
  ],
  Clips: [
    {
      id: 'clips',
      name: 'Little clips',
      about: 'Pixel-art people in eight motions: 16 frames, or longer.',
      first: { label: 'jump', seed: '5' },
      clips: {
        blink: 'the eyes close twice',
        talk: 'the mouth opens and closes',
        nod: 'the head goes down and up',
        shake: 'the head goes right and left',
        jump: 'crouches, jumps and lands',
        walk: 'leaves at one side, comes back at the other',
        hat: 'a hat falls onto the head',
        light: 'the background changes colour and changes back',
      },
    },
  ],
};

export const MODELS = Object.values(GROUPS).flat();

/** Those that were asked for by where they lie. */
const ELSEWHERE = new Map<string, Model>();

/** The model of a name in the address; of none, the first. Undefined: there is no such model. */
export function modelOf(id: string | null): Model | undefined {
  if (id === null) return MODELS[0];
  if (!/[/.]/.test(id)) return MODELS.find((model) => model.id === id);
  // The folder is called as the model is, mostly.
  const name = /([^/]+)\/?(?:manifest\.json)?(?:[?#].*)?$/.exec(id)?.[1] ?? id;
  const model = ELSEWHERE.get(id) ?? { id, name, about: `From ${id}`, first: {} };
  ELSEWHERE.set(id, model);
  return model;
}

/** Its description, beside which its files lie. */
export function manifestOf({ id }: Model): string {
  if (MODELS.some((model) => model.id === id)) return `models/${id}/manifest.json`;
  return /\.json(?:[?#].*)?$/.test(id) ? id : `${id.replace(/\/$/, '')}/manifest.json`;
}
