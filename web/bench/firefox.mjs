#!/usr/bin/env node
/**
 * Firefox beside the tool on one adapter: guided steps of the demo's model on WebGPU, in turn, with the kernels that are
 * chosen without measuring. Prints a row a round; the ratio is Firefox's time over the tool's, its median is the last row.
 *
 *   node web/bench/firefox.mjs --tool target/release/uvit [--compute f32|f16] [--steps N] [--rounds N]
 *
 * The package is web/dist (scripts/build-web).
 */

import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { launchFirefox, withPackage } from '../test/browser.mjs';
import { startServer } from '../test/server.mjs';
import { median } from './statistics.mjs';

const MODEL = 'models/emoji/manifest.json';
/** Of each side in a round; the median counts. */
const PICTURES = 3;

const { values: wanted } = parseArgs({
  options: {
    tool: { type: 'string' },
    compute: { type: 'string', default: 'f32' },
    steps: { type: 'string', default: '25' },
    rounds: { type: 'string', default: '7' },
  },
});
if (!wanted.tool) {
  console.error('firefox: --tool FILE is needed, the tool `uvit`: cargo build --release makes target/release/uvit');
  process.exit(2);
}

const folder = mkdtempSync(join(tmpdir(), 'uvit-firefox-'));
const server = await startServer();
const browser = await launchFirefox({ webgpu: true });
try {
  const ratios = [];
  const steps = Number(wanted.steps);
  console.log('| Firefox, ms a step | the tool, ms a step | ratio |\n| --- | --- | --- |');
  for (let round = 0; round < Number(wanted.rounds); round++) {
    const firefox = await inFirefox(steps, wanted.compute);
    const native = inTool(steps, wanted.compute);
    ratios.push(firefox / native);
    console.log(`| ${firefox.toFixed(1)} | ${native.toFixed(1)} | ${ratios.at(-1).toFixed(2)} |`);
  }
  console.log(`| | median | ${median(ratios).toFixed(2)} |`);
} finally {
  await browser.close();
  await server.close();
  rmSync(folder, { recursive: true });
}

async function inFirefox(steps, compute) {
  const page = await browser.newPage();
  await page.goto(`${server.url}/blank.html`);
  const measured = await withPackage(
    page,
    async (uvit, [model, compute, steps, pictures]) => {
      const pipeline = await uvit.load(model, { device: 'webgpu', compute, tune: 'off' });
      const settings = { label: 6, seed: 11, steps };
      // What comes first in a browser takes longer.
      await pipeline.generate({ ...settings, steps: 2 });
      const all = [];
      while (all.length < pictures) all.push((await pipeline.generate(settings)).timings.totalMs / steps);
      pipeline.dispose();
      return all;
    },
    [`/${MODEL}`, compute, steps, PICTURES],
  );
  await page.close();
  return median(measured);
}

function inTool(steps, compute) {
  const model = fileURLToPath(new URL(`../${MODEL}`, import.meta.url));
  const out = join(folder, 'picture.png');
  const how = ['--device', 'gpu', '--compute', compute, '--tune', 'off', '--label', '6', '--seed', '11', '--out', out];
  const measured = Array.from({ length: PICTURES }, () => {
    const printed = execFileSync(wanted.tool, ['generate', model, '--steps', String(steps), ...how], {
      encoding: 'utf8',
      stdio: ['ignore', 'pipe', 'ignore'],
      // Nothing that an earlier run has chosen.
      env: { ...process.env, XDG_CACHE_HOME: folder },
    });
    return Number(/steps of ([0-9.]+) ms/.exec(printed)[1]);
  });
  return median(measured);
}
