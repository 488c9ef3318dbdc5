/**
 * The form: which model, what to draw and how. It is filled from an address (`?model=..&prompt=..&seed=..`) and the model's
 * defaults, and can be written as one again: so links, other models and earlier pictures come back the same way.
 */

import type { Compute, DeviceChoice, Dtype, GenerateOptions, Label, Mode, PipelineInfo } from 'uvit-web';
import { lengthOf } from './clips.js';
import { button, byId, make } from './elements.js';
import { GROUPS, MODELS, type Model, modelOf } from './models.js';
import { gigabytes, type Weight } from './need.js';
import { openPanes } from './panes.js';

const SEEDS = 2 ** 32;
/** Where guidance only from some noise levels is off. */
const ALWAYS = '0,1';
/** So many labels can be seen at a glance. */
const FEW = 16;
/** How many windows long clips are made of. */
const WINDOWS = [1, 2, 3, 4, 6, 8];
/** In the list of models, what asks for an address. */
const ELSEWHERE = '+';

const modelSelect = byId('model', HTMLSelectElement);
const elsewhere = byId('elsewhere', HTMLOptGroupElement);
const addressField = byId('address-field', HTMLElement);
const address = byId('address', HTMLInputElement);
const words = byId('words', HTMLElement);
const prompt = byId('prompt', HTMLTextAreaElement);
const negative = byId('negative', HTMLInputElement);
const negativeField = byId('negative-field', HTMLElement);
const examples = byId('examples', HTMLElement);
const kinds = byId('kinds', HTMLFieldSetElement);
const styles = byId('styles', HTMLFieldSetElement);
const kindOptions = byId('kind-options', HTMLElement);
const styleOptions = byId('style-options', HTMLElement);
const labelField = byId('labels', HTMLElement);
const labelSelect = byId('label', HTMLSelectElement);
const motions = byId('motions', HTMLFieldSetElement);
const motionOptions = byId('motion-options', HTMLElement);
const classField = byId('class-field', HTMLElement);
const classNumber = byId('class', HTMLInputElement);
const framesField = byId('frames-field', HTMLElement);
const frames = byId('frames', HTMLSelectElement);
const seed = byId('seed', HTMLInputElement);
const count = byId('count', HTMLInputElement);
const steps = byId('steps', HTMLInputElement);
const guidance = byId('guidance', HTMLInputElement);
const sampler = byId('sampler', HTMLSelectElement);
const grid = byId('grid', HTMLSelectElement);
const interval = byId('interval', HTMLFieldSetElement);
const low = byId('interval-low', HTMLInputElement);
const high = byId('interval-high', HTMLInputElement);
const device = byId('device', HTMLSelectElement);
const compute = byId('compute', HTMLSelectElement);
const dtype = byId('dtype', HTMLSelectElement);
const cache = byId('cache', HTMLInputElement);
const preview = byId('preview', HTMLInputElement);

/** What the form was last filled from. */
let asked = new URLSearchParams(location.search);
/** What the form said of models that were picked before. */
const left = new Map<string, URLSearchParams>();
let model = MODELS[0] as Model;
/** The loaded model; undefined while it is on its way, when the fields that it decides mean nothing. */
let known: PipelineInfo | undefined;
let labels: Label[] = [];

/** How names of samplers, grids and styles are written for people, where a capital letter is not enough. */
const TITLES: Record<string, string> = {
  dpmpp_2m: 'DPM-Solver++ (2M)',
  dpmpp_3m: 'DPM-Solver++ (3M)',
  dpmpp_2m_sde: 'DPM-Solver++ (2M SDE)',
  unipc: 'UniPC',
  deis: 'DEIS',
  dpmpp_3s: 'DPM-Solver++ (singlestep)',
  dpm_solver: 'DPM-Solver (singlestep)',
  dpm_adaptive: 'DPM-Solver (adaptive)',
  ddim: 'DDIM',
  ddpm: 'DDPM',
  plms: 'PLMS',
  pndm: 'PNDM',
  lcm: 'LCM, for distilled models',
  euler_maruyama_sde: 'Euler-Maruyama (SDE)',
  euler_maruyama_ode: 'Euler (ODE)',
  time_uniform: 'Even in time',
  log_snr: 'Even in log SNR',
  linspace: 'Training steps, both ends',
  leading: 'Training steps, leading',
  trailing: 'Training steps, trailing',
  respaced: 'Training steps, respaced',
  strided: 'Training steps, strided',
  fluent3d: 'Fluent 3D',
};

