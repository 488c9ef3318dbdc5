#!/usr/bin/env node
/** Whether each room of src/ imports only those that the table of rooms in ARCHITECTURE.md allows it; tests may import all. */

import { readdirSync, readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';

process.chdir(join(import.meta.dirname, '..'));
const table = readFileSync('ARCHITECTURE.md', 'utf8').matchAll(/^\| `src\/(\w+)\/` \|(?:[^|]*\|){2} ([^|]*) \|$/gm);
const allowed = new Map([...table].map(([, room, names]) => [room, names.match(/\w+/g) ?? []]));
const rooms = readdirSync('src').filter((name) => statSync(join('src', name)).isDirectory());

/** Rooms that a text names as `crate::room` or in `crate::{..}`; `own` are other names of this crate. */
function imports(text) {
  const found = new Set();
  for (const [, path] of text.matchAll(/\b(?:crate|uvit_web)::(\{[^;]*?\};|\w+)/g)) {
    // At the top level of braces: `{Code, cpu, weights::{self, Dtype}}` names cpu and weights.
    let flat = path;
    while (/\w+::\{[^{}]*\}/.test(flat)) flat = flat.replace(/(\w+)::\{[^{}]*\}/g, '$1');
    for (const name of flat.replace(/::\w+/g, '').match(/\w+/g) ?? []) found.add(name);
  }
  if (/\buvit_simd::/.test(text)) found.add('simd');
  return [...found].filter((name) => rooms.includes(name));
}

const complaints = [];
for (const room of rooms) {
  if (!allowed.has(room)) complaints.push(`src/${room}/ is not in the table of rooms in ARCHITECTURE.md`);
  for (const file of readdirSync(join('src', room), { recursive: true })) {
    if (!file.endsWith('.rs')) continue;
    const path = join('src', room, file);
    const [code] = readFileSync(path, 'utf8').split('#[cfg(test)]\nmod tests');
    const strangers = imports(code).filter((name) => name !== room && !allowed.get(room)?.includes(name));
    if (strangers.length > 0) complaints.push(`${path} imports ${strangers.join(', ')}`);
  }
}
for (const room of allowed.keys()) if (!rooms.includes(room)) complaints.push(`there is no src/${room}/`);
for (const complaint of complaints) console.error(`rooms: ${complaint}`);
process.exit(complaints.length > 0 ? 1 : 0);
