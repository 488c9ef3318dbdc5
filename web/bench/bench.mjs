#!/usr/bin/env node
/** Times uvit-web beside its peers; scripts/bench builds what this needs, and its first lines say how to ask. */

import { execFileSync } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { cpus } from 'node:os';
import { resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { readArguments, UsageError } from './arguments.mjs';
import { describe, listCases } from './cases.mjs';
import { checkFiles, convertModels, findModels } from './models.mjs';
import { tableWriter } from './report.mjs';

const here = fileURLToPath(new URL('.', import.meta.url));

async function main() {
  const wanted = readArguments(process.argv.slice(2));
  const cases = wanted.models ? listCases(findModels(wanted.models, wanted.model), wanted) : [];
  if (cases.length > 0) checkFiles(wanted.models, cases);
  if (cases.length === 0 && !wanted.start && !wanted.modes)
    throw new UsageError('no case is left: these filters exclude each other');
  if (wanted.list) {
    for (const one of cases) console.log(describe(one));
    if (wanted.start) console.log('start: from opening a page to its first picture');
    if (wanted.modes) console.log('modes: words to a picture, a picture to words, and the others of avatars');
    return 0;
  }
  // Only now: what follows needs the packages of package.json, which --list does without.
  const { startServers } = await import('./server.mjs');
  const { launch } = await import('./browser.mjs');
  if (!existsSync(`${wanted.package}/index.js`)) {
    throw new UsageError(`there is no package in ${wanted.package}: scripts/build-web makes it`);
  }
  if (wanted.start && !existsSync(`${here}../demo/dist/index.html`)) {
    throw new UsageError('there is no page in web/demo/dist: scripts/build-web makes it');
  }
  // A browser that does not start is better known before the models are converted.
  await (await launch(wanted.flags)).close();
  const converted = cases.length > 0 ? await convertModels(wanted.models, cases, wanted.tool) : undefined;
  const servers = await startServers({ models: wanted.models, converted, packageFolder: wanted.package });
  try {
    return await runAll(cases, wanted, servers);
  } finally {
    servers.close();
  }
}

/** Measures everything, and prints each row as it comes; the exit status tells whether all could be measured. */
async function runAll(cases, wanted, servers) {
  const { compare } = await import('./compare.mjs');
  const { measureModes } = await import('./modes.mjs');
  const { measureStart, PAGES } = await import('./start.mjs');
  const context = { servers, wanted, rounds: wanted.rounds, flags: wanted.flags, versions: versions(wanted.package) };
  const jobs = [
    ...cases.map((one) => ({ kind: one.kind, name: describe(one), run: () => compare(one, context) })),
    ...(wanted.start ? Object.keys(PAGES) : []).map((page) => ({
      kind: 'start',
      name: `start: the ${page} page`,
      run: () => measureStart(page, context),
    })),
    ...(wanted.modes ? [{ kind: 'modes', name: 'modes of avatars', run: () => measureModes(context) }] : []),
  ];
  const where = {
    date: new Date().toISOString().slice(0, 10),
    commit: commit(wanted.package),
    cpu: `${cpus().length} x ${cpus()[0].model}`,
  };
  const json = { row: (row) => console.log(JSON.stringify(row)), end: () => {} };
  const writer = wanted.json ? json : tableWriter(console.log);
  if (!wanted.json) console.log(heading(where, context.versions));
  let failed = 0;
  for (const [i, { kind, name, run }] of jobs.entries()) {
    console.error(`bench: ${i + 1} of ${jobs.length}: ${name}`);
    try {
      for (const row of [await run()].flat()) writer.row({ ...row, ...where });
    } catch (error) {
      failed++;
      writer.row({ kind, case: name, error: error.message, ...where });
    }
  }
  writer.end();
  return failed > 0 ? 1 : 0;
}

function heading({ date, commit, cpu }, { 'uvit-web': ours, ort, litert }) {
  return `${date}, ${cpu}. uvit-web ${ours}${commit ? ` (${commit})` : ''}, onnxruntime-web ${ort}, LiteRT.js ${litert}.
A ratio is the peer's time over uvit-web's: above 1 uvit-web is faster. Ratios are medians over rounds, the spread is
from the least to the greatest of them; errors are the largest over the largest output of PyTorch.`;
}

function versions(packageFolder) {
  const of = (folder) => JSON.parse(readFileSync(`${folder}/package.json`, 'utf8')).version;
  const beside = resolve(packageFolder, '..');
  return {
    'uvit-web': of(existsSync(`${beside}/package.json`) ? beside : `${here}..`),
    ort: of(`${here}node_modules/onnxruntime-web`),
    litert: of(`${here}node_modules/@litertjs/core`),
  };
}

/** Which commit was measured, with a + when there are changes on top; nothing for a package outside a checkout. */
function commit(folder) {
  const git = (...words) =>
    execFileSync('git', words, { cwd: folder, encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] });
  try {
    const changed = git('status', '--porcelain', '--untracked-files=no').trim() !== '';
    return git('rev-parse', '--short', 'HEAD').trim() + (changed ? '+' : '');
  } catch {
    return undefined;
  }
}

try {
  process.exitCode = await main();
} catch (error) {
  // Only what is not the caller's to put right needs to say where it happened.
  console.error(`bench: ${error instanceof UsageError ? error.message : error.stack}`);
  process.exitCode = error instanceof UsageError ? 2 : 1;
}
