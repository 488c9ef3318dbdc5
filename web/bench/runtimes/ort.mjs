/** onnxruntime-web. `webgpu` is its native execution provider, not the older one of the default bundle. */

import { fetchFile } from '../pages/safetensors.mjs';

const FILES = '/ort/';

export async function load({ file, batch, backend, threads }) {
  const ort = await import(`${FILES}ort.${backend}.bundle.min.mjs`);
  ort.env.wasm.wasmPaths = FILES;
  ort.env.wasm.numThreads = threads;
  ort.env.logLevel = 'error';
  const bytes = new Uint8Array(await (await fetchFile(`/models/${file}`)).arrayBuffer());
  const { provider, name } = await providerFor(backend);
  const session = await ort.InferenceSession.create(bytes, {
    executionProviders: [provider],
    graphOptimizationLevel: 'all',
    freeDimensionOverrides: { batch },
  });
  return {
    facts: { backend: name },
    async forward(inputs) {
      const feeds = {};
      for (const [input, { data, shape }] of Object.entries(inputs)) {
        feeds[input] = new ort.Tensor(data instanceof Int32Array ? 'int32' : 'float32', data, shape);
      }
      const { out } = await session.run(feeds);
      const values = await out.getData();
      out.dispose();
      return values;
    },
  };
}

/**
 * On Chromium's software adapter the fused attention computes wrong values with subgroups, and says nothing; on a device
 * made without that feature it is right.
 */
async function providerFor(backend) {
  const adapter = backend === 'webgpu' ? await navigator.gpu?.requestAdapter() : undefined;
  if (!adapter?.info.isFallbackAdapter) return { provider: backend, name: backend };
  const requiredLimits = {};
  for (const limit of LIMITS) requiredLimits[limit] = adapter.limits[limit];
  const device = await adapter.requestDevice({ requiredLimits });
  return { provider: { name: backend, device }, name: 'webgpu-nosub' };
}

const LIMITS = [
  'maxBufferSize',
  'maxStorageBufferBindingSize',
  'maxStorageBuffersPerShaderStage',
  'maxComputeWorkgroupStorageSize',
  'maxComputeInvocationsPerWorkgroup',
  'maxComputeWorkgroupSizeX',
  'maxComputeWorkgroupSizeY',
  'maxComputeWorkgroupSizeZ',
  'maxComputeWorkgroupsPerDimension',
];
