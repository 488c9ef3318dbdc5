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
    facts: { wasm: pipeline.info.wasm, compute: pipeline.info.compute },
    async forward({ x, t, y }) {
      const labels = y && Uint32Array.from(y.data);
      // Builds before version 2 of the manifest knew no ports.
      if (!pipeline.info.ports) return pipeline.forward({ latents: x.data, timesteps: t.data, ...(y && { labels }) });
      return (await pipeline.forward({ x: x.data, timesteps: t.data, ...(y && { y: labels }) })).out;
    },
    // Guidance as the model's own: two forwards a step, the solver, and the pixels.
    sample: (steps) => pipeline.generate({ label: 0, steps, guidanceScale: 1.5, seed: 1 }),
  };
}
