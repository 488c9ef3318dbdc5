/** Loads the embedded model and draws one picture, and notes when each part began, in milliseconds since navigation. */

import { load } from '/package/index.js';

const query = new URLSearchParams(location.search);
const marks = { page: 0, runtime: performance.now() };

async function draw() {
  const pipeline = await load('/embedded/emoji/manifest.json', {
    device: query.get('device') ?? 'auto',
    ...(query.has('compute') && { compute: query.get('compute') }),
    ...(query.has('threads') && { threads: Number(query.get('threads')) }),
    onProgress: ({ phase }) => {
      marks[phase] ??= performance.now();
    },
  });
  marks.sampling = performance.now();
  const { images } = await pipeline.generate({ label: 'heart (noto)', seed: 42, steps: 25 });
  document.querySelector('canvas').getContext('2d').putImageData(images[0].imageData, 0, 0);
  await new Promise(requestAnimationFrame);
  marks.end = performance.now();
  const { device, dtype, compute } = pipeline.info;
  return { marks, device, dtype, compute };
}

window.bench = { done: draw() };
