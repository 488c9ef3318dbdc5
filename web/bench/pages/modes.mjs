/** Loads the embedded model of pictures and words, and calls it in each of its modes when it is told to. */

import { load } from '/package/index.js';

const query = new URLSearchParams(location.search);
const PROMPT = 'a smiling person with curly green hair, light skin, sunglasses and a yellow shirt on a blue background';

const pipeline = await load('/embedded/avatars/manifest.json', {
  device: query.get('device') ?? 'auto',
  ...(query.has('compute') && { compute: query.get('compute') }),
  ...(query.has('threads') && { threads: Number(query.get('threads')) }),
});
const { images } = await pipeline.generate({ prompt: PROMPT, seed: 42 });
const given = { t2i: { prompt: PROMPT }, t2i2t: { prompt: PROMPT }, i2t: {}, i2t2i: {} };

/** One call; where the time went, and the words that came out. */
async function call(mode, beams) {
  const image = mode.startsWith('i2t') ? { image: images[0].imageData } : {};
  const began = performance.now();
  const { texts, timings, compute } = await pipeline.generate({ mode, beams, seed: 42, ...given[mode], ...image });
  const ms = performance.now() - began;
  const sampling = timings.stepMs.reduce((sum, step) => sum + step, 0);
  const { textMs: reading, encodingMs: encoding, decodeMs: decoding, captionMs: captioning } = timings;
  return { ms, parts: { reading, encoding, sampling, decoding, captioning }, texts, compute };
}

window.bench = { modes: pipeline.info.modes, device: pipeline.info.device, call };
