/** uvit-web through the public API of the package. */

export async function load({ model, backend, dtype, compute, threads }) {
  const uvit = await import('/package/index.js');
  const pipeline = await uvit.load(`/converted/${model}/manifest.json`, {
    device: backend,
    dtype,
    compute,
    ...(backend === 'cpu' && { threads }),
  });
  if (!pipeline.forward) throw new Error('this build of the package has no pipeline.forward()');
  return {
    facts: { wasm: pipeline.info.wasm },
    forward: ({ x, t, y }) =>
      pipeline.forward({ latents: x.data, timesteps: t.data, ...(y && { labels: Uint32Array.from(y.data) }) }),
    // Guidance as the model's own: two forwards a step, the solver, and the pixels.
    sample: (steps) => pipeline.generate({ label: 0, steps, guidanceScale: 1.5, seed: 1 }),
  };
}
