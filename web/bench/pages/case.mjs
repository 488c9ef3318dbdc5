/**
 * One side of a comparison, in the browser. `window.bench.load(side)` loads a model on a runtime and compares what it
 * computes with PyTorch; `window.bench.time(kind)` is one timed call, upload of the inputs and read-back included.
 *
 * A runtime is a module in runtimes/ that exports `load(side)`, which gives
 *   forward(inputs)   one call of the network, from `{ data, shape }` by name to the values that come out
 *   sample()          where it can: guided sampling by itself
 *   facts             what it says about how it really runs
 */

import { readSafetensors } from './safetensors.mjs';

/** In the order in which networks take them. */
const INPUTS = ['x', 't', 'y', 'z', 'input_ids'];

let loaded;

async function load(side) {
  const io = await readSafetensors(`/models/${side.model}.io.safetensors`);
  const inputs = {};
  for (const name of INPUTS) {
    const tensor = io[name + side.batch];
    if (tensor) inputs[name] = tensor;
  }
  const began = performance.now();
  const runtime = await (await import(`../runtimes/${side.runtime}.mjs`)).load(side);
  const ready = performance.now();
  const found = await runtime.forward(inputs);
  const done = performance.now();
  loaded = { runtime, inputs, steps: side.steps };
  return {
    ...runtime.facts,
    loadMs: ready - began,
    firstMs: done - ready,
    maxRelErr: maxRelErr(found, io[`out${side.batch}`].data),
  };
}

/** The largest error over the largest value; infinite where a value is missing or none. */
function maxRelErr(found, wanted) {
  if (found.length !== wanted.length) throw new Error(`${found.length} values came back, not ${wanted.length}`);
  let error = 0;
  let largest = 0;
  wanted.forEach((value, i) => {
    error = Math.max(error, Number.isFinite(found[i]) ? Math.abs(found[i] - value) : Number.POSITIVE_INFINITY);
    largest = Math.max(largest, Math.abs(value));
  });
  return error / largest;
}

async function time(kind) {
  const { runtime, inputs, steps } = loaded;
  const began = performance.now();
  if (kind === 'forward') {
    await runtime.forward(inputs);
  } else if (runtime.sample) {
    await runtime.sample(steps);
  } else {
    // Only the network's share of sampling: a runtime that samples has more to do.
    for (let step = 0; step < steps; step++) await runtime.forward(inputs);
  }
  return performance.now() - began;
}

async function adapterName() {
  const adapter = await navigator.gpu?.requestAdapter().catch(() => null);
  if (!adapter) return null;
  const { vendor, architecture, device, description } = adapter.info;
  return [vendor, architecture, device, description].filter(Boolean).join(' ') || 'unnamed';
}

window.bench = { load, time, adapterName };
