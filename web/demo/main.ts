/**
 * The page: loads the model, draws when asked, and can always be told to stop. Its state stands in
 * `<html data-state>`: loading, ready, running, stopping or failed.
 */

import { load, type Mode, type Pipeline, type Step, UvitError } from 'uvit-web';
import { type Clip, estimatesOf } from './clips.js';
import {
  asAddress,
  chooseDevice,
  chooseDtype,
  chosenCompute,
  chosenDevice,
  chosenDtype,
  chosenModel,
  fillControls,
  fillWeights,
  pictures,
  prompted,
  readControls,
  showAddress,
  startControls,
  takeUp,
  written,
} from './controls.js';
import { byId } from './elements.js';
import {
  type Drawing,
  drawingsOf,
  keepPictures,
  middle,
  projectBy,
  showEstimates,
  showNoise,
  showPictures,
  showPreviews,
} from './gallery.js';
import { MODELS, type Model, manifestOf } from './models.js';
import { gigabytes, SMALL, weightsOf } from './need.js';
import { fillOrigin, readOrigin, startFrom, startFromFile, startOrigin } from './origin.js';
import { keepPairs, type Pair, pairsOf, startPairs } from './pairs.js';
import * as panes from './panes.js';
import {
  clearError,
  hideFacts,
  showDevice,
  showError,
  showFacts,
  showLicences,
  showLoading,
  showStatus,
  showStep,
  showWarnings,
} from './report.js';

type State = 'loading' | 'ready' | 'running' | 'stopping' | 'failed';

/** The size of a picture while the model that knows it is still on its way. */
const LIKELY_SIZE = 64;
/** What is offered below a picture that was drawn by its label, and below a clip. */
const VARY = { text: 'Vary', aim: 'the next start from it', onPress: vary };
const BEGIN = { text: 'Begin with this', aim: 'the next begins with the frame in sight', onPress: begin };

const generate = byId('generate', HTMLButtonElement);
const stop = byId('stop', HTMLButtonElement);
const controls = byId('controls', HTMLFormElement);

let pipeline: Pipeline | undefined;
/** Ends the load or generation that is under way. */
let current = new AbortController();
/** What was pressed last to make something, and whether it is to have the focus again. */
let starter: HTMLElement = generate;
let refocus = false;
/** The model that is loaded or on its way. */
let model: Model;
/** The player and the like, once there was a model of clips. */
let moving: typeof import('./moving.js') | undefined;
/** What the film strip ends with: nothing of it is an estimate. */
let finished: { clips: Clip[]; drawings: Drawing[] } | undefined;
/** The model that somebody wants to load though the device may not bear it. */
let borne: string | undefined;

/** What the address asks for in vain, until it was told. */
let stranger = startControls(
  () => void start(),
  () => {
    showEmpty();
    hideFacts();
    void start();
  },
);
/** Puts a picture into its pane. */
const take = (source: File | HTMLImageElement) => void panes.takePicture(source).then(clearError, showError);
startOrigin(showError, (file) => {
  if (moving?.takesFirst()) moving.takeFirstFile(file).then(clearError, showError);
  else if (prompted() && pipeline?.info.imageShape) take(file);
  else startFromFile(file).catch(showError);
});
panes.startPanes((mode) => void draw(mode), take, {
  text: 'Repaint',
  aim: 'draw parts of it anew',
  onPress: repaint,
});
const prompt = byId('prompt', HTMLTextAreaElement);
startPairs(MODELS.find(({ words }) => words)?.words?.pictures ?? [], {
  onPicture: panes.putPicture,
  onExample: take,
  onWords: (words) => {
    prompt.value = words;
  },
  onPair: againPair,
});
byId('count', HTMLInputElement).addEventListener('change', () => {
  if (document.documentElement.dataset.state === 'ready') showEmpty();
});
controls.addEventListener('submit', (event) => {
  event.preventDefault();
  void draw(prompted() ? 't2i' : undefined);
});
controls.addEventListener('keydown', (event) => {
  if (event.key !== 'Enter' || event.isComposing) return;
  // Enter draws from the prompt as from any field, and does with a control key wherever one is.
  const inPrompt = event.target instanceof HTMLTextAreaElement && !event.shiftKey;
  if (!inPrompt && !event.ctrlKey && !event.metaKey) return;
  event.preventDefault();
  controls.requestSubmit();
});
stop.addEventListener('click', () => {
  setState('stopping');
  current.abort();
});
document.addEventListener('keydown', (event) => {
  if (event.key === 'Escape' && !stop.hidden) stop.click();
});

