/** Networks of the golden cases, tiny and of random weights, as models that a page can load. */

import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

const goldens = fileURLToPath(new URL('../../tests/goldens/', import.meta.url));

/** Sampling that any of them bears, in few steps. */
export const SAMPLING = {
  schedule: { type: 'vp_linear', beta_min: 0.1, beta_max: 20 },
  prediction: 'noise',
  time_scale: 999,
  t_min: 0.001,
  t_max: 1,
  sampler: 'ddim',
  steps: 4,
  guidance_scale: 1.5,
  clip_x0: true,
  lower_order_final: true,
};

/**
 * The files of a model in the folder `folder`, for `startServer({ files })`, whose denoiser is the network of the golden case `name`;
 * `rest` is what else its manifest says.
 */
export function goldenModel(folder, name, rest = {}) {
  const { kind, params } = JSON.parse(readFileSync(`${goldens}${name}/config.json`));
  const weights = readFileSync(`${goldens}${name}/weights.safetensors`);
  const manifest = {
    format_version: 2,
    name: folder,
    task: 'class',
    sampling: SAMPLING,
    labels: [],
    licences: [],
    ...rest,
    components: { denoiser: { architecture: kind, params, variants: [variant(weights)] } },
  };
  return {
    [`${folder}/manifest.json`]: Buffer.from(JSON.stringify(manifest)),
    [`${folder}/weights.safetensors`]: weights,
  };
}

/** What a manifest says of one file of tensors as they are. */
function variant(weights) {
  const header = JSON.parse(weights.subarray(8, 8 + Number(weights.readBigUInt64LE())));
  delete header.__metadata__;
  const tensors = Object.entries(header).map(([name, { shape, dtype }]) => [
    name,
    { shape, dtype: dtype.toLowerCase(), parts: [{ shard: 0, rows: [0, shape[0] ?? 1] }] },
  ]);
  const sha256 = createHash('sha256').update(weights).digest('hex');
  const shard = { file: 'weights.safetensors', bytes: weights.length, sha256 };
  const dtype = tensors.some(([, tensor]) => tensor.dtype === 'f16') ? 'f16' : 'f32';
  return { dtype, group: 0, bytes: weights.length, shards: [shard], tensors: Object.fromEntries(tensors) };
}
