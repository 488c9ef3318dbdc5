/**
 * Which comparisons are made. A case pairs one way of running uvit-web with one way of running a peer:
 *
 *   kind      `forward`: one call of the network; `pipeline`: 25 guided steps
 *   component which of a package's networks that is
 *   ours,     { runtime, backend, dtype, compute, threads }: how each side runs; peers have no compute,
 *   peer      unless the peer is uvit-web itself with other settings
 *   isolated  whether the page is cross-origin isolated, which wasm threads need
 */

export const DEVICES = ['cpu', 'webgpu'];
export const COMPUTES = ['auto', 'fast', 'quality', 'f32'];
export const PEERS = ['litert', 'ort', 'uvit-web'];

/** The models whose pictures, or clips, are worth timing from end to end. */
const PIPELINE_MODELS = ['emoji', 'clips'];
/** Steps of a pipeline run; on the peers' side as many forwards with batch 2: with the label, and without one. */
export const STEPS = 25;
/** A guided step calls the denoiser with two; a prompt comes with a negative one; latents are decoded one by one. */
const BATCHES = { denoiser: [1, 2], text_encoder: [1, 2], decoder: [1] };

/** On the CPU each kind of arithmetic meets the peers' own of the same coarseness. */
const OURS = {
  auto: { dtype: 'q8', peerDtype: 'f32' },
  fast: { dtype: 'q8', peerDtype: 'int8' },
  quality: { dtype: 'q8', peerDtype: 'f32' },
  f32: { dtype: 'f32', peerDtype: 'f32' },
};

/** The cases that `wanted` (see arguments.mjs) leaves, model by model. */
export function listCases(models, wanted) {
  const all = models.flatMap(({ name, component }) => [
    ...(wanted.forwards ? BATCHES[component].flatMap((batch) => forwards(name, component, batch, wanted)) : []),
    ...(wanted.pipeline && PIPELINE_MODELS.includes(name) ? pipelines(name, component, wanted) : []),
  ]);
  const allows = (list, value) => list.length === 0 || list.includes(value);
  return all.filter(
    ({ batch, device, ours, peer }) =>
      allows(wanted.batch, batch) &&
      allows(wanted.peer, peer.runtime) &&
      allows(wanted.compute, ours.compute) &&
      (wanted.all || device === (wanted.device ?? 'cpu')),
  );
}

function forwards(model, component, batch, wanted) {
  const base = { kind: 'forward', model, component, batch };
  return [
    ...onCpuBesidePeers(base, wanted),
    ...threadsAgainstOne(base, wanted, true),
    ...['litert', 'ort'].map((runtime) => onWebgpu(base, runtime)),
  ];
}

function pipelines(model, component, wanted) {
  const base = { kind: 'pipeline', model, component, batch: 2 };
  return [
    ...onCpuBesidePeers(base, wanted),
    ...(wanted.threads === undefined ? [withTwoWorkers(onCpu(base, 'quality', 1, 'litert', 'f32'))] : []),
    ...threadsAgainstOne(base, wanted, false),
  ];
}

function onCpuBesidePeers(base, wanted) {
  return COMPUTES.flatMap((compute) =>
    ['litert', 'ort'].map((runtime) => onCpu(base, compute, wanted.threads ?? 1, runtime, OURS[compute].peerDtype)),
  );
}

function onCpu(base, compute, threads, runtime, dtype) {
  return {
    ...base,
    device: 'cpu',
    isolated: threads > 1,
    ours: { runtime: 'uvit-web', backend: 'cpu', dtype: OURS[compute].dtype, compute, threads },
    peer: { runtime, backend: 'wasm', dtype, threads },
  };
}

/** What an ordinary page does by default where there are two cores; the peer gains nothing from a second thread. */
function withTwoWorkers(one) {
  return { ...one, ours: { ...one.ours, threads: 2 } };
}

/** What a second thread brings. Without isolation no memory is shared and the work is divided between workers. */
function threadsAgainstOne(base, wanted, isolated) {
  if (wanted.threads !== undefined) return [];
  const computes = wanted.compute.length > 0 ? wanted.compute : ['fast'];
  return computes.map((compute) => {
    const one = { runtime: 'uvit-web', backend: 'cpu', dtype: OURS[compute].dtype, compute, threads: 1 };
    return { ...base, device: 'cpu', isolated, ours: { ...one, threads: 2 }, peer: one };
  });
}

/** Integer arithmetic is the CPU's. */
function onWebgpu(base, runtime) {
  return {
    ...base,
    device: 'webgpu',
    isolated: false,
    ours: { runtime: 'uvit-web', backend: 'webgpu', dtype: 'q8', compute: 'f32', threads: 1 },
    peer: { runtime, backend: 'webgpu', dtype: 'f32', threads: 1 },
  };
}

/** A case in a few words. */
export function describe({ kind, model, batch, ours, peer }) {
  return `${model} b${batch} ${kind}: ${sideName(ours)} against ${sideName(peer)}`;
}

/** How one side runs, in a few words. */
export function sideName({ runtime, backend, dtype, compute, threads }) {
  const arithmetic = compute && compute !== dtype ? `${dtype} ${compute}` : dtype;
  return `${runtime} ${backend} ${arithmetic}${threads > 1 ? ` ${threads} threads` : ''}`;
}