showEmpty();
void start();

/** Loads the model on the chosen device, in place of what was loaded before. */
async function start(): Promise<void> {
  current.abort();
  pipeline?.dispose();
  pipeline = undefined;
  const mine = new AbortController();
  current = mine;
  model = chosenModel();
  placeStop();
  clearError();
  showWarnings([]);
  showStatus(`Loading: ${model.name}`, { aloud: true, done: 0 });
  setState('loading');
  // What fails here is asked for again below.
  if (model.clips) startMoving().catch(() => {});
  const device = chosenDevice();
  const compute = chosenCompute();
  try {
    const parts = await bearable(mine.signal);
    if (parts === undefined) return;
    const dtype = chosenDtype();
    const loaded = await load(manifestOf(model), {
      device,
      ...(compute && { compute }),
      ...(dtype && { dtype }),
      ...(parts && { keepLoaded: false }),
      signal: mine.signal,
      onProgress: showLoading,
    });
    pipeline = loaded;
    const label = fillControls(loaded.info);
    fillOrigin(loaded.info);
    if (loaded.info.frames > 0) await startMoving();
    if (mine.signal.aborted) return;
    moving?.fillFirst(loaded.info);
    if (loaded.info.prompts) panes.fillPanes(loaded.info);
    placeStop();
    // Of a model by its address, nothing was known.
    if (!MODELS.includes(model)) showEmpty();
    showDevice(loaded.info, device);
    void offerProfile(loaded);
    showLicences(loaded.info);
    showStatus('Ready', { aloud: true, done: 0 });
    setState('ready');
    if (stranger !== undefined) tellMissing(`model ${JSON.stringify(stranger)}, which this page`, 'Pick another one');
    else if (label !== undefined) {
      tellMissing(`label ${JSON.stringify(label)}, which this model`, 'Pick a kind and a style instead');
    }
    stranger = undefined;
  } catch (thrown) {
    // Another start() has taken over: its own progress is what counts now.
    if (mine.signal.aborted) return;
    fail('The model could not be loaded', thrown);
  }
}

/**
 * Whether the device can bear the model, and whether only network by network; undefined: it cannot, which the page then says, or it was
 * asked to load another meanwhile.
 */
async function bearable(signal: AbortSignal): Promise<boolean | undefined> {
  const weights = await weightsOf(manifestOf(model), signal);
  if (signal.aborted) return undefined;
  fillWeights(weights);
  const weight = weights.find(({ dtype }) => dtype === (chosenDtype() ?? weights[0]?.dtype));
  if (!weight || weight.all < SMALL || borne === model.id) return false;
  const { verdictOn } = await import('./verdict.js');
  const verdict = await verdictOn(weight, chosenDevice());
  if (signal.aborted) return undefined;
  if (verdict === 'whole' || verdict === 'parts') return verdict === 'parts';
  const actions = weights
    .filter(({ all }) => all < weight.all)
    .map(({ dtype, all }) => ({
      text: `Load ${dtype} instead, ${gigabytes(all)}`,
      onPress: () => chooseDtype(dtype),
    }));
  const anyway = () => {
    borne = model.id;
    void start();
  };
  showStatus('Not loaded: this device may not bear it', { done: 0, aloud: true });
  showError(verdict, [...actions, { text: 'Load it anyway', onPress: anyway }]);
  setState('failed');
  return undefined;
}

