/**
 * Words to a picture, a picture to words, and all else that the embedded avatars do: whole calls with the model's own
 * settings (50 steps, guided where the mode is), one browser, each mode in turn, with the parts of a call.
 */

import { loadavg } from 'node:os';
import { launch, openPage } from './browser.mjs';
import { median, short, spread } from './statistics.mjs';

/** The rows, one for each mode; those that give words with the published search and greedily. */
export async function measureModes({ servers, rounds, flags, wanted, versions }) {
  const browser = await launch(flags);
  try {
    const asked = new URLSearchParams({ device: wanted.device ?? 'cpu' });
    if (wanted.compute.length > 0) asked.set('compute', wanted.compute[0]);
    if (wanted.threads !== undefined) asked.set('threads', String(wanted.threads));
    const origin = (wanted.threads ?? 1) > 1 ? servers.isolated : servers.plain;
    const page = await openPage(browser, `${origin}/bench/pages/modes.html?${asked}`);
    const { modes, device } = await page.evaluate('({ modes: bench.modes, device: bench.device })');
    const cases = modes.flatMap((mode) => (mode === 'i2t' ? [{ mode }, { mode, beams: 1 }] : [{ mode }]));
    const calls = cases.map(() => []);
    // The first call of a mode compiles and fetches; it is not counted.
    for (let round = 0; round <= rounds; round++) {
      for (const [i, { mode, beams }] of cases.entries()) {
        const call = await page.evaluate(([mode, beams]) => window.bench.call(mode, beams), [mode, beams]);
        if (round > 0) calls[i].push(call);
      }
    }
    return cases.map(({ mode, beams }, i) => {
      const parts = {};
      for (const part of Object.keys(calls[i][0].parts)) {
        parts[part] = short(median(calls[i].map((call) => call.parts[part])));
      }
      const totals = calls[i].map((call) => call.ms);
      return {
        kind: 'modes',
        model: 'avatars',
        mode,
        ...(beams && { beams }),
        device,
        compute: calls[i][0].compute,
        ms: short(median(totals)),
        spread: spread(totals).map(short),
        parts,
        words: calls[i][0].texts[0],
        rounds,
        chromium: browser.version(),
        version: versions['uvit-web'],
        load: short(loadavg()[0]),
      };
    });
  } finally {
    await browser.close();
  }
}
