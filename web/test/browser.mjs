/** The browsers of the tests, and what a test asks of a page again and again. */

import { chromium } from 'playwright-core';
import puppeteer from 'puppeteer-core';

/** Switches WebGPU on where Chromium would hide it: on software adapters, and on Linux. */
export const WEBGPU = ['--enable-unsafe-webgpu'];

/** The CPU executor on two cores takes a while. */
export const PATIENCE = 300_000;

const STATES = ['ready', 'failed'];

export async function launch(args = []) {
  return chromium.launch({ executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium', headless: true, args });
}

/** Chromium with a profile on disk, until it is closed: what others cache in memory is too small for a model. */
export async function launchWithCache() {
  return chromium.launchPersistentContext('', {
    executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium',
    headless: true,
    viewport: { width: 1280, height: 900 },
  });
}

/** Firefox, with or without WebGPU, which is hidden there on Linux, and from software adapters. */
export async function launchFirefox({ webgpu }) {
  return puppeteer.launch({
    browser: 'firefox',
    executablePath: process.env.FIREFOX ?? '/usr/bin/firefox-esr',
    headless: true,
    protocolTimeout: PATIENCE,
    extraPrefsFirefox: { 'dom.webgpu.enabled': webgpu, 'gfx.webgpu.ignore-blocklist': webgpu },
  });
}

/** A page whose uncaught errors fail the test that looks at `page.errors`. */
export async function openPage(browser, url) {
  const page = await browser.newPage({ viewport: { width: 1280, height: 900 }, acceptDownloads: true });
  page.setDefaultTimeout(PATIENCE);
  page.errors = [];
  page.on('pageerror', (error) => page.errors.push(String(error)));
  await page.goto(url);
  return page;
}

/** Waits until the demo page is in a state, and says what stands in its way if it fails instead. */
export async function reach(page, state) {
  await page.waitForFunction(
    ([wanted, last]) => {
      const now = document.documentElement.dataset.state;
      return now === wanted || (now !== undefined && last.includes(now) && now === 'failed');
    },
    [state, STATES],
  );
  const now = await page.evaluate(() => document.documentElement.dataset.state);
  if (now === state) return;
  throw new Error(`the page is ${now}: ${await page.locator('#error').innerText()}`);
}

/** Presses Generate and waits for the pictures. */
export async function generate(page) {
  await page.click('#generate');
  await page.waitForSelector('html[data-state=running]', { timeout: 5000 }).catch(() => {});
  await reach(page, 'ready');
  await page.waitForSelector('canvas[data-kind=picture]');
}

/** Presses the arrow of a mode and waits for what it makes. */
export async function make(page, mode) {
  await page.click(`[data-mode=${mode}]`);
  await page.waitForSelector('html[data-state=running]', { timeout: 5000 }).catch(() => {});
  await reach(page, 'ready');
  await page.waitForFunction(() => document.getElementById('status').textContent.startsWith('Done'));
}

/** One of the figures under the pictures. */
export function fact(page, name) {
  return page.locator(`[data-fact=${name}]`).innerText();
}

/**
 * Runs `body` in a page with the package imported: it gets `(uvit, argument)` and may use `attempt(promise)`,
 * which gives `{ value }` or the error's parts.
 */
export async function withPackage(page, body, argument) {
  return page.evaluate(
    async ([source, value]) => {
      const uvit = await import(new URL('/package/index.js', location.href).href);
      globalThis.attempt = async (promise) => {
        try {
          return { value: await promise };
        } catch ({ name, code, cause, remedy, message }) {
          return { name, code, cause, remedy, message };
        }
      };
      // The body was written in the test's file, so it comes over as text.
      return new Function(`return (${source})`)()(uvit, value);
    },
    [body.toString(), argument],
  );
}
