/** uvit-web through the public API of the package. */

/** What comes out of each component. */
const OUTPUTS = { denoiser: 'out', decoder: 'decoded', text_encoder: 'last_hidden_state' };

export async function load({ model, component, backend, dtype, compute, threads }) {
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
    async forward({ t: time, ...inputs }) {
      const tensors = time ? { timesteps: time.data } : {};
      for (const [name, { data }] of Object.entries(inputs)) {
        tensors[name] = data instanceof Int32Array ? Uint32Array.from(data) : data;
      }
      return (await pipeline.forward(tensors, { component }))[OUTPUTS[component]];
    },
    // Guidance as the model's own: two forwards a step, the solver, and the pixels.
    sample: (steps) => pipeline.generate({ label: 0, steps, guidanceScale: 1.5, seed: 1 }),
  };
}
