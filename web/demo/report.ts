/** What the page says: progress, which device runs and why, what a picture took, errors and what to do. */

import {
  type AdapterInfo,
  type Compute,
  type GenerateResult,
  type LoadProgress,
  type PipelineInfo,
  type Stage,
  type Step,
  UvitError,
} from 'uvit-web';
import { lengthOf } from './clips.js';
import { title } from './controls.js';
import { button, byId, make } from './elements.js';
import { fileName, save } from './gallery.js';
import { MODES } from './panes.js';

const bar = byId('progress', HTMLProgressElement);
const status = byId('status', HTMLElement);
const pace = byId('pace', HTMLElement);
const announce = byId('announce', HTMLElement);
const notice = byId('notice', HTMLElement);
const error = byId('error', HTMLElement);
const warnings = byId('warnings', HTMLElement);

/** How much of the bar each stage fills, about as long as it takes. */
const PARTS: Record<Stage, [number, number]> = {
  text: [0, 0.02],
  encoding: [0.02, 0.04],
  sampling: [0.04, 0.92],
  decoding: [0.92, 1],
  captioning: [0.92, 1],
};

/** What stands between backquotes is to be typed. */
const HOW_TO_GET_WEBGPU = [
  'Chrome or Edge 113 or newer on Windows, macOS and ChromeOS, 121 or newer on Android; Safari 26; Firefox 141 on Windows.',
  'In Chrome, open `chrome://settings/system` and switch on graphics acceleration, then restart it.',
  '`chrome://gpu` shows in the line “WebGPU” what your browser makes of your graphics card.',
  'On Linux, switch on `chrome://flags/#enable-unsafe-webgpu`, or start Chrome with `--enable-unsafe-webgpu --enable-features=Vulkan`.',
  'The page must come over https or from localhost.',
];

/** How the kinds of arithmetic are written for people. */
const ARITHMETIC: Record<Compute, string> = {
  f32: 'Exact, 32-bit floats',
  quality: 'Quality, integers',
  fast: 'Fast, short integers',
  f16: 'Half precision, 16-bit floats',
  w8a8: 'Fast, 8-bit integers',
};

/** Text under the bar; said aloud as well when it marks a change and not just one more step. */
export function showStatus(text: string, options: { aloud?: boolean; done?: number } = {}): void {
  status.textContent = text;
  pace.textContent = '';
  if (options.aloud) announce.textContent = text;
  if (options.done !== undefined) bar.value = options.done;
}

export function showLoading({ phase, loadedBytes, totalBytes }: LoadProgress): void {
  const texts = {
    runtime: 'Starting the runtime',
    manifest: 'Reading the manifest',
    weights: `Loading the model, ${megabytes(loadedBytes)} of ${megabytes(totalBytes)} MB`,
    compile: 'Preparing the kernels',
  };
  showStatus(texts[phase], { done: totalBytes > 0 ? loadedBytes / totalBytes : 0 });
}

/** A step of a stage; `staged` where sampling is not all, which `doing` is a word for. */
export function showStep(event: Step, staged: boolean, doing: string): void {
  const { stage, step, steps, elapsedMs, window, windows } = event;
  const which = steps > 1 ? `picture ${Math.min(step + 1, steps)} of ${steps}` : 'the picture';
  const texts = {
    text: 'Reading the words',
    encoding: `Encoding ${which}`,
    sampling: `${windows > 1 ? `Part ${window} of ${windows}, step` : 'Step'} ${step} of ${steps}`,
    decoding: `Decoding ${which}`,
    captioning: `Writing the words${step > 0 ? `, ${step} so far` : ''}`,
  };
  // What is said aloud is the stage, once.
  const aloud = stage === 'sampling' ? doing : step === 0 && texts[stage];
  if (aloud && aloud !== announce.textContent) announce.textContent = aloud;
  const [from, to] = staged ? PARTS[stage] : [0, 1];
  showStatus(texts[stage], { done: from + ((to - from) * step) / steps });
  if (stage !== 'sampling') return;
  const each = elapsedMs / step;
  const left = ((steps - step) * each) / 1000;
  pace.textContent = `${milliseconds(each)} a step${left >= 1 ? `, ${Math.round(left)} s left` : ''}`;
}

