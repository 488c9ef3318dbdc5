/** Networks of the golden cases, tiny and of random weights, as models that a page can load. */

import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { gunzipSync } from 'node:zlib';
import { tensorsIn } from './safetensors.mjs';

const goldens = fileURLToPath(new URL('../../tests/goldens/', import.meta.url));

/** Sampling that any of them bears, in few steps. */
const SAMPLING = {
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
  const { kind, params } = configOf(name);
  return files(folder, rest, { denoiser: [kind, params, joined(tensorsOf(name, 'weights'))] });
}

/** Likewise, the small Stable Diffusion 3 of the case `end_to_end_sd3`: words to a picture of 16 x 16. */
export function sd3Model(folder) {
  const name = 'end_to_end_sd3';
  const { params } = configOf(name);
  const [weights, io] = [tensorsOf(name, 'weights'), tensorsOf(name, 'io')];
  const part = (prefix) =>
    joined(weights.flatMap(([name, it]) => (name.startsWith(prefix) ? [[name.slice(prefix.length), it]] : [])));
  const { vocab_size, max_position_embeddings, max_sequence_length } = params;
  const text = (name, ids, pad_token) => {
    const tensors = part(`${name}.`).map(([key, it]) => [key, key.endsWith('token_embedding.weight') ? table(it) : it]);
    // The case holds only the rows in use.
    function table({ dtype, shape: [rows, dim], bytes }) {
      const all = Buffer.alloc(vocab_size * dim * SIZES[dtype]);
      const used = io.find(([name]) => name === ids)[1].bytes;
      const row = dim * SIZES[dtype];
      for (let k = 0; k < rows; k++) bytes.copy(all, Number(used.readBigInt64LE(8 * k)) * row, k * row, (k + 1) * row);
      return { dtype, shape: [vocab_size, dim], bytes: all };
    }
    return [
      'clip_text',
      { ...params[name], vocab_size, max_position_embeddings, hidden_state: -2, pad_token },
      tensors,
    ];
  };
  const decoder = part('vae.').filter(([name]) => name.startsWith('decoder.'));
  const merges = gunzipSync(readFileSync(`${goldens}clip_tokenizer/bpe_simple_vocab_16e6.txt.gz`)).toString();
  const tokenizer = Buffer.from(
    `${merges
      .split('\n')
      .slice(0, 1 + vocab_size - 512 - 2)
      .join('\n')}\n`,
  );
  const asset = { file: 'tokenizer.txt', bytes: tokenizer.length, sha256: sha256(tokenizer) };
  const sampling = {
    ...SAMPLING,
    schedule: { type: 'rectified_flow', shift: params.scheduler.shift },
    prediction: 'flow',
    time_scale: params.scheduler.num_train_timesteps,
    sampler: 'euler',
    guidance_scale: 4,
    clip_x0: false,
  };
  const context_tokens = max_position_embeddings + max_sequence_length;
  return {
    ...files(
      folder,
      { task: 'text', sampling, assets: { tokenizer: asset } },
      {
        denoiser: ['mmdit', { ...params.transformer, context_tokens }, part('transformer.')],
        text_encoder: text('text_encoder', 'token_ids', '<|endoftext|>'),
        text_encoder_2: text('text_encoder_2', 'token_ids_2', '!'),
        decoder: ['autoencoder_kl_decoder', params.vae, decoder.map(([name, it]) => [name, convolution(it)])],
      },
    ),
    [`${folder}/${asset.file}`]: tokenizer,
  };
}

const SIZES = { F16: 2, F32: 4, F64: 8, I64: 8 };

function configOf(name) {
  return JSON.parse(readFileSync(`${goldens}${name}/config.json`));
}

/** The tensors of a file of a case, `[name, { dtype, shape, bytes }]`. */
function tensorsOf(name, file) {
  return tensorsIn(readFileSync(`${goldens}${name}/${file}.safetensors`));
}

/** Queries, keys and values are stored as one, rows below rows. */
function joined(tensors) {
  const all = new Map(tensors);
  const groups = /^(.*(?:\.to_|\.add_|self_attn\.))q((?:_proj)?\.(?:weight|bias))$/;
  for (const [name, { dtype, shape }] of tensors) {
    const found = groups.exec(name);
    if (!found) continue;
    const names = ['q', 'k', 'v'].map((which) => `${found[1]}${which}${found[2]}`);
    const bytes = Buffer.concat(names.map((name) => all.get(name).bytes));
    for (const name of names) all.delete(name);
    all.set(`${found[1]}{q,k,v}${found[2]}`, { dtype, shape: [3 * shape[0], ...shape.slice(1)], bytes });
  }
  return [...all];
}

/** A convolution's kernel as the matrix that is stored: for every place of the window, all channels. */
function convolution(tensor) {
  const { dtype, shape, bytes } = tensor;
  if (shape.length !== 4) return tensor;
  const [out, channels, height, width] = shape;
  const size = SIZES[dtype];
  const all = Buffer.alloc(bytes.length);
  const places = height * width;
  for (let o = 0; o < out; o++) {
    for (let c = 0; c < channels; c++) {
      for (let place = 0; place < places; place++) {
        const from = ((o * channels + c) * places + place) * size;
        bytes.copy(all, ((o * places + place) * channels + c) * size, from, from + size);
      }
    }
  }
  return { dtype, shape: [out, places * channels], bytes: all };
}

/** The manifest and a file for each component, of which `components` has `[architecture, params, tensors]`. */
function files(folder, rest, components) {
  const found = {};
  const described = Object.entries(components).map(([of, [architecture, params, tensors]]) => {
    const stored = written(tensors);
    const file = `${of}.safetensors`;
    found[`${folder}/${file}`] = stored;
    const shards = [{ file, bytes: stored.length, sha256: sha256(stored) }];
    const entries = tensors.map(([name, { dtype, shape }]) => [
      name,
      { shape, dtype: dtype.toLowerCase(), parts: [{ shard: 0, rows: [0, shape[0] ?? 1] }] },
    ]);
    const dtype = tensors.some(([, tensor]) => tensor.dtype === 'F16') ? 'f16' : 'f32';
    const variant = { dtype, group: 0, bytes: stored.length, shards, tensors: Object.fromEntries(entries) };
    return [of, { architecture, params, variants: [variant] }];
  });
  const manifest = {
    format_version: 2,
    name: folder,
    task: 'class',
    sampling: SAMPLING,
    labels: [],
    licences: [],
    ...rest,
    components: Object.fromEntries(described),
  };
  found[`${folder}/manifest.json`] = Buffer.from(JSON.stringify(manifest));
  return found;
}

/** A safetensors file. */
function written(tensors) {
  let at = 0;
  const header = tensors.map(([name, { dtype, shape, bytes }]) => {
    const data_offsets = [at, at + bytes.length];
    at += bytes.length;
    return [name, { dtype, shape, data_offsets }];
  });
  let text = JSON.stringify(Object.fromEntries(header));
  text = text.padEnd(Math.ceil(Buffer.byteLength(text) / 8) * 8);
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(Buffer.byteLength(text)));
  return Buffer.concat([length, Buffer.from(text), ...tensors.map(([, { bytes }]) => bytes)]);
}

function sha256(bytes) {
  return createHash('sha256').update(bytes).digest('hex');
}
