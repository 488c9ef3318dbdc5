/** LiteRT.js. `wasm` is XNNPACK, from the build with relaxed SIMD where the browser has it; `webgpu` is ML Drift. */

import { loadAndCompile, loadLiteRt, Tensor } from '/litert/core.mjs';
import { fetchFile } from '../pages/safetensors.mjs';

export async function load({ file, backend, threads }) {
  await loadLiteRt('/litert/wasm/', { threads: threads > 1, jspi: backend === 'webgpu' });
  const bytes = new Uint8Array(await (await fetchFile(`/models/${file}`)).arrayBuffer());
  const model = await loadAndCompile(bytes, { accelerator: backend, cpuOptions: { numThreads: threads } });
  return {
    // A graph that WebGPU takes only in part goes on in wasm: not what was asked for, and worth a word.
    facts: backend === 'wasm' || model.isFullyAccelerated ? {} : { backend: `${backend}, partly wasm` },
    async forward(given) {
      const inputs = Object.values(given).map(({ data, shape }) => new Tensor(data, shape));
      const [output] = await model.run(inputs);
      const values = await output.data();
      for (const tensor of [...inputs, output]) {
        if (!tensor.deleted) tensor.delete();
      }
      return values;
    },
  };
}
