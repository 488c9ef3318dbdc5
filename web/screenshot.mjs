/**
 * Takes docs/page.png anew: the built page in Chromium, on the CPU, with four pictures. On a machine that has nothing else to
 * do: the picture shows how long it took.
 */

import { fileURLToPath } from 'node:url';
import { generate, launch, openPage, reach } from './test/browser.mjs';
import { startServer } from './test/server.mjs';

const server = await startServer();
const browser = await launch();
try {
  const page = await openPage(browser, `${server.url}/?label=sweet%20(fluent3d)&seed=20&count=4`);
  await page.setViewportSize({ width: 1180, height: 1000 });
  await reach(page, 'ready');
  // The first picture waits for the helpers to load.
  await generate(page);
  await generate(page);
  // Until the progress bar has come to its end.
  await page.waitForTimeout(1000);
  await page.screenshot({ path: fileURLToPath(new URL('../docs/page.png', import.meta.url)) });
  console.log(await page.locator('#status').innerText());
} finally {
  await browser.close();
  await server.close();
}
