/** What the model `avatars` reads: the sentences that it learned from. Other words are noise to it. */

const HAIR = ['black', 'brown', 'blond', 'red', 'blue', 'green', 'pink'];
const HATS = ['red', 'blue', 'green', 'black'];
const SHIRTS = ['red', 'blue', 'green', 'yellow', 'purple', 'black'];
const BACKGROUNDS = ['red', 'orange', 'yellow', 'green', 'blue', 'purple', 'pink', 'gray'];

/** Descriptions to begin with, each by a short name. */
export const AVATARS: [string, string][] = [
  [
    'Pink pigtails',
    'a smiling person with pink pigtails, light skin, glasses and a striped red shirt on a yellow background',
  ],
  [
    'Red cap',
    'on a green background, a smiling person with dark skin, short black hair and a red cap wears a yellow shirt',
  ],
  [
    'Top hat',
    'a person in a red shirt, laughing, with brown skin and a bald head, wearing a black top hat and sunglasses, orange background',
  ],
  [
    'Green spikes',
    'a laughing person with spiky green hair, light skin and a striped black shirt on a pink background',
  ],
  ['Curls', 'on a purple background, a smiling person with dark skin, curly brown hair and glasses wears a blue shirt'],
  ['So sad', 'a person in a black shirt, sad, with light skin and long blue hair, gray background'],
];

/**
 * Pictures that it never saw, with what they show; each has something that it never saw together. They lie in `public/`: drawn after
 * DiceBear's "Pixel Art", CC0 1.0, as the model's licences say.
 */
export const HELD_OUT: [string, string][] = [
  [
    'pictures/0.png',
    'a smiling person with curly green hair, light skin, sunglasses and a yellow shirt on a blue background',
  ],
  ['pictures/1.png', 'on a green background, a laughing person with brown skin and long red hair wears a blue shirt'],
  [
    'pictures/2.png',
    'a person in a yellow shirt, sad, with dark skin and short pink hair, wearing a green top hat, blue background',
  ],
  [
    'pictures/3.png',
    'a smiling person with long black hair, dark skin, a blue cap, sunglasses and a yellow shirt on a green background',
  ],
  [
    'pictures/6.png',
    'a person in a purple shirt, laughing, with dark skin and red pigtails, wearing glasses, yellow background',
  ],
  ['pictures/7.png', 'a sad person with a bald head, light skin and a striped green shirt on a green background'],
];

/** A description of an avatar that nobody may have asked for. */
export function describeAvatar(): string {
  const style = any(['bald', 'short', 'long', 'curly', 'spiky', 'pigtails']);
  const colour = any(HAIR);
  const others: Record<string, string> = { bald: 'a bald head', pigtails: `${colour} pigtails` };
  const hair = others[style] ?? `${style} ${colour} hair`;
  const skin = `${any(['light', 'brown', 'dark'])} skin`;
  const mouth = any(['smiling', 'sad', 'laughing']);
  // Hats sit on plain hair only.
  const hat = ['bald', 'short', 'long'].includes(style) && any(['', `a ${any(HATS)} ${any(['cap', 'top hat'])}`]);
  const worn = [hat, any(['', '', 'glasses', 'sunglasses'])].filter((thing): thing is string => !!thing);
  const shirt = `a ${any(['', '', 'striped '])}${any(SHIRTS)} shirt`;
  const background = `${any(BACKGROUNDS)} background`;
  const ground = `${/^o/.test(background) ? 'an' : 'a'} ${background}`;
  return any([
    `a ${mouth} person with ${list([hair, skin, ...worn, shirt])} on ${ground}`,
    `on ${ground}, a ${mouth} person with ${list([skin, hair, ...worn])} wears ${shirt}`,
    `a person in ${shirt}, ${mouth}, with ${skin} and ${hair}, ${worn.length > 0 ? `wearing ${list(worn)}, ` : ''}${background}`,
  ]);
}

function any(values: string[]): string {
  return values[Math.floor(Math.random() * values.length)] ?? '';
}

/** Such as `a, b and c`. */
function list(items: string[]): string {
  return items.join(', ').replace(/, ([^,]*)$/, ' and $1');
}
