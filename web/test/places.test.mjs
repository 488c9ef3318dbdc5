/** Where the package can be called: in pages and in workers. Elsewhere it says what it needs. */

import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { toUvitError } from '../dist/errors.js';
import { launch, openPage } from './browser.mjs';
import { startServer } from './server.mjs';

let server;
let browser;
let page;
before(async () => {
  server = await startServer();
  browser = await launch();
  page = await openPage(browser, `${server.url}/blank.html`);
});
after(async () => {
  await browser.close();
  await server.close();
});

/** Runs a function in a worker of the page, with the script at this address. */
function inWorker(body, script) {
  return page.evaluate(
    async ([source, script]) => {
      let address = script;
      if (!address) {
        const text = await (await fetch('/blank.js')).text();
        address = URL.createObjectURL(new Blob([text], { type: 'text/javascript' }));
      }
      const worker = new Worker(address);
      const answer = new Promise((resolve, reject) => {
        worker.onmessage = ({ data }) => resolve(data);
        worker.onerror = ({ message }) => reject(new Error(message));
      });
      worker.postMessage(source);
      return answer.finally(() => worker.terminate());
    },
    [body.toString(), script],
  );
}

test('a worker loads a model by an address relative to its script, and draws', async () => {
  const body = async () => {
    const { load, capabilities } = await import('/package/index.js');
    const pipeline = await load('models/emoji/manifest.json', { device: 'cpu' });
    const { images } = await pipeline.generate({ label: 0, steps: 2, seed: 1 });
    pipeline.dispose();
    return { bytes: images[0].imageData.data.length, simd: (await capabilities()).cpu.simd128 };
  };
  assert.deepEqual(await inWorker(body, '/blank.js'), { bytes: 64 * 64 * 4, simd: true });
});

test('a worker without an address of its own needs whole ones, and says so', async () => {
  const body = async () => {
    const { origin } = self;
    const { load } = await import(`${origin}/package/index.js`);
    const error = await load('models/emoji/manifest.json').catch((error) => error);
    const pipeline = await load(`${origin}/models/emoji/manifest.json`, { device: 'cpu' });
    const { images } = await pipeline.generate({ label: 0, steps: 1 });
    return { code: error.code, cause: error.cause, images: images.length };
  };
  const { code, cause, images } = await inWorker(body);
  assert.equal(code, 'INVALID_ARGUMENT');
  assert.match(cause, /relative to blob:/);
  assert.equal(images, 1);
});

test('a worker whose browser lets it start no others says so', async () => {
  const body = async () => {
    self.Worker = undefined;
    const { load } = await import('/package/index.js');
    const { code, cause } = await load('models/emoji/manifest.json').catch((error) => error);
    return { code, cause };
  };
  assert.deepEqual(await inWorker(body, '/blank.js'), {
    code: 'UNSUPPORTED_PLATFORM',
    cause: 'this place has no Worker',
  });
});

test('in Node.js the package can be imported, and says what it needs', async () => {
  const { load, capabilities, UvitError } = await import('../dist/index.js');
  for (const call of [() => load('manifest.json'), capabilities]) {
    const error = await call().then(
      () => undefined,
      (error) => error,
    );
    assert.ok(error instanceof UvitError, String(error));
    assert.equal(error.code, 'UNSUPPORTED_PLATFORM');
    assert.match(error.cause, /Worker.*ImageData/);
    assert.match(error.remedy, /page of a browser/);
  }
});

test('where the core panics, the error says so, and the console where', (t) => {
  const log = t.mock.method(console, 'error', () => {});
  // A module whose one function is the instruction that a panic ends in.
  const code = '0061736d0100000001040160000003020100070501016600000a05010300000b';
  const { exports } = new WebAssembly.Instance(new WebAssembly.Module(Buffer.from(code, 'hex')));
  let thrown;
  try {
    exports.f();
  } catch (trap) {
    thrown = trap;
  }
  const { code: found, cause, remedy } = toUvitError(thrown);
  assert.deepEqual([found, cause], ['INTERNAL', 'the wasm core stopped (unreachable)']);
  assert.match(remedy, /report it with the steps that led here/);
  assert.match(log.mock.calls[0].arguments[0].stack, /wasm/);
});