/** Loads what only models of clips use, once. */
async function startMoving(): Promise<void> {
  if (moving) return;
  const loaded = await import('./moving.js');
  // Another start may have come first.
  if (moving) return;
  moving = loaded;
  projectBy(loaded.screen);
  loaded.startPlayer();
  loaded.startFirst(showError);
  loaded.startFilm((clips) => {
    if (clips === finished?.clips) showDrawings(finished.drawings);
    else showEstimates(clips);
  });
}

/** For developers, which nobody waits for. */
async function offerProfile(loaded: Pipeline): Promise<void> {
  const panel = byId('profile', HTMLElement);
  panel.hidden = true;
  if (loaded.info.device !== 'webgpu') return;
  const { fillProfile } = await import('./profile.js');
  if (loaded === pipeline) fillProfile(panel, loaded, showError);
}

/** Stop stands where what starts stands. */
function placeStop(): void {
  byId(prompted() ? 'arrows' : 'actions', HTMLElement).append(stop);
}

function tellMissing(what: string, remedy: string): void {
  showError(new UvitError('INVALID_ARGUMENT', `the address asks for the ${what} does not have`, remedy));
}

/** Draws what the form says, or, with a model of pictures and words, what a mode makes of the panes. */
async function draw(mode?: Mode): Promise<void> {
  if (document.documentElement.dataset.state !== 'ready') return;
  const options = readControls(mode);
  if (!pipeline || !options) return;
  const given = { picture: panes.pictureInPane(), words: prompt.value };
  const active = pipeline;
  const { info } = active;
  const staged = info.imageSize !== info.latentShape[1];
  const address = asAddress();
  const mine = new AbortController();
  current = mine;
  clearError();
  showWarnings([]);
  if (!mode) showEmpty();
  const doing = mode ? panes.MODES[mode].doing : 'Drawing';
  showStatus(doing, { aloud: true, done: 0 });
  setState('running', mode);
  try {
    const result = await active.generate({
      ...options,
      ...((!mode || mode === 't2i') && readOrigin()),
      ...moving?.readFirst(),
      ...(mode?.startsWith('i2') && given.picture && { image: given.picture.source }),
      floatPixels: true,
      signal: mine.signal,
      onStep: (step) => {
        showStep(step, staged, doing);
        const clips = estimatesOf(step, info);
        if (clips.length > 0) moving?.addStep(nameOf(step), clips);
        else if (mode) panes.showShape(step);
        else if (step.preview) showPreviews(step.preview);
      },
    });
    const addressOf = (seed: number) => written(address, { seed: String(seed), count: '1' });
    const drawings = drawingsOf(result, info, addressOf);
    if (mode) {
      panes.showMade(mode, result, drawings);
      keepPairs(pairsOf(mode, result, drawings, given, addressOf));
    } else {
      const clips = drawings.flatMap(({ clip }) => clip ?? []);
      finished = { clips, drawings };
      moving?.endFilm(clips);
      showDrawings(drawings);
      keepPictures(drawings, again);
    }
    showFacts(result, info);
    showWarnings(result.warnings);
    showAddress(written(address, { seed: String(result.seed) }));
    setState('ready');
  } catch (thrown) {
    // Switching devices disposes of the pipeline in mid-picture; start() has the word then.
    if (active !== pipeline) return;
    if (mode) panes.showPane();
    if (thrown instanceof UvitError && thrown.code === 'ABORTED') {
      showStatus('Stopped', { aloud: true });
      setState('ready');
    } else if (thrown instanceof UvitError && ['INVALID_ARGUMENT', 'UNSUPPORTED_MODEL'].includes(thrown.code)) {
      showStatus('Not drawn', { done: 0 });
      showError(thrown);
      setState('ready');
    } else {
      fail('Drawing failed', thrown);
    }
  }
}

