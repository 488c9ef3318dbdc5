#!/usr/bin/env node
/**
 * THIRD_PARTY_LICENSES.md from the lock files.
 *
 *   scripts/licences.mjs            writes it
 *   scripts/licences.mjs --check    fails if it is not what would be written, or a licence is not allowed
 */

import { execFileSync } from 'node:child_process';
import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

const FILE = 'THIRD_PARTY_LICENSES.md';
const ALLOWED = new Set([
  '0BSD',
  'Apache-2.0',
  'Apache-2.0 WITH LLVM-exception',
  'BSD-2-Clause',
  'BSD-3-Clause',
  'BSL-1.0',
  'CC0-1.0',
  'ISC',
  'MIT',
  'MIT-0',
  'Unicode-3.0',
  'Unlicense',
  'Zlib',
]);
/** Copyleft by file, in tools that only build the package: nothing of them is shipped. */
const ALLOWED_IN_TOOLS = new Set([...ALLOWED, 'MPL-2.0', 'CC-BY-4.0', 'Python-2.0', 'BlueOak-1.0.0']);

process.chdir(fileURLToPath(new URL('..', import.meta.url)));

/** Whether an SPDX expression can be met: AND binds tighter than OR; the old `MIT/Apache-2.0` means OR. */
function allowed(expression, list) {
  const tokens = expression.replaceAll('/', ' OR ').match(/\(|\)|[^\s()]+/g) ?? [];
  let at = 0;
  const any = () => {
    let met = every();
    while (tokens[at] === 'OR') {
      at++;
      met = every() || met;
    }
    return met;
  };
  const every = () => {
    let met = one();
    while (tokens[at] === 'AND') {
      at++;
      met = one() && met;
    }
    return met;
  };
  const one = () => {
    if (tokens[at] === '(') {
      at++;
      const met = any();
      at++; // the closing bracket
      return met;
    }
    let name = tokens[at++];
    if (tokens[at] === 'WITH') {
      name += ` WITH ${tokens[at + 1]}`;
      at += 2;
    }
    return list.has(name);
  };
  return any() && at === tokens.length;
}

/** The crates that end up in what we ship for one target: no build scripts, procedural macros or tests. */
function crates(target, features) {
  const metadata = JSON.parse(
    execFileSync('cargo', ['metadata', '--locked', '--format-version=1', '--filter-platform', target, ...features], {
      maxBuffer: 1 << 28,
      encoding: 'utf8',
    }),
  );
  const packages = new Map(metadata.packages.map((it) => [it.id, it]));
  const nodes = new Map(metadata.resolve.nodes.map((it) => [it.id, it]));
  const seen = new Set();
  const isMacro = (id) => packages.get(id).targets.some(({ kind }) => kind.includes('proc-macro'));
  const visit = (id) => {
    if (seen.has(id) || isMacro(id)) return;
    seen.add(id);
    for (const { pkg, dep_kinds } of nodes.get(id).deps) {
      if (dep_kinds.some(({ kind }) => kind === null)) visit(pkg);
    }
  };
  visit(metadata.resolve.root);
  seen.delete(metadata.resolve.root);
  return [...seen].map((id) => packages.get(id));
}

/** The npm packages of the lock file, with whether they are shipped: those that the package's sources import are built into it. */
function npmPackages() {
  if (!existsSync('web/package-lock.json')) return [];
  const { packages } = JSON.parse(readFileSync('web/package-lock.json', 'utf8'));
  const shipped = new Set();
  const visit = (name) => {
    if (shipped.has(name)) return;
    shipped.add(name);
    for (const other of Object.keys(packages[`node_modules/${name}`].dependencies ?? {})) visit(other);
  };
  for (const file of readdirSync('web/src', { recursive: true }).filter((name) => name.endsWith('.ts'))) {
    const imports = readFileSync(`web/src/${file}`, 'utf8').matchAll(/^(?:import|export) [^;]*?from '([^.'][^']*)'/gm);
    for (const [, name] of imports) visit(name);
  }
  return Object.entries(packages)
    .filter(([path]) => path !== '')
    .map(([path, { version, license }]) => {
      const name = path.replace(/^.*node_modules\//, '');
      return { name, version, license, shipped: shipped.has(name) };
    });
}

const wasm = crates('wasm32-unknown-unknown', ['--no-default-features', '--features', 'gpu']);
const native = crates('x86_64-unknown-linux-gnu', []);
const npm = npmPackages();

const refused = [
  ...[...wasm, ...native].filter(({ license }) => !allowed(license ?? 'none', ALLOWED)),
  ...npm.filter(({ license, shipped }) => !allowed(license ?? 'none', shipped ? ALLOWED : ALLOWED_IN_TOOLS)),
].map(({ name, version, license }) => `${name} ${version}: ${license ?? 'names no licence'}`);
if (refused.length > 0) {
  console.error(`licences that scripts/licences.mjs does not allow:\n  ${[...new Set(refused)].join('\n  ')}`);
  process.exit(1);
}

const table = (list) => {
  const rows = list.map(({ name, version, license }) => `| ${name} | ${version} | ${license} |`);
  return ['| name | version | licence |', '|---|---|---|', ...[...new Set(rows)].sort()].join('\n');
};
const text = `# Third-party licences

Written by \`scripts/licences.mjs\` from the lock files; \`scripts/test lint\` checks it. What the
embedded models learned from has licences of its own: \`web/models/*/manifest.json\` name them.

## In the browser: the wasm core

${table(wasm)}

## In the npm package, in what saves GIFs

${table(npm.filter(({ shipped }) => shipped))}

## In the native tool \`uvit\` (Linux)

${table(native)}

## To build and test the web package (not shipped)

${table(npm.filter(({ shipped }) => !shipped))}
`;

if (!process.argv.includes('--check')) {
  writeFileSync(FILE, text);
} else if (!existsSync(FILE) || readFileSync(FILE, 'utf8') !== text) {
  console.error(`${FILE} is not up to date: run scripts/licences.mjs and commit it`);
  process.exit(1);
}
