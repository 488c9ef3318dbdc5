/** Chromium: starting it, opening pages in it, and the CPU time that it has used. */

import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { chromium } from 'playwright-core';
import { UsageError } from './arguments.mjs';

/** Without it Chromium hides WebGPU on Linux, and on software adapters everywhere. */
const WEBGPU = '--enable-unsafe-webgpu';
/** Linux counts a process's time in hundredths of a second. */
const TICK_MS = 10;

export async function launch(flags) {
  const executablePath = process.env.CHROMIUM || '/usr/bin/chromium';
  if (!existsSync(executablePath)) {
    throw new UsageError(`there is no browser at ${executablePath}: set CHROMIUM to Chrome's or Chromium's program`);
  }
  return chromium.launch({ executablePath, headless: true, args: [WEBGPU, ...flags] });
}

/** A page on which `window.bench` is ready. */
export async function openPage(browser, url) {
  const page = await browser.newPage();
  page.setDefaultTimeout(0);
  page.on('pageerror', (error) => console.error(`page: ${error.message}`));
  if (process.env.VERBOSE) page.on('console', (message) => console.error(`page: ${message.text()}`));
  await page.goto(url);
  await page.waitForFunction('window.bench', undefined, { timeout: 60_000 });
  return page;
}

/**
 * CPU milliseconds used so far by every process below this one, compiler threads included; steadier than the clock
 * on a busy machine. Undefined where there is no /proc.
 */
export function cpuMs() {
  if (!existsSync('/proc/self/stat')) return undefined;
  const processes = new Map();
  for (const name of readdirSync('/proc')) {
    const found = /^\d+$/.test(name) && readStat(name);
    if (found) processes.set(Number(name), found);
  }
  let sum = 0;
  for (const [id, { ms }] of processes) {
    if (isBelow(id, processes)) sum += ms;
  }
  return sum;
}

/** Parent and CPU time of a process, unless it has just ended. */
function readStat(id) {
  try {
    // The second field is a name in parentheses in which anything may stand; the third begins after the last one.
    const text = readFileSync(`/proc/${id}/stat`, 'utf8');
    const fields = text.slice(text.lastIndexOf(')') + 2).split(' ');
    return { parent: Number(fields[1]), ms: TICK_MS * (Number(fields[11]) + Number(fields[12])) };
  } catch {
    return undefined;
  }
}

function isBelow(id, processes) {
  let above = processes.get(id)?.parent;
  while (above && above !== process.pid) above = processes.get(above)?.parent;
  return above === process.pid;
}
