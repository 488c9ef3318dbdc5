/** The command line: what is asked for, checked before anything is built or started. */

import { existsSync, statSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { COMPUTES, DEVICES, PEERS } from './cases.mjs';

/** Something the caller can put right; its message is all that is printed. */
export class UsageError extends Error {}

const here = fileURLToPath(new URL('.', import.meta.url));
const LEAST_ROUNDS = 5;

const MODELS_NEEDED = `--models DIR is needed: a folder with the models in the format of every runtime.
To make one (it takes torch and its companions, about 6 GB, and a few minutes):

  python3 -m venv venv && venv/bin/pip install -r web/bench/requirements.txt
  venv/bin/python web/bench/make_models.py bench-models
  scripts/bench --models bench-models

web/bench/README.md says what lies in such a folder. --start and --modes do without it.`;

/** What was asked for, with the defaults filled in. Throws a {@link UsageError} that names what is wrong. */
export function readArguments(argv) {
  const given = parse(argv);
  const threads = given.threads === undefined ? undefined : whole('--threads', given.threads, 1);
  const wanted = {
    models: given.models,
    model: given.model ?? [],
    batch: (given.batch ?? []).map((text) => whole('--batch', text, 1, 2)),
    device: oneOf('--device', given.device, DEVICES),
    compute: (given.compute ?? []).map((name) => oneOf('--compute', name, COMPUTES)),
    peer: (given.peer ?? []).map((name) => oneOf('--peer', name, PEERS)),
    rounds: whole('--rounds', given.rounds, LEAST_ROUNDS),
    threads,
    forwards: given.all || !(given.pipeline || given.start || given.modes),
    pipeline: given.all || given.pipeline || !(given.start || given.modes),
    start: given.all || given.start,
    modes: given.all || given.modes,
    all: given.all,
    json: given.json,
    list: given.list,
    package: given.package,
    tool: given.tool,
    flags: given.flags.split(/\s+/).filter(Boolean),
  };
  if (wanted.forwards || wanted.pipeline) {
    if (wanted.models === undefined) throw new UsageError(MODELS_NEEDED);
    if (!existsSync(wanted.models)) throw new UsageError(`--models: there is no folder ${wanted.models}`);
    if (!statSync(wanted.models).isDirectory()) throw new UsageError(`--models: ${wanted.models} is not a folder`);
  }
  return wanted;
}

function parse(argv) {
  const text = { type: 'string' };
  const several = { type: 'string', multiple: true };
  const flag = { type: 'boolean', default: false };
  const options = {
    models: text,
    model: several,
    batch: several,
    device: text,
    compute: several,
    peer: several,
    rounds: { type: 'string', default: '7' },
    threads: text,
    pipeline: flag,
    start: flag,
    modes: flag,
    all: flag,
    json: flag,
    list: flag,
    package: { type: 'string', default: `${here}../dist` },
    tool: { type: 'string', default: `${here}../../target/release/uvit` },
    flags: { type: 'string', default: '' },
  };
  try {
    return parseArgs({ args: argv, options }).values;
  } catch (error) {
    throw new UsageError(error.message);
  }
}

function whole(name, text, least, most = Number.MAX_SAFE_INTEGER) {
  const value = Number(text);
  if (/^\d+$/.test(text) && value >= least && value <= most) return value;
  const range = most === Number.MAX_SAFE_INTEGER ? `at least ${least}` : `${least} to ${most}`;
  throw new UsageError(`${name} is "${text}": give a whole number, ${range}`);
}

function oneOf(name, value, choices) {
  if (value === undefined || choices.includes(value)) return value;
  throw new UsageError(`${name} is "${value}": give one of ${choices.join(', ')}`);
}
