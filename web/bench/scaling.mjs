#!/usr/bin/env node
/**
 * How a forward's cost grows with tokens, width and batch on one adapter: `uvit bench` on networks of three blocks with
 * random q8 weights. Prints Markdown, and writes one plot.
 *
 *   node web/bench/scaling.mjs --tool target/release/uvit [--device gpu|cpu] [--svg FILE] [--json]
 */

import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { plot } from './plot.mjs';

const BASE = { tokens: 258, width: 512, batch: 1 };
/** One size varies, the others stay as in BASE. */
const SERIES = { tokens: [66, 258, 1026], width: [512, 1024, 1152], batch: [1, 2, 4, 8] };

const { values: wanted } = parseArgs({
  options: {
    tool: { type: 'string' },
    device: { type: 'string', default: 'gpu' },
    svg: { type: 'string' },
    json: { type: 'boolean', default: false },
  },
});
if (!wanted.tool) {
  console.error('scaling: --tool FILE is needed, the tool `uvit`: cargo build --release makes target/release/uvit');
  process.exit(2);
}

/** A U-ViT with so many tokens (time, label, patches) of such a width; as published but for the depth. */
function network({ tokens, width }) {
  return {
    architecture: 'uvit',
    img_size: 2 * Math.sqrt(tokens - 2),
    patch_size: 2,
    in_chans: 4,
    embed_dim: width,
    depth: 2,
    num_heads: width / 64,
    mlp_ratio: 4,
    qkv_bias: false,
    mlp_time_embed: false,
    num_classes: 1001,
    conv: true,
    skip: true,
    // Nothing is sampled, but a configuration is whole.
    schedule: { type: 'vp_linear', beta_min: 0.1, beta_max: 20, t_min: 0.001, t_max: 1 },
    prediction: 'noise',
    time_scale: 999,
    data_range: [-1, 1],
    null_class: 1000,
    clip_x0: false,
    sampler: 'dpmpp_2m',
    lower_order_final: true,
    steps: 25,
    guidance: 1.5,
  };
}

function measure(sizes, folder) {
  const config = join(folder, 'config.json');
  writeFileSync(config, JSON.stringify(network(sizes)));
  const how = ['--device', wanted.device, '--batch', String(sizes.batch), '--repeats', '5', '--json'];
  const output = execFileSync(wanted.tool, ['bench', '--config', config, ...how], {
    encoding: 'utf8',
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  const { adapter, ms, gflops, multiplyAdds, profile } = JSON.parse(output);
  const row = { ...sizes, adapter, ms, gflops, multiplyAdds };
  if (!profile) return row;
  const share = (kernel) => {
    const all = profile.kernels.filter((one) => one.kernel === kernel);
    const sum = (name) => all.reduce((total, one) => total + one[name], 0);
    return { ms: sum('nanoseconds') / 1e6, peakShare: (1e9 * sum('multiplyAdds')) / sum('nanoseconds') / profile.peak };
  };
  return { ...row, peak: profile.peak, matmul: share('matmul'), attention: share('attention') };
}

const folder = mkdtempSync(join(tmpdir(), 'uvit-scaling-'));
try {
  const rows = [];
  for (const [varied, sizes] of Object.entries(SERIES)) {
    for (const size of sizes) {
      console.error(`scaling: ${varied} ${size}`);
      rows.push({ varied, ...measure({ ...BASE, [varied]: size }, folder) });
    }
  }
  if (wanted.json) for (const row of rows) console.log(JSON.stringify(row));
  else console.log(markdown(rows));
  if (wanted.svg) writeFileSync(wanted.svg, plot(Object.keys(SERIES), rows));
} finally {
  rmSync(folder, { recursive: true });
}

function markdown(rows) {
  const percent = (share) => (share === undefined ? '' : `${(100 * share).toFixed(0)} %`);
  const lines = rows.map((row) => {
    const each = (row.ms / row.batch).toFixed(1);
    const attention = row.attention ? row.attention.ms.toFixed(1) : '';
    return [
      `${row.varied} ${row[row.varied]}`,
      (row.multiplyAdds / 5e8 / row.batch).toFixed(2),
      each,
      row.gflops.toFixed(1),
      percent(row.matmul?.peakShare),
      attention,
      percent(row.attention?.peakShare),
    ].join(' | ');
  });
  const heads =
    'varied | GFLOP an image | ms an image | GFLOP/s | matmul peakShare | attention ms | attention peakShare';
  return [heads, heads.replace(/[^|]+/g, ' --- '), ...lines].map((line) => `| ${line} |`).join('\n');
}
