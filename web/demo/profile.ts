/** For developers: which kernels take the GPU's time, measured at the press of a button. */

import type { Pipeline, Profile, Tuning } from 'uvit-web';
import { button, make } from './elements.js';

/** Offers to measure a GPU in a panel; `fail` tells the visitor what went wrong. Loaded where there is one, once a model is ready. */
export function fillProfile(panel: HTMLElement, pipeline: Pipeline, fail: (thrown: unknown) => void): void {
  panel.hidden = false;
  const result = make('div', { class: 'profile-result', 'aria-live': 'polite' });
  const start = button('quiet', 'Measure every kernel', async () => {
    start.disabled = true;
    start.textContent = 'Measuring';
    try {
      const profile = await pipeline.profile();
      if (profile) result.replaceChildren(...shown(profile));
    } catch (thrown) {
      fail(thrown);
    }
    start.disabled = false;
    start.textContent = 'Measure again';
  });
  panel.replaceChildren(make('summary', {}, 'GPU kernels'), tunedText(pipeline), start, result);
}

/** Which tiles run, and how they were chosen. */
function tunedText({ info: { tuned } }: Pipeline): HTMLElement {
  if (!tuned) return make('p', {}, '');
  const { trials, remembered, ms } = tuned;
  const how = remembered
    ? 'as an earlier visit has measured'
    : `the fastest of ${trials.length} choices, found in ${(ms / 1000).toFixed(1)} s`;
  return make('p', {}, `Tiles: ${tiles(tuned.tuning)}; ${how}.`);
}

function tiles({ matmul, attention }: Tuning): string {
  const shared = matmul.lanes > 1 ? ` (${matmul.lanes} lanes share loads)` : '';
  const together = matmul.tile > 0 ? ` (${matmul.tile} × ${matmul.tile} in workgroup memory)` : '';
  return `matmul ${matmul.rows} × ${4 * matmul.columns}${shared}${together}, attention ${attention.queries} × ${4 * attention.keys4}`;
}

function shown(profile: Profile): HTMLElement[] {
  const total = profile.kernels.reduce((sum, kernel) => sum + kernel.nanoseconds, 0);
  const clock = profile.clock === 'gpu' ? 'the GPU’s clock' : 'the page’s clock, since this GPU offers none';
  const summary = `${profile.kernels.length} kernels, ${(total / 1e6).toFixed(1)} ms in all by ${clock}`;
  return [make('p', {}, summary), table(profile, total)];
}

/** Kernels of one kind and size together, the most expensive first. */
function table({ kernels, peak }: Profile, total: number): HTMLElement {
  const rows = new Map<string, { count: number; nanoseconds: number; multiplyAdds: number; bytes: number }>();
  for (const { kernel, shape, nanoseconds, multiplyAdds, bytes } of kernels) {
    const name = `${kernel} ${shape}`;
    const row = rows.get(name) ?? { count: 0, nanoseconds: 0, multiplyAdds: 0, bytes: 0 };
    rows.set(name, {
      count: row.count + 1,
      nanoseconds: row.nanoseconds + nanoseconds,
      multiplyAdds: row.multiplyAdds + multiplyAdds,
      bytes: row.bytes + bytes,
    });
  }
  const sorted = [...rows].sort(([, a], [, b]) => b.nanoseconds - a.nanoseconds);
  const heads = ['Kernel', 'Launches', 'ms', 'Share', 'GB/s', 'GFLOP/s', 'Of the peak'];
  const cells = sorted.map(([name, { count, nanoseconds, multiplyAdds, bytes }]) => {
    const gflops = (2 * multiplyAdds) / nanoseconds;
    const figures = multiplyAdds ? [gflops.toFixed(1), `${(1e11 * (gflops / (2 * peak))).toFixed(0)} %`] : ['', ''];
    const share = `${((100 * nanoseconds) / total).toFixed(1)} %`;
    return [name, String(count), (nanoseconds / 1e6).toFixed(2), share, (bytes / nanoseconds).toFixed(1), ...figures];
  });
  const line = (texts: string[], cell: 'th' | 'td') => make('tr', {}, ...texts.map((text) => make(cell, {}, text)));
  return make(
    'table',
    {},
    make('thead', {}, line(heads, 'th')),
    make('tbody', {}, ...cells.map((texts) => line(texts, 'td'))),
  );
}