/** A name of the manifest, written for people. */
export function title(name: string): string {
  return TITLES[name] ?? name.charAt(0).toUpperCase() + name.slice(1).replaceAll('_', ' ');
}

/** Wires the form and fills the part of it that needs no model. Returns the model that the address asks for in vain, if it does. */
export function startControls(onRuntime: () => void, onModel: () => void): string | undefined {
  for (const [label, models] of Object.entries(GROUPS)) {
    const options = models.map(({ id, name }) => make('option', { value: id }, name));
    elsewhere.before(make('optgroup', { label }, ...options));
  }
  elsewhere.append(make('option', { value: ELSEWHERE }, 'By its address …'));
  const pick = (id: string) => {
    const picked = modelOf(id);
    if (!picked) return;
    left.set(model.id, asAddress());
    takeUp(left.get(picked.id) ?? new URLSearchParams({ model: picked.id, count: count.value }));
    onModel();
  };
  modelSelect.addEventListener('change', () => {
    addressField.hidden = modelSelect.value !== ELSEWHERE;
    if (addressField.hidden) pick(modelSelect.value);
    else address.focus();
  });
  const go = () => {
    const wanted = address.value.trim();
    // A bare name would be one of ours.
    if (wanted) pick(/[/.]/.test(wanted) ? wanted : `${wanted}/`);
  };
  address.addEventListener('keydown', (event) => {
    if (event.key !== 'Enter') return;
    event.preventDefault();
    event.stopPropagation();
    go();
  });
  byId('address-load', HTMLButtonElement).addEventListener('click', go);
  for (const select of [device, compute, dtype]) {
    select.addEventListener('change', () => {
      showAddress(asAddress());
      onRuntime();
    });
  }
  motionOptions.addEventListener('change', showMotion);
  for (const range of [steps, guidance]) range.addEventListener('input', showRanges);
  seed.addEventListener('input', () => seed.removeAttribute('aria-invalid'));
  count.addEventListener('change', () => {
    count.value = clamped(count.value, count);
  });
  byId('dice', HTMLButtonElement).addEventListener('click', () => {
    const word = crypto.getRandomValues(new Uint32Array(1))[0] ?? 0;
    // Short seeds are easier to tell a friend.
    seed.value = String(word % 1_000_000);
    seed.removeAttribute('aria-invalid');
  });
  byId('surprise', HTMLButtonElement).addEventListener('click', () => {
    prompt.value = model.words?.compose() ?? '';
  });
  const wanted = asked.get('model');
  fillFrom(asked);
  return wanted === null || wanted === model.id ? undefined : wanted;
}

/** Fills the form from another address, but for the device; `fillControls` does what needs the model. */
export function takeUp(address: URLSearchParams): void {
  fillFrom(written(address, { device: device.value, compute: compute.value }));
  showAddress(asked);
}

/** The part that needs no model. */
function fillFrom(address: URLSearchParams): void {
  asked = address;
  known = undefined;
  model = modelOf(asked.get('model')) ?? (MODELS[0] as Model);
  if (![...modelSelect.options].some(({ value }) => value === model.id)) {
    elsewhere.prepend(make('option', { value: model.id }, model.name));
  }
  modelSelect.value = model.id;
  addressField.hidden = true;
  dtype.replaceChildren();
  byId('dtype-field', HTMLElement).hidden = true;
  byId('about', HTMLElement).textContent = model.about;
  for (const select of [device, compute]) {
    select.value = asked.get(select.id) ?? 'auto';
    if (select.selectedIndex < 0) select.value = 'auto';
  }
  const open = !asked.has('label') && !asked.has('prompt');
  seed.value = asked.get('seed') ?? (open ? (model.first.seed ?? '') : '');
  seed.removeAttribute('aria-invalid');
  count.value = clamped(asked.get('count') ?? '1', count);
  const [from = null, to = null] = (asked.get('interval') ?? ALWAYS).split(',');
  [low.value, high.value] = [clamped(from, low), clamped(to, high)];
  showWords(model.words !== undefined, model.clips !== undefined);
  prompt.value = asked.get('prompt') ?? (open ? (model.first.prompt ?? '') : '');
  negative.value = asked.get('negative') ?? '';
  byId('surprise', HTMLButtonElement).hidden = !model.words;
  examples.replaceChildren(
    ...(model.words?.examples ?? []).map(([name, text]) => {
      const chip = button('option', name, () => {
        prompt.value = text;
      });
      chip.title = text;
      return chip;
    }),
  );
  fillGhosts();
  showRanges();
}

