/**
 * The page: loads the model, draws when asked, and can always be told to stop. Its state stands in
 * `<html data-state>`: loading, ready, running, stopping or failed.
 */

import { load, type Pipeline, UvitError } from 'uvit-web';
import {
  chooseDevice,
  chosenCompute,
  chosenDevice,
  fillControls,
  pictures,
  readControls,
  startControls,
} from './controls.js';
import { byId } from './elements.js';
import { showNoise, showPictures, showPreviews } from './gallery.js';
import { fillOrigin, readOrigin, startFrom, startOrigin } from './origin.js';
import { offerProfile } from './profile.js';
import {
  clearError,
  showDevice,
  showError,
  showFacts,
  showLicences,
  showLoading,
  showStatus,
  showStep,
} from './report.js';

type State = 'loading' | 'ready' | 'running' | 'stopping' | 'failed';

const MANIFEST = 'models/emoji/manifest.json';
/** The size of a picture while the model that knows it is still on its way. */
const LIKELY_SIZE = 64;

const generate = byId('generate', HTMLButtonElement);
const stop = byId('stop', HTMLButtonElement);

let pipeline: Pipeline | undefined;
/** Ends the load or generation that is under way. */
let current = new AbortController();

startControls(() => void start());
startOrigin(showError);
byId('count', HTMLInputElement).addEventListener('change', () => {
  if (document.documentElement.dataset.state === 'ready') showEmpty();
});
byId('controls', HTMLFormElement).addEventListener('submit', (event) => {
  event.preventDefault();
  if (document.documentElement.dataset.state === 'ready') void draw();
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
  clearError();
  setState('loading');
  const device = chosenDevice();
  const compute = chosenCompute();
  try {
    const loaded = await load(MANIFEST, {
      device,
      ...(compute && { compute }),
      signal: mine.signal,
      onProgress: showLoading,
    });
    pipeline = loaded;
    const missing = fillControls(loaded.info);
    fillOrigin(loaded.info);
    showDevice(loaded.info, device);
    offerProfile(loaded, (thrown) => showError(thrown));
    showLicences(loaded.info);
    showStatus('Ready', { aloud: true, done: 0 });
    setState('ready');
    if (missing !== undefined) {
      const cause = `the address asks for the label ${JSON.stringify(missing)}, which this model does not have`;
      showError(new UvitError('INVALID_ARGUMENT', cause, 'Pick a kind and a style instead'));
    }
  } catch (thrown) {
    // Another start() has taken over: its own progress is what counts now.
    if (mine.signal.aborted) return;
    fail('The model could not be loaded', thrown);
  }
}

/** Draws what the form says. */
async function draw(): Promise<void> {
  const options = readControls();
  if (!pipeline || !options) return;
  const active = pipeline;
  const mine = new AbortController();
  current = mine;
  clearError();
  showEmpty();
  showStatus('Drawing', { aloud: true, done: 0 });
  setState('running');
  try {
    const result = await active.generate({
      ...options,
      ...readOrigin(),
      floatPixels: true,
      signal: mine.signal,
      onStep: (step) => {
        showStep(step);
        if (step.preview) showPreviews(step.preview);
      },
    });
    showPictures(result, (canvas) => {
      startFrom(canvas);
      showStatus('The next pictures start from this one', { aloud: true });
    });
    showFacts(result, active.info);
    setState('ready');
  } catch (thrown) {
    // Switching devices disposes of the pipeline in mid-picture; start() has the word then.
    if (active !== pipeline) return;
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

function fail(what: string, thrown: unknown): void {
  showStatus(what, { done: 0 });
  const actions: { text: string; onPress: () => void }[] = [{ text: 'Load again', onPress: () => void start() }];
  if (chosenDevice() !== 'cpu') actions.push({ text: 'Use the CPU', onPress: () => chooseDevice('cpu') });
  showError(thrown, actions);
  setState('failed');
}

function showEmpty(): void {
  showNoise(pictures(), pipeline?.info.imageSize ?? LIKELY_SIZE);
}

function setState(state: State): void {
  document.documentElement.dataset.state = state;
  const busy = state === 'running' || state === 'stopping';
  const hadFocus = document.activeElement === generate || document.activeElement === stop;
  generate.hidden = busy;
  generate.disabled = state !== 'ready';
  stop.hidden = !busy;
  stop.disabled = state === 'stopping';
  stop.textContent = state === 'stopping' ? 'Stopping' : 'Stop';
  // The two buttons take each other's place: keyboard users must not fall back to the top of the page.
  if (hadFocus) (busy ? stop : generate).focus();
}
