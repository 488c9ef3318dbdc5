/** The folder of models: what is in it, what a case needs of it, and uvit-web's own form, made for this run only. */

import { execFile } from 'node:child_process';
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { promisify } from 'node:util';
import { UsageError } from './arguments.mjs';

/** What NAME.json does not say: the emoji model's settings do, since no timing depends on them. */
const SAMPLING = {
  schedule: { type: 'vp_linear', beta_min: 0.1, beta_max: 20 },
  prediction: 'x0',
  time_scale: 999,
  clip_x0: true,
  sampler: 'dpmpp_2m',
  steps: 25,
  guidance: 1.5,
};

/** The models in a folder, all or those asked for: `{ name, component }`, which of a package's networks it is. */
export function findModels(folder, asked) {
  const names = readdirSync(folder)
    .filter((file) => file.endsWith('.json') && existsSync(join(folder, file.replace(/json$/, 'safetensors'))))
    .map((file) => file.slice(0, -'.json'.length))
    .sort();
  if (names.length === 0) throw new UsageError(`${folder} holds no model: no NAME.json beside a NAME.safetensors`);
  const missing = asked.find((name) => !names.includes(name));
  if (missing !== undefined) {
    throw new UsageError(
      `${folder} has no ${missing}.json beside a ${missing}.safetensors; it has ${names.join(', ')}`,
    );
  }
  return (asked.length > 0 ? asked : names).map((name) => ({ name, component: described(folder, name).component }));
}

/** NAME.json; of a U-ViT it is the architecture itself. */
function described(folder, name) {
  return { component: 'denoiser', ...JSON.parse(readFileSync(join(folder, `${name}.json`), 'utf8')) };
}

/** The file of a peer's model. A .tflite has its batch baked in; an .onnx gets it when it is loaded. */
export function peerFile({ model, batch, peer }) {
  const dtype = peer.dtype === 'f32' ? '' : `.${peer.dtype}`;
  if (peer.runtime === 'litert') return `${model}.b${batch}${dtype}.tflite`;
  if (peer.runtime === 'ort') return `${model}${dtype}.onnx`;
  return undefined;
}

/** Every file that the cases read must be there before the first one starts. */
export function checkFiles(folder, cases) {
  const needed = new Set(
    cases
      .flatMap((one) => [
        `${one.model}.io.safetensors`,
        peerFile(one),
        one.component === 'denoiser' ? undefined : `${one.model}.denoiser.safetensors`,
      ])
      .filter((file) => file !== undefined),
  );
  const missing = [...needed].filter((file) => !existsSync(join(folder, file)));
  if (missing.length > 0) {
    throw new UsageError(`${folder} lacks ${missing.join(', ')}: make the folder anew with web/bench/make_models.py`);
  }
}

/**
 * Converts what the cases need into a temporary folder, DTYPE by DTYPE, and returns the folder; it goes when this
 * process ends. As `uvit convert` does unless told otherwise: q8 is calibrated on pictures that the model draws itself.
 */
export async function convertModels(folder, cases, tool) {
  if (!existsSync(tool)) throw new UsageError(`there is no ${tool}: cargo build --release makes it`);
  const out = mkdtempSync(join(tmpdir(), 'uvit-bench-'));
  process.on('exit', () => rmSync(out, { recursive: true, force: true }));
  for (const model of new Set(cases.map((one) => one.model))) {
    const mine = cases.filter((one) => one.model === model);
    const dtypes = new Set(
      mine
        .flatMap(({ ours, peer }) => [ours, peer])
        .filter(isOurs)
        .map((side) => side.dtype),
    );
    const config = join(out, `${model}.json`);
    const checkpoint = resolve(folder, `${model}.safetensors`);
    const { component, ...architecture } = described(folder, model);
    const given = component === 'denoiser' ? [checkpoint, '--config', config] : [config];
    const written =
      component === 'denoiser' ? configOf(architecture) : describe(component, architecture, checkpoint, out);
    writeFileSync(config, JSON.stringify(written));
    const dtypeArguments = [...dtypes].flatMap((dtype) => ['--dtype', dtype]);
    try {
      await promisify(execFile)(tool, ['convert', ...given, '--out', join(out, model), ...dtypeArguments]);
    } catch (error) {
      throw new UsageError(`${checkpoint} could not be converted:\n${error.stderr || error.message}`);
    }
  }
  return out;
}

/** A model of two networks: the one that is timed, and the tiny denoiser that NAME.json describes beside it. */
function describe(component, { name, architecture, params, denoiser }, checkpoint, out) {
  const { architecture: sampled = 'uvit', ...sizes } = denoiser;
  // A tokenizer of no merges: the words are the bytes.
  if (component === 'text_encoder') writeFileSync(join(out, 'merges.txt'), '#version: 0.2\n');
  return {
    name,
    ...SAMPLING,
    components: {
      denoiser: {
        architecture: sampled,
        params: { skip: true, ...sizes },
        checkpoint: checkpoint.replace(/safetensors$/, 'denoiser.safetensors'),
      },
      [component]: { architecture, params, checkpoint },
    },
    ...(component === 'text_encoder' && { assets: { tokenizer: 'merges.txt' } }),
  };
}

function isOurs(side) {
  return side.runtime === 'uvit-web';
}

function configOf(architecture) {
  const classes = architecture.num_classes;
  return { ...SAMPLING, skip: true, ...(classes > 0 && { null_class: classes - 1 }), ...architecture };
}