/** The part that the model decides. Returns the label that the address asks for in vain, if it does. */
export function fillControls(info: PipelineInfo): string | undefined {
  // Loading again, on another device, must not forget what was chosen since.
  if (known) asked = asAddress();
  known = info;
  labels = info.labels;
  // What is usual for the model is well within reach.
  guidance.max = String(Math.max(5, 2 * info.defaults.guidanceScale));
  steps.value = clamped(asked.get('steps') ?? String(info.defaults.steps), steps);
  guidance.value = clamped(asked.get('guidance') ?? String(info.defaults.guidanceScale), guidance);
  showRanges();
  fillSelect(sampler, info.samplers, info.defaults.sampler);
  fillSelect(grid, ['', ...info.grids], '');
  interval.hidden = (info.nullClass ?? null) === null && !info.prompts;
  for (const option of compute.options) option.disabled = !isFor(option.value, info.device);
  byId('cache-field', HTMLElement).hidden = !info.cache;

  const moving = info.frames > 0;
  showWords(info.prompts, moving);
  fillFrames(info);
  const wanted = asked.get('label');
  const found = wanted === null ? undefined : findLabel(wanted);
  const first = found ?? findLabel(model.first.label ?? '') ?? labels[0];
  const sorted = labels.length > 0 && labels.every((label) => label.kind && label.style);
  kinds.hidden = !sorted;
  styles.hidden = !sorted;
  const few = !sorted && labels.length > 0 && labels.length <= FEW;
  labelField.hidden = sorted || few || labels.length === 0;
  motions.hidden = !few;
  byId('motions-legend', HTMLElement).textContent = moving ? 'Motion' : 'Label';
  // Without names, classes are numbers, of which the last may stand for none.
  const classes = labels.length === 0 && info.ports.some(({ kind }) => kind === 'indices') && !info.prompts;
  classField.hidden = !classes;
  classNumber.max = String((info.nullClass ?? 1000) - 1);
  if (classes) classNumber.value = clamped(wanted ?? '0', classNumber);
  if (few) {
    const of = ({ index }: Label) => String(index);
    fillRadios(motionOptions, 'motion', labels.map(of), first && of(first), (index) => nameOf(Number(index)));
    showMotion();
  } else if (sorted) {
    fillRadios(kindOptions, 'kind', unique(labels.map((label) => label.kind)), first?.kind);
    fillRadios(styleOptions, 'style', unique(labels.map((label) => label.style)), first?.style);
  } else {
    labelSelect.replaceChildren(...labels.map((label) => make('option', { value: String(label.index) }, label.name)));
    labelSelect.value = String(first?.index ?? '');
  }
  return wanted !== null && !found && !classes ? wanted : undefined;
}

/** Fills the choice of stored forms, of which the first is the usual one. */
export function fillWeights(weights: Weight[]): void {
  // Loading again must not forget what was chosen since.
  const wanted = dtype.options.length > 0 ? dtype.value : asked.get('dtype');
  dtype.replaceChildren(
    ...weights.map(({ dtype, all }, k) => {
      const value = k === 0 ? '' : dtype;
      return make('option', { value }, `${dtype}, ${gigabytes(all)}${k === 0 ? ', as usual' : ''}`);
    }),
  );
  byId('dtype-field', HTMLElement).hidden = weights.length < 2;
  if (weights.some((weight, k) => k > 0 && weight.dtype === wanted)) dtype.value = wanted ?? '';
}

/** Which stored form the form asks for; undefined: the usual one. */
export function chosenDtype(): Dtype | undefined {
  return (dtype.value || undefined) as Dtype | undefined;
}

/** Asks for another stored form, as the person would. */
export function chooseDtype(choice: Dtype): void {
  dtype.value = choice;
  dtype.dispatchEvent(new Event('change'));
}

/** Whether the model that is picked reads words. */
export function prompted(): boolean {
  return known ? known.prompts : model.words !== undefined;
}

