/** A browser that tells late when the GPU has done its work (Firefox looks every 100 ms) draws about as fast as any other. */

import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { launch, openPage, WEBGPU, withPackage } from './browser.mjs';
import { startServer } from './server.mjs';

const MODEL = '/models/emoji/manifest.json';
/** Pictures of each kind, in turns: the machine may have other things to do. */
const RUNS = 3;

/** What the worker runs first: the end of submitted work is told every 100 ms only. */
function tellLate() {
  const done = GPUQueue.prototype.onSubmittedWorkDone;
  GPUQueue.prototype.onSubmittedWorkDone = async function () {
    await done.call(this);
    await new Promise((resolve) => setTimeout(resolve, 100 - (performance.now() % 100)));
  };
}

/** What the worker runs, too: submissions of nothing are told to the page. */
function tellKnocks() {
  const { submit } = GPUQueue.prototype;
  const knocks = new BroadcastChannel('knocks');
  GPUQueue.prototype.submit = function (commands) {
    if (commands.length === 0) knocks.postMessage('');
    return submit.call(this, commands);
  };
}

let server;
let browser;
before(async () => {
  server = await startServer();
  browser = await launch(WEBGPU);
});
after(async () => {
  await browser.close();
  await server.close();
});

/** A page with the model loaded as `globalThis.pipeline`, in a browser that tells late or at once. */
async function openWith(flaw) {
  server.spoil = (path, bytes) => (path === '/package/worker.js' ? Buffer.from(`${flaw}\n${bytes}`) : bytes);
  const page = await openPage(browser, `${server.url}/blank.html`);
  await withPackage(
    page,
    async (uvit, model) => {
      globalThis.pipeline = await uvit.load(model, { device: 'webgpu', tune: 'off' });
    },
    MODEL,
  );
  server.spoil = undefined;
  return page;
}

/** Milliseconds of a guided picture. */
const draw = (page) =>
  page.evaluate(async () => {
    const { timings } = await globalThis.pipeline.generate({ label: 6, steps: 5, seed: 1 });
    return timings.totalMs;
  });

const median = (times) => times.toSorted((a, b) => a - b)[times.length >> 1];

test('a guided picture takes at most half as long again where the end of work is told every 100 ms', async (t) => {
  const pages = [await openWith(''), await openWith(`(${tellLate})();`)];
  const times = [[], []];
  for (let run = 0; run < RUNS; run++) {
    for (const [i, page] of pages.entries()) times[i].push(await draw(page));
  }
  const [atOnce, late] = times.map(median);
  t.diagnostic(`${Math.round(atOnce)} ms told at once, ${Math.round(late)} ms told every 100 ms`);
  assert.ok(late <= 1.5 * atOnce, `${late} ms instead of ${atOnce} ms: ${JSON.stringify(times)}`);
});

test('a browser that tells late is knocked at while we wait: Firefox looks whenever something is submitted', async () => {
  const page = await openWith(`(${tellLate})();(${tellKnocks})();`);
  await page.evaluate(() => {
    globalThis.knocks = 0;
    globalThis.channel = new BroadcastChannel('knocks');
    globalThis.channel.onmessage = () => globalThis.knocks++;
  });
  await draw(page);
  const knocks = await page.evaluate(() => globalThis.knocks);
  await page.close();
  assert.ok(knocks > 0, 'nothing was submitted while the end of the work was not told');
});

test('an abort is heard soon where the end of work is told late', async () => {
  const page = await openWith(`(${tellLate})();`);
  const waited = await page.evaluate(async () => {
    const stop = new AbortController();
    let asked = 0;
    const onStep = ({ step }) => {
      if (step !== 3) return;
      asked = performance.now();
      stop.abort();
    };
    const { pipeline } = globalThis;
    const error = await pipeline.generate({ label: 6, steps: 300, signal: stop.signal, onStep }).catch((e) => e);
    return error.code === 'ABORTED' ? performance.now() - asked : error.message;
  });
  // One look of the browser, and slack for a machine whose cores are busy with other things.
  assert.ok(waited < 600, `the abort took ${waited} ms`);
});