/** The chip in the header; where the CPU was chosen for want of a GPU, why, and the way to one. */
export function showDevice(info: PipelineInfo, choice: string): void {
  const badge = byId('badge', HTMLElement);
  badge.hidden = false;
  badge.dataset.device = info.device;
  badge.title = info.deviceReason;
  byId('badge-text', HTMLElement).textContent =
    info.device === 'cpu' ? `CPU · ${parallel(info.threads, info.workers)}` : `WebGPU · ${adapterName(info.adapter)}`;
  notice.hidden = !(info.device === 'cpu' && choice === 'auto');
  if (notice.hidden) return;
  notice.replaceChildren(
    make('p', {}, make('strong', {}, 'The CPU draws. '), sentence(info.deviceReason)),
    howToGetWebGpu(),
  );
}

export function showLicences({ licences }: PipelineInfo): void {
  byId('licences', HTMLElement).hidden = licences.length === 0;
  byId('licence-list', HTMLElement).replaceChildren(
    ...licences.map(({ name, spdx, attribution }) =>
      make('li', {}, `${name} (${spdx})`, attribution && `: ${attribution}`),
    ),
  );
}

/** Key, term and value of one of the figures. */
type Row = [string, string, string | HTMLElement];

/** What the last pictures took, and what made them. */
export function showFacts(result: GenerateResult, info: PipelineInfo): void {
  const { timings, settings, dispatches } = result;
  const mean = timings.stepMs.reduce((sum, ms) => sum + ms, 0) / Math.max(timings.stepMs.length, 1);
  const device = result.device === 'cpu' ? 'CPU' : `WebGPU, ${adapterName(result.adapter)}`;
  const origin = `A picture, strength ${settings.strength}${settings.masked ? ', parts kept' : ''}`;
  const cores: Row[] = [
    ['parallel', 'At work', parallel(info.threads, result.workers)],
    ['wasm', 'Instructions', info.wasm === 'simd128' ? '128-bit SIMD' : 'Relaxed SIMD'],
  ];
  const stages: Row[] = [
    ['text', 'Reading the words', timings.textMs > 0 ? milliseconds(timings.textMs) : 'Read before'],
    ['encoding', 'Encoding the picture', milliseconds(timings.encodingMs)],
    ['decode', 'Decoding', milliseconds(timings.decodeMs)],
    ['caption', 'Writing the words', milliseconds(timings.captionMs)],
  ];
  const floats: Row = ['floats', 'Unrounded values', button('link', 'Save as .npy', () => saveFloats(result, info))];
  const ran: Record<string, boolean> = {
    text: settings.prompt !== null,
    encoding: timings.encodingMs > 0,
    decode: timings.decodeMs > 0,
    caption: timings.captionMs > 0,
  };
  const rows: Row[] = [
    ...(settings.mode ? ([['mode', 'Made', title(MODES[settings.mode].done)]] as Row[]) : []),
    ...(result.clips.length > 0 ? ([['clip', 'Clip', lengthOf(result.frames, result.frameRate)]] as Row[]) : []),
    ...(settings.firstFrames > 0 ? ([['first', 'Begins with', 'The frame that was given']] as Row[]) : []),
    ['step', 'Time per step', milliseconds(mean)],
    ...stages.filter(([key]) => ran[key]),
    ['total', 'In all', `${(timings.totalMs / 1000).toFixed(2)} s, ${settings.steps} steps`],
    ['dispatches', 'GPU dispatches', dispatches.toLocaleString('en')],
    ['weights', 'Model', `${(info.parameters / 1e6).toFixed(1)} M weights, ${info.dtype}, ${megabytes(info.bytes)} MB`],
    ['sampler', 'Sampler', `${title(settings.sampler)}, guidance ${settings.guidanceScale}`],
    ...(settings.grid ? ([['grid', 'Time grid', title(settings.grid)]] as Row[]) : []),
    ...(settings.strength !== null ? ([['origin', 'Started from', origin]] as Row[]) : []),
    ['device', 'Drawn by', device],
    ['compute', 'Arithmetic', ARITHMETIC[result.compute]],
    ...(result.device === 'cpu' ? cores : []),
    ...(result.images.some((image) => image.floats) ? [floats] : []),
    ['reason', 'Why this device', sentence(result.deviceReason)],
  ];
  const facts = byId('facts', HTMLElement);
  facts.hidden = false;
  facts.replaceChildren(
    ...rows.map(([key, term, value]) =>
      make(
        'div',
        key === 'reason' ? { class: 'wide' } : {},
        make('dt', {}, term),
        make('dd', { 'data-fact': key }, value),
      ),
    ),
  );
  facts.dataset.device = result.device;
  showStatus(`Done in ${(timings.totalMs / 1000).toFixed(1)} s`, { aloud: true, done: 1 });
  pace.textContent = `${milliseconds(mean)} a step`;
}