/** How long clips may be: as the model draws them, or in several windows, each of which knows the end of the one before. */
function fillFrames({ frames: own, frameRate }: PipelineInfo): void {
  framesField.hidden = own === 0;
  const fresh = own - Math.max(1, Math.floor(own / 4));
  const lengths = own === 0 ? [] : WINDOWS.map((windows) => own + (windows - 1) * fresh);
  const wanted = Number(asked.get('frames') ?? own);
  if (wanted > own && Number.isInteger(wanted) && !lengths.includes(wanted)) lengths.push(wanted);
  lengths.sort((a, b) => a - b);
  frames.replaceChildren(...lengths.map((n) => make('option', { value: String(n) }, lengthOf(n, frameRate))));
  frames.value = String(lengths.includes(wanted) ? wanted : own);
}

/** What is seen of the motion that is picked. */
function showMotion(): void {
  const says = model.clips?.[chosenLabel()?.name ?? ''];
  const hint = byId('motion-says', HTMLElement);
  hint.hidden = !says;
  hint.textContent = says ? `${says.charAt(0).toUpperCase()}${says.slice(1)}.` : '';
}

function nameOf(index: number): string {
  return labels.find((label) => label.index === index)?.name ?? String(index);
}

/** The form as an address. */
export function asAddress(): URLSearchParams {
  const said: Record<string, string> = { model: model.id };
  for (const input of [device, compute, dtype, seed, count]) said[input.id] = input.value.trim();
  if (!words.hidden) Object.assign(said, { prompt: prompt.value, negative: negative.value });
  if (known) {
    for (const input of [steps, guidance, sampler, grid]) said[input.id] = input.value;
    said.interval = `${low.value},${high.value}`;
    said.frames = frames.value;
    const label = chosenLabel();
    if (label) said.label = label.name;
    else if (!classField.hidden) said.label = classNumber.value;
  }
  return written(asked, said);
}

/** An address with other values; what is as usual is left out. */
export function written(address: URLSearchParams, values: Record<string, string>): URLSearchParams {
  const usual: Record<string, unknown> = {
    model: MODELS[0]?.id,
    device: 'auto',
    compute: 'auto',
    dtype: '',
    frames: known?.frames || '',
    seed: '',
    count: 1,
    negative: '',
    interval: ALWAYS,
    grid: '',
    steps: known?.defaults.steps,
    guidance: known?.defaults.guidanceScale,
    sampler: known?.defaults.sampler,
  };
  const all = Object.entries({ ...Object.fromEntries(address), ...values });
  return new URLSearchParams(all.filter(([name, value]) => usual[name] === undefined || value !== String(usual[name])));
}

/** Writes an address where it can be copied; nothing is fetched. */
export function showAddress(address: URLSearchParams): void {
  history.replaceState(null, '', `${location.pathname}${address.size > 0 ? `?${address}` : ''}`);
}

/** The model that is picked. */
export function chosenModel(): Model {
  return model;
}

/** Either words are read or labels are chosen; of things that move others than of those that do not. */
function showWords(read: boolean, moving: boolean): void {
  openPanes(read, moving ? 'Clips' : 'Pictures', model.words !== undefined);
  negativeField.hidden = !read;
  // Of a model by its address nothing is known beforehand.
  kinds.hidden = styles.hidden = read || moving || !MODELS.includes(model);
  motions.hidden = !moving;
  labelField.hidden = classField.hidden = framesField.hidden = true;
}

/** The settings as `generate()` takes them; undefined (and the field marked) where the seed is none. */
export function readControls(mode?: Mode): GenerateOptions | undefined {
  const label = chosenLabel();
  const text = seed.value.trim();
  const number = Number(text);
  if (text !== '' && !(/^\d+$/.test(text) && number + pictures() <= SEEDS)) {
    seed.setAttribute('aria-invalid', 'true');
    seed.focus();
    return undefined;
  }
  const guided = mode !== 'i' && mode !== 't';
  return {
    ...(label && { label: label.index }),
    ...(!label && !classField.hidden && { label: Number(clamped(classNumber.value, classNumber)) }),
    ...(!framesField.hidden && Number(frames.value) !== known?.frames && { frames: Number(frames.value) }),
    ...(mode && known?.modes.includes(mode) && { mode }),
    ...(mode?.startsWith('t2') && { prompt: prompt.value }),
    ...(mode === 't2i' && negative.value.trim() && { negativePrompt: negative.value }),
    ...(text !== '' && { seed: number }),
    steps: Number(steps.value),
    // Nothing guides what is made alone.
    ...(guided && { guidanceScale: Number(guidance.value) }),
    count: pictures(),
    sampler: sampler.value,
    ...(grid.value && { grid: grid.value }),
    ...(guided &&
      !interval.hidden &&
      (low.value !== '0' || high.value !== '1') && { guidanceInterval: [Number(low.value), Number(high.value)] }),
    preview: preview.checked,
    cache: cache.checked && !byId('cache-field', HTMLElement).hidden,
  };
}

