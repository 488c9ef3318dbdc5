/** What src/types.ts and README.md promise is what is sent: every field, nothing else, and of the types that they say. */

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { after, before, test } from 'node:test';
import { launch, openPage, WEBGPU, withPackage } from './browser.mjs';
import { fieldsOf, mismatches } from './fields.mjs';
import { goldenModel, sd3Model } from './golden-model.mjs';
import { startServer } from './server.mjs';

const MODEL = '/models/emoji/manifest.json';
const WORDS = '/models/avatars/manifest.json';
/** Clips of 12 frames of 16 x 16. */
const FILES = {
  ...goldenModel('small', 'uvit_video_t2_386_tokens', { labels: [{ index: 0, name: 'still' }], null_class: 3 }),
  ...sd3Model('sd3'),
};
const TWO_READERS = '/sd3/manifest.json';
const CLIPS = '/small/manifest.json';
const readme = readFileSync(new URL('../README.md', import.meta.url), 'utf8');

let server;
before(async () => {
  server = await startServer(undefined, { files: FILES });
});
after(() => server.close());

/** All that the package hands out on a device. */
async function collect(args, device) {
  const browser = await launch(args);
  try {
    const page = await openPage(browser, `${server.url}/blank.html`);
    return await withPackage(
      page,
      async (uvit, [model, words, moving, twoReaders, device]) => {
        // Objects of the platform cannot leave the page as what they are.
        const plain = (value) =>
          JSON.parse(
            JSON.stringify(value, (_, it) =>
              it instanceof ImageData || ArrayBuffer.isView(it) ? it.constructor.name : it,
            ),
          );
        const found = { LoadProgress: [], Step: [] };
        const pipeline = await uvit.load(model, {
          device,
          tune: 'again',
          onProgress: (progress) => found.LoadProgress.push(plain(progress)),
        });
        const onStep = (step) => found.Step.push(plain(step));
        const rich = { label: 0, guidanceInterval: [0, 0.5], cache: true, preview: true, floatPixels: true };
        const results = [
          await pipeline.generate({ steps: 1, onStep }),
          await pipeline.generate({ ...rich, steps: 2, onStep }),
          await pipeline.generate({ label: 0, steps: 2, initImage: new ImageData(8, 8), mask: new ImageData(8, 8) }),
        ];
        const any = await uvit.load(words, { device, tune: 'off' });
        results.push(await any.generate({ mode: 'joint', steps: 1, latents: true, preview: true, onStep }));
        const clips = await uvit.load(moving, { device, tune: 'off' });
        results.push(await clips.generate({ label: 0, steps: 1, frames: 14, preview: true, onStep }));
        const two = await uvit.load(twoReaders, { device, tune: 'off' });
        results.push(await two.generate({ prompt: 'a red cube', prompt2: 'a toy', steps: 1 }));
        return {
          ...found,
          Capabilities: [await uvit.capabilities()],
          PipelineInfo: [pipeline, any, clips, two].map(({ info }) => plain(info)),
          GenerateResult: results.map(plain),
          Profile: [await pipeline.profile()].filter((profile) => profile !== null),
        };
      },
      [MODEL, WORDS, CLIPS, TWO_READERS, device],
    );
  } finally {
    await browser.close();
  }
}

test('what is sent has the fields that types.ts promises, and no others; each optional one comes at times', async () => {
  const seen = new Set();
  const wrong = new Set();
  for (const [args, device] of [
    [WEBGPU, 'webgpu'],
    [[], 'cpu'],
  ]) {
    for (const [type, values] of Object.entries(await collect(args, device))) {
      for (const value of values) for (const it of mismatches(value, type, type, seen)) wrong.add(it);
    }
  }
  const never = [...seen].filter((it) => it.startsWith('absent ') && !seen.has(it.slice('absent '.length)));
  assert.deepEqual([...wrong], []);
  assert.deepEqual(never, [], 'promised as optional, and never sent');
});

test('README.md lists the options of load() and generate(), each under its own heading', () => {
  for (const [heading, type] of [
    ['## `load(manifestUrl, options)`', 'LoadOptions'],
    ['## `pipeline.generate(options)`', 'GenerateOptions'],
  ]) {
    const from = readme.indexOf(heading);
    assert.ok(from >= 0, heading);
    const section = readme.slice(from, readme.indexOf('\n## ', from + 1));
    const listed = [...section.matchAll(/^\| `(\w+)` \|/gm)].map(([, name]) => name);
    assert.deepEqual(listed.toSorted(), Object.keys(fieldsOf(type)).toSorted());
  }
});
