// usage: node pair_tmp.mjs '{"a":{"root":"main","wasm":"simd128","compute":"quality","model":"..."},"b":{...}}' rounds batch
import { launch, WEBGPU } from './test/browser.mjs';
import { createServer } from 'node:http';
import { readFile } from 'node:fs/promises';
import { extname } from 'node:path';
const TYPES = { '.js': 'text/javascript', '.json': 'application/json', '.wasm': 'application/wasm', '.html': 'text/html' };
const http = createServer(async (q, r) => {
  const path = new URL(q.url, 'http://x').pathname;
  if (path === '/blank.html') return r.writeHead(200, { 'content-type': 'text/html' }).end('<!doctype html>');
  try {
    const bytes = await readFile(`/work${path}`);
    r.writeHead(200, { 'content-type': TYPES[extname(path)] ?? 'application/octet-stream' }).end(bytes);
  } catch { r.writeHead(404).end(); }
}).listen(0);
await new Promise((done) => http.once('listening', done));
const url = `http://localhost:${http.address().port}/blank.html`;
const settings = JSON.parse(process.argv[2]); const rounds = +(process.argv[3] ?? 15); const batch = +(process.argv[4] ?? 1);
const browser = await launch(WEBGPU);
const median = (v) => v.toSorted((a, b) => a - b)[Math.floor(v.length / 2)];
const names = Object.keys(settings);
const page = await browser.newPage();
page.setDefaultTimeout(590000);
page.on('console', (m) => console.error(m.text()));
await page.goto(url);
const times = await page.evaluate(async ([settings, rounds, batch]) => {
  const names = Object.keys(settings); const sides = {}, times = {}, info = {};
  for (const side of names) {
    const { root, model, dist, ...options } = settings[side];
    const { load } = await import(`/${root ?? 'main'}/web/${dist ?? 'dist'}/index.js`);
    sides[side] = await load(model ?? '/main/web/models/emoji/manifest.json', { device: 'cpu', threads: 1, ...options });
    times[side] = []; info[side] = [sides[side].info.device, sides[side].info.compute, sides[side].info.wasm, JSON.stringify(sides[side].info.tuned?.tuning)];
  }
  const one = async (side) => {
    const began = performance.now();
    await sides[side].generate({ steps: 1, guidanceScale: 1, seed: 1, count: batch, label: 1 });
    return performance.now() - began;
  };
  for (let i = 0; i < 5; i++) for (const side of names) await one(side);
  for (let i = 0; i < rounds; i++) for (const side of i % 2 ? names.toReversed() : names) times[side].push(await one(side));
  return { times, info };
}, [settings, rounds, batch]);
const first = names[0];
for (const n of names) console.log(n, times.info[n].join(' '), median(times.times[n]).toFixed(1), 'ms', 'min', Math.min(...times.times[n]).toFixed(1), `${first}/${n}`, median(times.times[first].map((b, i) => b / times.times[n][i])).toFixed(3));
await browser.close(); http.close();
