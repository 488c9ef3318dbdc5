/**
 * Builds the package into dist/: TypeScript by tsc, then the wasm core beside it. `pkg/` is what wasm-bindgen
 * wrote; wasm-opt takes a while, so it runs only when the core has changed since the last build.
 */

import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { copyFileSync, existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

const here = fileURLToPath(new URL('.', import.meta.url));
const core = `${here}pkg/uvit_web_bg.wasm`;
const optimised = `${here}dist/uvit_web_bg.wasm`;
// Lies outside dist/, which is what the npm package holds.
const stamp = `${here}pkg/.optimised`;

// What rustc uses beyond the first wasm version; anything else in the module is a surprise worth an error.
const FEATURES = [
  'bulk-memory',
  'bulk-memory-opt',
  'multivalue',
  'mutable-globals',
  'nontrapping-float-to-int',
  'reference-types',
  'sign-ext',
  'simd',
].map((feature) => `--enable-${feature}`);

if (!existsSync(core)) {
  console.error(
    'web/pkg/uvit_web_bg.wasm is missing. Build the wasm core first:\n' +
      '  cargo build --release --target wasm32-unknown-unknown --lib\n' +
      '  wasm-bindgen --target web --out-dir web/pkg --out-name uvit_web target/wasm32-unknown-unknown/release/uvit_web.wasm',
  );
  process.exit(1);
}

mkdirSync(`${here}dist`, { recursive: true });
for (const file of readdirSync(`${here}dist`)) {
  if (!file.endsWith('.wasm')) rmSync(`${here}dist/${file}`, { recursive: true });
}
node('typescript/bin/tsc', ['--project', here]);
copyFileSync(`${here}pkg/uvit_web.js`, `${here}dist/uvit_web.js`);
for (const file of ['LICENSE-MIT', 'LICENSE-APACHE', 'THIRD_PARTY_LICENSES.md']) {
  copyFileSync(`${here}../${file}`, `${here}dist/${file}`);
}

const hash = createHash('sha256').update(readFileSync(core)).digest('hex');
const known = existsSync(optimised) && existsSync(stamp) && readFileSync(stamp, 'utf8') === hash;
if (!known) {
  node('binaryen/bin/wasm-opt', ['-O3', ...FEATURES, core, '-o', optimised]);
  writeFileSync(stamp, hash);
}

function node(script, args) {
  const path = `${here}node_modules/${script}`;
  execFileSync(process.execPath, [path, ...args], { cwd: here, stdio: 'inherit' });
}