/** The next pictures start from this one. */
function vary(canvas: HTMLCanvasElement): void {
  startFrom(canvas);
  showStatus('The next pictures start from this one', { aloud: true });
}

/** The next clips begin with the frame in sight. */
function begin(canvas: HTMLCanvasElement): void {
  moving?.takeFirst(middle(canvas, pipeline?.info.imageSize ?? canvas.width));
  showStatus('The next clip begins with this frame', { aloud: true });
}

/** Finished pictures or clips, with what is offered for them. */
function showDrawings(drawings: Drawing[]): void {
  const offer = drawings.some(({ clip }) => clip) ? BEGIN : VARY;
  showPictures(drawings, offer, (words) => showStatus(words, { aloud: true }));
}

function nameOf({ step, steps, window, windows }: Step): string {
  return `Step ${step} of ${steps}${windows > 1 ? `, part ${window} of ${windows}` : ''}: an estimate`;
}

/** Likewise, where there are words: that is for what is drawn from them. On phones the editor is far below. */
function repaint(canvas: HTMLCanvasElement): void {
  startFrom(canvas);
  byId('origin', HTMLElement).scrollIntoView({ block: 'nearest' });
  showStatus('What is drawn next starts from this one', { aloud: true });
}

/** Puts a pair back into the panes, and the form as it was when it was made. */
function againPair({ picture, words, seed, address }: Pair): void {
  takeUp(address);
  clearError();
  showWarnings([]);
  hideFacts();
  prompt.value = words;
  panes.putPicture(picture);
  if (pipeline) fillControls(pipeline.info);
  showStatus(`Seed ${seed} once more: its settings are back`, { aloud: true, done: 0 });
}

/** Shows a picture that was drawn before, with the form as it was then, so that it can be drawn again. */
function again(drawing: Drawing): void {
  takeUp(drawing.address);
  clearError();
  showWarnings([]);
  hideFacts();
  showEmpty();
  showDrawings([drawing]);
  if (chosenModel() !== model) void start();
  else if (pipeline) {
    fillControls(pipeline.info);
    showStatus(`Seed ${drawing.seed} once more: its settings are back`, { aloud: true, done: 0 });
  }
}

function fail(what: string, thrown: unknown): void {
  showStatus(what, { done: 0 });
  const actions: { text: string; onPress: () => void }[] = [{ text: 'Load again', onPress: () => void start() }];
  if (chosenDevice() !== 'cpu') actions.push({ text: 'Use the CPU', onPress: () => chooseDevice('cpu') });
  showError(thrown, actions);
  setState('failed');
}

function showEmpty(): void {
  finished = undefined;
  const still = pipeline ? pipeline.info.frames === 0 : !chosenModel().clips;
  byId('player', HTMLElement).hidden = byId('film', HTMLElement).hidden = still;
  moving?.clearFilm();
  if (prompted()) panes.showPane();
  else showNoise(pictures(), pipeline?.info.imageSize ?? usualSize());
}

function usualSize(): number {
  return chosenModel().clips ? LIKELY_SIZE / 2 : LIKELY_SIZE;
}

function setState(state: State, mode?: Mode): void {
  document.documentElement.dataset.state = state;
  const busy = state === 'running' || state === 'stopping';
  const focused = document.activeElement;
  if (state === 'running') starter = mode ? panes.arrowOf(mode) : generate;
  const hadFocus = focused === starter || focused === stop || (focused === document.body && !busy && refocus);
  refocus = busy && (hadFocus || refocus);
  panes.allow(state === 'ready', mode);
  generate.hidden = busy;
  generate.disabled = state !== 'ready';
  stop.hidden = !busy;
  for (const id of ['strip', 'pair-field']) byId(id, HTMLFieldSetElement).disabled = busy;
  stop.disabled = state === 'stopping';
  stop.textContent = state === 'stopping' ? 'Stopping' : 'Stop';
  // The two buttons take each other's place: keyboard users must not fall back to the top of the page.
  if (hadFocus) (busy ? stop : starter).focus();
}