/** The figures are of the last pictures: with others in sight they would mislead. */
export function hideFacts(): void {
  byId('facts', HTMLElement).hidden = true;
}

/** What one should know of the pictures: a text that was cut, say. */
export function showWarnings(texts: string[]): void {
  warnings.hidden = texts.length === 0;
  warnings.replaceChildren(...texts.map((text) => make('p', {}, sentence(text))));
}

async function saveFloats(result: GenerateResult, info: PipelineInfo): Promise<void> {
  const [first] = result.images;
  const values = result.images.flatMap(({ floats }) => floats ?? []);
  if (!first) return;
  const { toNpy } = await import('./floats.js');
  save(toNpy(values, [values.length, info.channels, first.height, first.width]), `${fileName(result, info, 0)}.npy`);
}

/** A failure: what happened, what to do, and a button that does it. */
export function showError(thrown: unknown, actions: { text: string; onPress: () => void }[] = []): void {
  const known = thrown instanceof UvitError ? thrown : undefined;
  const noGpu = known?.code === 'NO_WEBGPU' || known?.code === 'INSECURE_CONTEXT';
  error.hidden = false;
  error.dataset.code = known?.code ?? 'INTERNAL';
  error.replaceChildren(
    make('p', {}, make('strong', {}, sentence(known?.cause ?? String(thrown)))),
    known ? make('p', {}, sentence(known.remedy)) : '',
    noGpu ? howToGetWebGpu() : '',
    make('div', { class: 'buttons' }, ...actions.map(({ text, onPress }) => button('quiet', text, onPress))),
    make('p', { class: 'code' }, `Error code ${error.dataset.code}`),
  );
}

export function clearError(): void {
  error.hidden = true;
  error.replaceChildren();
  delete error.dataset.code;
}

/** Who shares the work on the CPU. */
function parallel(threads: number, workers: number): string {
  if (threads > 1) return `${threads} threads`;
  return workers > 1 ? `${workers} workers` : '1 thread';
}

/** Browsers hide most of it on purpose; whatever there is helps to tell two adapters apart. */
function adapterName(adapter: AdapterInfo | null): string {
  if (!adapter) return 'unnamed adapter';
  const name = adapter.description || [adapter.vendor, adapter.architecture].filter(Boolean).join(' ');
  return `${name || 'unnamed adapter'}${adapter.isFallbackAdapter ? ' (software)' : ''}`;
}

function howToGetWebGpu(): HTMLElement {
  const parts = (text: string) => text.split('`').map((part, i) => (i % 2 === 1 ? make('code', {}, part) : part));
  const items = HOW_TO_GET_WEBGPU.map((text) => make('li', {}, ...parts(text)));
  return make('details', {}, make('summary', {}, 'How to get WebGPU'), make('ul', {}, ...items));
}

function milliseconds(ms: number): string {
  return ms >= 1000 ? `${(ms / 1000).toFixed(1)} s` : `${ms >= 10 ? Math.round(ms) : ms.toFixed(1)} ms`;
}

function megabytes(bytes: number): string {
  return (bytes / 1e6).toFixed(1);
}

/** Causes and remedies come without a full stop, and some begin with a name in lower case. */
function sentence(text: string): string {
  // An address is no word.
  const capital = /^https?:/.test(text) ? text : text.charAt(0).toUpperCase() + text.slice(1);
  return /[.!?]$/.test(capital) ? capital : `${capital}.`;
}
