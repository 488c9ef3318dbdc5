/**
 * Runs one case: two pages in one browser, checked against PyTorch, warmed up, then called in turn. A round is a few
 * pairs of calls; in every other pair the peer is first (A B, B A, ...), so that whatever slows the machine
 * down slows both. The ratio of a round compares the medians of its calls.
 */

import { loadavg } from 'node:os';
import { cpuMs, launch, openPage } from './browser.mjs';
import { STEPS, sideName } from './cases.mjs';
import { peerFile } from './models.mjs';
import { mean, median, short, spread } from './statistics.mjs';

/** Browsers compile wasm again, better, while it runs. Slow models get fewer calls: one takes long enough. */
const WARM_UP = { pairs: 6, ms: 4000 };
/** A round has as many pairs as the faster side needs to run this long, but neither more nor longer than this. */
const ROUND = { fasterMs: 100, pairs: 10, ms: 1500 };
/** Above these relative errors a side computes something else, and its time means nothing. */
const WRONG = { f32: 0.02, quantised: 0.25 };

/** The row of a case. Throws when a side cannot run or is wrong, with its name. */
export async function compare(one, { servers, rounds, flags, versions }) {
  const browser = await launch(flags);
  try {
    const url = `${one.isolated ? servers.isolated : servers.plain}/bench/pages/case.html`;
    const sides = [];
    for (const settings of [one.ours, one.peer]) sides.push(await openSide(browser, url, one, settings));
    const pairs = await warmUp(sides, one.kind);
    const measured = [];
    for (let round = 0; round < rounds; round++) measured.push(await measureRound(sides, one.kind, pairs));
    const adapter = one.device === 'webgpu' ? await sides[0].page.evaluate('bench.adapterName()') : undefined;
    return rowOf(one, sides, measured, {
      pairs,
      adapter,
      chromium: browser.version(),
      version: versions['uvit-web'],
      peerVersion: versions[one.peer.runtime],
    });
  } finally {
    await browser.close();
  }
}

/** A page with a side's model loaded, checked against PyTorch. */
async function openSide(browser, url, one, settings) {
  const name = sideName(settings);
  const page = await openPage(browser, url);
  const { model, component, batch } = one;
  const asked = { ...settings, model, component, batch, file: peerFile(one), steps: STEPS };
  const call = async (body, argument) => {
    try {
      return await page.evaluate(body, argument);
    } catch (error) {
      throw new Error(`${name}: ${firstLine(error)}`);
    }
  };
  const facts = await call((side) => window.bench.load(side), asked);
  const limit = settings.dtype === 'f32' ? WRONG.f32 : WRONG.quantised;
  // Not `>`: the error may be NaN.
  if (!(facts.maxRelErr <= limit)) {
    throw new Error(`${name}: wrong output, its largest relative error is ${short(facts.maxRelErr)}; not timed`);
  }
  return { page, facts, time: (kind) => call((what) => window.bench.time(what), kind) };
}

/** Calls both until they have settled; returns how many pairs make a round. */
async function warmUp(sides, kind) {
  const began = performance.now();
  let times = [];
  for (let pair = 0; pair < WARM_UP.pairs && (pair === 0 || performance.now() - began < WARM_UP.ms); pair++) {
    times = [];
    for (const side of sides) times.push(await side.time(kind));
  }
  const wanted = Math.ceil(ROUND.fasterMs / Math.min(...times));
  const allowed = Math.floor(ROUND.ms / (times[0] + times[1]));
  return Math.max(1, Math.min(wanted, allowed, ROUND.pairs));
}

/** How the calls of one round alternate goes on from round to round. */
let peerFirst = true;

/** For each side the times of a round's calls, by the clock and of the CPU. */
async function measureRound(sides, kind, pairs) {
  const times = sides.map(() => ({ ms: [], cpu: [] }));
  for (let pair = 0; pair < pairs; pair++) {
    peerFirst = !peerFirst;
    for (const index of peerFirst ? [1, 0] : [0, 1]) {
      const before = cpuMs();
      times[index].ms.push(await sides[index].time(kind));
      if (before !== undefined) times[index].cpu.push(cpuMs() - before);
    }
  }
  return times;
}

function rowOf(one, [ours, peer], measured, facts) {
  const ratios = measured.map(([mine, other]) => median(other.ms) / median(mine.ms));
  const all = (index, what) => measured.flatMap((round) => round[index][what]);
  const cpu = [0, 1].map((index) => {
    const values = all(index, 'cpu');
    return values.length > 0 ? mean(values) : undefined;
  });
  return {
    kind: one.kind,
    model: one.model,
    batch: one.batch,
    device: one.device,
    dtype: one.ours.dtype,
    compute: one.ours.compute === 'auto' ? `auto (${ours.facts.compute})` : one.ours.compute,
    wasm: ours.facts.wasm,
    threads: one.ours.threads,
    peer: one.peer.runtime,
    peerBackend: peer.facts.backend ?? one.peer.backend,
    peerDtype: one.peer.dtype,
    ...(one.peer.compute && { peerCompute: one.peer.compute }),
    peerThreads: one.peer.threads,
    ms: short(median(all(0, 'ms'))),
    peerMs: short(median(all(1, 'ms'))),
    ratio: short(median(ratios)),
    spread: spread(ratios).map(short),
    maxRelErr: short(ours.facts.maxRelErr),
    peerMaxRelErr: short(peer.facts.maxRelErr),
    cpuMs: short(cpu[0]),
    peerCpuMs: short(cpu[1]),
    loadMs: short(ours.facts.loadMs),
    peerLoadMs: short(peer.facts.loadMs),
    firstMs: short(ours.facts.firstMs),
    peerFirstMs: short(peer.facts.firstMs),
    isolated: one.isolated,
    rounds: measured.length,
    ...facts,
    ratios: ratios.map(short),
    load: short(loadavg()[0]),
  };
}

function firstLine(error) {
  return error.message.replace(/^page\.evaluate: (Error: )?/, '').split('\n')[0];
}