/** Which device the form asks for. */
export function chosenDevice(): DeviceChoice {
  return device.value as DeviceChoice;
}

/** Which arithmetic the form asks for; undefined leaves it to the device. */
export function chosenCompute(): Compute | undefined {
  // A choice made for one device must not stand in another's way.
  return compute.value === 'auto' || !isFor(compute.value, device.value) ? undefined : (compute.value as Compute);
}

/** Whether a device has an arithmetic; "auto" of either is open. */
function isFor(arithmetic: string, device: string): boolean {
  const short = device === 'cpu' ? ['w8a8'] : device === 'webgpu' ? ['quality', 'fast'] : [];
  return !short.includes(arithmetic);
}

/** Asks for another device, as the person would. */
export function chooseDevice(choice: DeviceChoice): void {
  device.value = choice;
  device.dispatchEvent(new Event('change'));
}

/** How many pictures are asked for. */
export function pictures(): number {
  return Number(clamped(count.value, count));
}

function chosenLabel(): Label | undefined {
  if (!labelField.hidden) return labels.find((label) => label.index === Number(labelSelect.value));
  if (!motions.hidden) return labels.find((label) => String(label.index) === checked(motionOptions));
  const kind = checked(kindOptions);
  const style = checked(styleOptions);
  return labels.find((label) => label.kind === kind && label.style === style);
}

function findLabel(wanted: string): Label | undefined {
  if (/^\d+$/.test(wanted)) return labels.find((label) => label.index === Number(wanted));
  return labels.find((label) => label.name === wanted) ?? labels.find((label) => label.kind === wanted);
}

/** Names to choose from: what the address asks for, or the usual one comes first. */
function fillSelect(select: HTMLSelectElement, names: string[], usual: string): void {
  const wanted = asked.get(select.id);
  select.replaceChildren(
    ...names.map((value) => make('option', { value }, value ? title(value) : 'As usual for the sampler')),
  );
  select.value = wanted !== null && names.includes(wanted) ? wanted : usual;
}

function fillRadios(
  place: HTMLElement,
  name: string,
  values: string[],
  chosen: string | undefined,
  say: (value: string) => string = (value) => value,
): void {
  place.replaceChildren(
    ...values.map((value) => {
      const radio = make('input', { type: 'radio', name, value });
      radio.checked = value === chosen;
      return make('label', { class: 'option' }, radio, title(say(value)));
    }),
  );
}

/** What stands in the pickers' place until the model says what it can draw. */
function fillGhosts(): void {
  const widths = [78, 80, 70, 64, 78, 76, 56, 60, 72, 60];
  const ghost = (width?: number) =>
    make('span', { class: 'option ghost', style: width ? `--width: ${width}px` : undefined });
  kindOptions.replaceChildren(...widths.map(ghost));
  motionOptions.replaceChildren(...widths.slice(0, 8).map(ghost));
  byId('motion-says', HTMLElement).textContent = '';
  styleOptions.replaceChildren(ghost(), ghost(), ghost());
}

function checked(place: HTMLElement): string | undefined {
  return place.querySelector<HTMLInputElement>('input:checked')?.value;
}

function unique(values: (string | undefined)[]): string[] {
  return [...new Set(values.filter((value) => value !== undefined))];
}

function showRanges(): void {
  const scale = Number(guidance.value);
  // Before the model has said what is usual, the numbers would be of another.
  byId('steps-value', HTMLOutputElement).value = known ? steps.value : '';
  byId('guidance-value', HTMLOutputElement).value = !known ? '' : scale === 1 ? 'off' : scale.toFixed(1);
}

function clamped(text: string | null, input: HTMLInputElement): string {
  const value = Number(text);
  const whole = Number.isFinite(value) ? value : Number(input.min);
  return String(Math.min(Math.max(whole, Number(input.min)), Number(input.max)));
}
