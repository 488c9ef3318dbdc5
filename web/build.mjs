/**
 * Builds the package into dist/: TypeScript by tsc, then the builds of the wasm core, each in a folder of its own.
 * `pkg/` is what wasm-bindgen wrote; wasm-opt takes a while, so it runs only where the core has changed since.
 */

import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { copyFileSync, existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { build, minifySync } from 'vite';
import { withPlaces } from './order.mjs';

const here = fileURLToPath(new URL('.', import.meta.url));

// What rustc uses beyond the first wasm version; anything else in a module is a surprise worth an error.
const FEATURES = [
  'bulk-memory',
  'bulk-memory-opt',
  'multivalue',
  'mutable-globals',
  'nontrapping-float-to-int',
  'reference-types',
  'sign-ext',
  'simd',
];
const VARIANTS = {
  webgpu: FEATURES,
  simd128: FEATURES,
  'relaxed-simd': [...FEATURES, 'relaxed-simd'],
  threads: [...FEATURES, 'relaxed-simd', 'threads'],
};

const built = Object.keys(VARIANTS).filter((variant) => existsSync(`${here}pkg/${variant}/uvit_web_bg.wasm`));
if (built.length === 0) {
  console.error('web/pkg/ holds no wasm core. Build it first: scripts/build-wasm');
  process.exit(1);
}

mkdirSync(`${here}dist`, { recursive: true });
for (const file of readdirSync(`${here}dist`)) {
  if (!built.includes(file)) rmSync(`${here}dist/${file}`, { recursive: true });
}
node('typescript/bin/tsc', ['--project', here]);
await bundled('clips', 'gif', 'modern-gif and modern-palette, MIT licence, Copyright (c) 2021-present wxm');
for (const variant of built) buildCore(variant);
for (const file of ['LICENSE-MIT', 'LICENSE-APACHE', 'THIRD_PARTY_LICENSES.md']) {
  copyFileSync(`${here}../${file}`, `${here}dist/${file}`);
}

/** A module with the library that it imports inside it: whoever installs the package needs no other, nor a bundler. */
async function bundled(folder, name, notice) {
  const outDir = `${here}dist/${folder}`;
  await build({
    configFile: false,
    logLevel: 'error',
    root: here,
    build: {
      lib: { entry: `${outDir}/${name}.js`, formats: ['es'], fileName: name },
      rolldownOptions: { external: [/^\.\.?\//], output: { banner: `/*! With ${notice}. */` } },
      outDir,
      emptyOutDir: false,
      copyPublicDir: false,
      target: 'es2022',
    },
  });
}

function buildCore(variant) {
  const [from, to] = [`${here}pkg/${variant}`, `${here}dist/${variant}`];
  mkdirSync(to, { recursive: true });
  // Bundlers copy the glue as it is, so that nobody else would make it smaller.
  const written = readFileSync(`${from}/uvit_web.js`, 'utf8');
  const hashes = hashesOf(written);
  const glue = withOwnStarter(numbered(written, hashes));
  writeFileSync(`${to}/uvit_web.js`, minifySync('uvit_web.js', glue, { module: true }).code);
  const core = `${from}/uvit_web_bg.wasm`;
  const optimised = `${to}/uvit_web_bg.wasm`;
  // Lies outside dist/, which is what the npm package holds.
  const stamp = `${from}/.optimised`;
  const features = VARIANTS[variant].map((feature) => `--enable-${feature}`);
  // The kernels alone (uvit_simd) are faster for what they inline; elsewhere, a function within its one caller is more to load:
  // 18 kB after gzip in all.
  const apart = ['uvit_web', 'alloc[', 'core[', 'std['].map((name) => `--no-inline=*${name}*`);
  const passes = [...apart, '--generate-global-effects', '-O3', '--converge'];
  // Rust puts the stack first, so nothing lies in the lowest kilobyte: addresses need not be checked for wrapping around.
  passes.push('--low-memory-unused');
  // What compilers say of themselves.
  passes.push('--strip-producers', '--strip-target-features');
  const arranging = ['--optimize-level=3', '--reorder-functions-by-name'];
  // What engines ignore; but atomics must have it.
  if (variant !== 'threads') arranging.push('--dealign');
  const order = readFileSync(`${here}order.mjs`);
  const hash = createHash('sha256')
    .update(readFileSync(core))
    .update([...passes, ...arranging].join())
    .update(order)
    .digest('hex');
  if (existsSync(optimised) && existsSync(stamp) && readFileSync(stamp, 'utf8') === hash) return;
  node('binaryen/bin/wasm-opt', [...passes, ...features, core, '-o', optimised]);
  writeFileSync(optimised, withPlaces(readFileSync(optimised)));
  node('binaryen/bin/wasm-opt', [...arranging, ...features, optimised, '-o', optimised]);
  writeFileSync(optimised, numbered(readFileSync(optimised, 'latin1'), hashes), 'latin1');
  writeFileSync(stamp, hash);
}

/** The hashes by which wasm-bindgen tells names apart, in the glue and in the core alike. */
function hashesOf(glue) {
  return [...new Set(glue.match(/(?<=_)[0-9a-f]{16}(?![0-9a-f])/g))].sort();
}

/** With numbers in their places, as long as they are: hashes do not compress, and are 2.5 kB to load. */
function numbered(text, hashes) {
  return hashes.reduce((text, hash, i) => text.replaceAll(hash, String(i).padStart(16, '0')), text);
}

/**
 * wasm-bindgen-rayon imports its starter of threads from a snippet, which takes a blob for a worker's script and
 * imports the glue by a path that bundlers move. The glue gets a place for a starter instead; src/pool.ts fills it.
 */
function withOwnStarter(glue) {
  const own = 'let startWorkers;\nexport function setStartWorkers(start) {\n  startWorkers = start;\n}';
  const changed = glue.replace(/^import \{ startWorkers \} from '\.\/snippets\/[^']*';$/m, own);
  // Another import would point to a file that is not in the package.
  if (/^import /m.test(changed)) throw new Error(`the glue imports another file: ${changed.match(/^import .*$/m)}`);
  return changed;
}

function node(script, args) {
  const path = `${here}node_modules/${script}`;
  execFileSync(process.execPath, [path, ...args], { cwd: here, stdio: 'inherit' });
}
