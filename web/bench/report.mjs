#!/usr/bin/env node
/**
 * Rows as Markdown tables. As a program: node report.mjs FILE, with the lines of `scripts/bench --json` in FILE.
 */

import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { sideName } from './cases.mjs';

const COMPARED = {
  heads: [
    'model, batch',
    'uvit-web',
    'peer',
    'ms (CPU)',
    "peer's ms (CPU)",
    'ratio',
    'spread',
    'error',
    "peer's error",
  ],
  cells: (row) => [
    `${row.model}, ${row.batch}`,
    sideName({ ...row, runtime: '', backend: row.device }).trim(),
    sideName({
      runtime: row.peer,
      backend: row.peerBackend,
      dtype: row.peerDtype,
      compute: row.peerCompute,
      threads: row.peerThreads,
    }),
    times(row.ms, row.cpuMs),
    times(row.peerMs, row.peerCpuMs),
    row.ratio.toFixed(2),
    row.spread.map((ratio) => ratio.toFixed(2)).join(' to '),
    row.maxRelErr.toExponential(1),
    row.peerMaxRelErr.toExponential(1),
  ],
};

const TABLES = {
  forward: { title: 'One forward', ...COMPARED },
  pipeline: { title: '25 guided steps; the peer: its 25 forwards alone', ...COMPARED },
  start: {
    title: 'From opening the page to the first picture',
    heads: ['page', 'device', 'ms', 'spread', 'parts, ms'],
    cells: (row) => [
      row.page,
      [row.device, row.dtype, row.compute].filter(Boolean).join(' '),
      String(Math.round(row.ms)),
      row.spread.map(Math.round).join(' to '),
      Object.entries(row.parts)
        .map(([part, ms]) => `${part} ${Math.round(ms)}`)
        .join(', '),
    ],
  },
  modes: {
    title: 'A call of avatars with its own settings',
    heads: ['mode', 'device', 'ms', 'spread', 'parts, ms', 'words'],
    cells: (row) => [
      row.beams ? `${row.mode}, ${row.beams} beam` : row.mode,
      [row.device, row.compute].filter(Boolean).join(' '),
      String(Math.round(row.ms)),
      row.spread.map(Math.round).join(' to '),
      Object.entries(row.parts)
        .filter(([, ms]) => ms > 0)
        .map(([part, ms]) => `${part} ${ms < 10 ? ms.toFixed(1) : Math.round(ms)}`)
        .join(', '),
      row.words ?? '',
    ],
  },
};

/** Prints row after row, with a heading whenever another table begins, and at the end what could not be measured. */
export function tableWriter(print) {
  const failed = [];
  let current;
  return {
    row(row) {
      if (row.error) {
        failed.push(row);
        return;
      }
      const { title, heads, cells } = TABLES[row.kind];
      if (row.kind !== current) {
        print(`\n${title}:\n`);
        print(line(heads));
        print(line(heads.map(() => '---')));
        current = row.kind;
      }
      print(line(cells(row)));
    },
    end() {
      if (failed.length > 0) print('\nNot measured:\n');
      for (const row of failed) print(`- ${row.case}: ${row.error}`);
    },
  };
}

function line(cells) {
  return `| ${cells.join(' | ')} |`;
}

function times(ms, cpuMs) {
  const text = (value) => (value < 100 ? value.toFixed(1) : value.toFixed(0));
  return cpuMs === undefined ? text(ms) : `${text(ms)} (${text(cpuMs)})`;
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const lines = readFileSync(process.argv[2], 'utf8').split('\n').filter(Boolean);
  const rows = lines.map((text) => JSON.parse(text));
  const writer = tableWriter(console.log);
  for (const kind of Object.keys(TABLES)) rows.filter((row) => row.kind === kind).forEach(writer.row);
  writer.end();
}
