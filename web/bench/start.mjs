/**
 * From opening a page to its first picture: the embedded emoji model, 25 guided steps, a new browser each time, files
 * from localhost and never cached. Once with a bare page, which tells the parts, once with the built demo page.
 */

import { loadavg } from 'node:os';
import { launch, openPage } from './browser.mjs';
import { median, short, spread } from './statistics.mjs';

/** Each ends where the next one begins. */
const PARTS = ['page', 'runtime', 'manifest', 'weights', 'compile', 'sampling', 'end'];

export const PAGES = { bare: barePage, demo: demoPage };

/** The row of one of the pages. */
export async function measureStart(name, { servers, rounds, flags, wanted, versions }) {
  const runs = [];
  let chromium;
  for (let round = 0; round < rounds; round++) {
    const browser = await launch(flags);
    try {
      runs.push(await PAGES[name](browser, servers.plain, wanted));
      chromium = browser.version();
    } finally {
      await browser.close();
    }
  }
  const totals = runs.map((run) => run.ms);
  const parts = {};
  for (const part of Object.keys(runs[0].parts)) parts[part] = short(median(runs.map((run) => run.parts[part])));
  const { device, dtype, compute } = runs[0];
  return {
    kind: 'start',
    page: name,
    model: 'emoji',
    device,
    dtype,
    compute,
    ...(wanted.threads !== undefined && { threads: wanted.threads }),
    ms: short(median(totals)),
    spread: spread(totals).map(short),
    parts,
    rounds,
    chromium,
    version: versions['uvit-web'],
    load: short(loadavg()[0]),
  };
}

async function barePage(browser, origin, wanted) {
  const page = await openPage(browser, `${origin}/bench/pages/start.html?${query(wanted)}`);
  const { marks, ...facts } = await page.evaluate('bench.done');
  const parts = {};
  PARTS.slice(0, -1).forEach((part, i) => {
    // A phase that did not report, such as compile on some devices, took no time of its own.
    const next = PARTS.slice(i + 1).find((later) => marks[later] !== undefined);
    if (marks[part] !== undefined) parts[part] = marks[next] - marks[part];
  });
  return { ms: marks.end, parts, ...facts };
}

/** The demo page with a visitor who presses Generate as soon as it can be pressed. */
async function demoPage(browser, origin, wanted) {
  const page = await browser.newPage();
  await page.addInitScript(pressGenerate);
  await page.goto(`${origin}/demo/index.html?label=heart&seed=42&steps=25&${query(wanted)}`);
  await page.waitForFunction('window.visit.picture || window.visit.failed', undefined, { timeout: 300_000 });
  const { ready, picture, failed } = await page.evaluate('window.visit');
  if (failed) throw new Error(`the demo page failed: ${failed}`);
  const device = await page.getAttribute('#facts', 'data-device');
  return { ms: picture, parts: { ready, sampling: picture - ready }, device };
}

/** Runs in the page, before anything else does. */
function pressGenerate() {
  const visit = {};
  window.visit = visit;
  new MutationObserver(() => {
    const { state } = document.documentElement.dataset;
    if (state === 'failed') visit.failed = document.getElementById('error').innerText;
    if (state !== 'ready') return;
    if (visit.ready !== undefined) {
      visit.picture ??= performance.now();
      return;
    }
    visit.ready = performance.now();
    document.getElementById('generate').click();
  }).observe(document, { attributes: true, attributeFilter: ['data-state'], subtree: true });
}

function query(wanted) {
  const asked = new URLSearchParams({ device: wanted.device ?? 'auto' });
  if (wanted.compute.length > 0) asked.set('compute', wanted.compute[0]);
  if (wanted.threads !== undefined) asked.set('threads', String(wanted.threads));
  return asked;
}
