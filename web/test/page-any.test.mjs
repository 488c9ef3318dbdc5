/** The page of a model of pictures and words: every mode, ways to put a picture into its pane, stops, and the pairs that were made. */

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { after, before, test } from 'node:test';
import { launch, make, openPage, reach, WEBGPU } from './browser.mjs';
import { pixels } from './picture.mjs';
import { startServer } from './server.mjs';

/** Words for this many steps are mostly sentences already. */
const QUERY = 'model=avatars&compute=f32&steps=10';
const PROMPT = 'a sad person with short black hair, dark skin and a green shirt on a pink background';
const WORDS = /\b(person|background|shirt|hair|skin)\b/;

let server;
let browser;
before(async () => {
  server = await startServer();
  browser = await launch(WEBGPU);
});
after(async () => {
  await browser.close();
  await server.close();
});

function words(page) {
  return page.locator('#prompt').inputValue();
}

/** The pane of words and that of the picture, as they are to be after a stop. */
async function panes(page) {
  return { words: await words(page), pixels: await pixels(page), saves: await page.locator('#gallery .save').count() };
}

/** Presses the arrow of a mode, and Stop once the status says so. */
async function stopAt(page, mode, pattern) {
  await page.evaluate((pattern) => {
    const status = document.getElementById('status');
    new MutationObserver((_, observer) => {
      if (!new RegExp(pattern).test(status.textContent)) return;
      observer.disconnect();
      document.getElementById('stop').click();
    }).observe(status, { childList: true });
  }, pattern);
  await page.click(`[data-mode=${mode}]`);
  await page.waitForFunction(() => document.getElementById('status').textContent === 'Stopped');
  await reach(page, 'ready');
}

/** A picture as a file that the browser hands over, to `drop` it on the pane or to `paste` it into the page. */
async function hand(page, how, { name, type, base64 }) {
  await page.evaluate(
    async ([how, name, type, base64]) => {
      const bytes = await (await fetch(`data:${type};base64,${base64}`)).arrayBuffer();
      const data = new DataTransfer();
      data.items.add(new File([bytes], name, { type }));
      const options = { bubbles: true, cancelable: true };
      if (how === 'drop') {
        document.getElementById('gallery').dispatchEvent(new DragEvent('drop', { ...options, dataTransfer: data }));
      } else document.dispatchEvent(new ClipboardEvent('paste', { ...options, clipboardData: data }));
    },
    [how, name, type, base64],
  );
}

const EXAMPLE = readFileSync(new URL('../demo/public/pictures/1.png', import.meta.url)).toString('base64');

for (const device of ['cpu', 'webgpu']) {
  test(`words to picture to words, a pair, variations, either alone; and a stop in each: ${device}`, async () => {
    const page = await openPage(browser, `${server.url}/?device=${device}&${QUERY}&seed=11`);
    await reach(page, 'ready');
    await page.locator('#prompt').fill(PROMPT);
    assert.equal(await page.locator('[data-mode=i2t]').isDisabled(), true, 'there is no picture yet');
    await make(page, 't2i');
    assert.equal(await page.locator('#facts').getAttribute('data-device'), device);
    const drawn = await pixels(page);
    assert.equal(await words(page), PROMPT);

    await make(page, 'i2t');
    assert.deepEqual(await pixels(page), drawn, 'what is described stays');
    const told = await words(page);
    assert.match(told, WORDS);
    for (const said of ['sad', 'green shirt', 'pink background']) assert.ok(told.includes(said), `${said} in ${told}`);

    await make(page, 'i2t2i');
    assert.equal(await words(page), told);
    const varied = await pixels(page);
    assert.notDeepEqual(varied, drawn);

    await make(page, 't2i2t');
    assert.deepEqual(await pixels(page), varied);
    assert.match(await words(page), WORDS);

    await make(page, 'joint');
    const pair = await panes(page);
    assert.match(pair.words, WORDS);
    assert.notDeepEqual(pair.pixels, varied);

    await make(page, 't');
    assert.deepEqual(await pixels(page), pair.pixels);
    assert.notEqual(await words(page), pair.words);
    const before = await words(page);
    await make(page, 'i');
    assert.equal(await words(page), before);
    assert.notDeepEqual(await pixels(page), pair.pixels);

    const made = await page.locator('.card:has(.link) .hint').allInnerTexts();
    assert.deepEqual(
      made.map((text) => text.replace('Seed 11, ', '')),
      [
        'picture alone',
        'words alone',
        'both out of nothing',
        'words varied',
        'picture varied',
        'picture to words',
        'words to picture',
      ],
    );

    // A stop leaves the panes as they were, and the next thing is made as it would have been.
    const left = await panes(page);
    for (const mode of ['t2i', 'i2t', 'joint', 'i', 't', 'i2t2i', 't2i2t']) {
      await stopAt(page, mode, '^Step 3 of');
      assert.deepEqual(await panes(page), left, mode);
    }
    assert.equal(await page.locator('.card:has(.link)').count(), 7);
    await make(page, 'joint');
    assert.deepEqual(await panes(page), pair);
    assert.deepEqual(page.errors, []);
    await page.close();
  });
}

test('either half of a pair goes back into its pane, and its seed brings back all of it', async () => {
  const page = await openPage(browser, `${server.url}/?device=cpu&${QUERY}&seed=31&count=2`);
  await reach(page, 'ready');
  await make(page, 'joint');
  const first = await panes(page);
  assert.deepEqual(await page.locator('.card .link').allInnerTexts(), ['Seed 31', 'Seed 32']);

  // Another's words, then an example's picture, then all of the second pair.
  const second = await page.locator('.card .said').nth(1).innerText();
  await page.locator('.card .said').nth(1).press('Enter');
  assert.equal(await words(page), second);
  assert.deepEqual(await pixels(page), first.pixels);
  await page.getByRole('button', { name: /^Take the picture: on a green background, a laughing/ }).press('Enter');
  await page.waitForSelector('canvas[data-kind=taken]');
  assert.equal(await words(page), second);
  assert.equal(await page.locator('#gallery .save').count(), 1, 'there is nothing to save of what was not drawn here');
  await page.locator('#steps').fill('5');
  await page.locator('.card .link').nth(1).press('Enter');
  const form = async () => Promise.all(['seed', 'count', 'steps'].map((id) => page.locator(`#${id}`).inputValue()));
  assert.deepEqual(await form(), ['32', '1', '10']);
  const shown = await panes(page);
  assert.equal(shown.words, second);
  await make(page, 'joint');
  assert.deepEqual(await panes(page), shown, 'the second of two has a seed of its own');
  assert.deepEqual(page.errors, []);
  await page.close();
});

test('nothing lies beside the page on a phone, and every arrow is in it', async () => {
  const page = await openPage(browser, `${server.url}/?device=cpu&${QUERY}&seed=31`);
  await page.setViewportSize({ width: 360, height: 740 });
  await reach(page, 'ready');
  await make(page, 'joint');
  assert.equal(await page.evaluate(() => document.documentElement.scrollWidth), 360);
  for (const arrow of await page.locator('[data-mode]').all()) {
    const { x, width } = await arrow.boundingBox();
    assert.ok(x >= 0 && x + width <= 360);
  }
  await page.close();
});

test('a picture is dropped, pasted, opened or taken from the examples: the same one, and the same words for it', async () => {
  const page = await openPage(browser, `${server.url}/?device=cpu&${QUERY}&seed=21`);
  await reach(page, 'ready');
  const png = { name: 'one.png', type: 'image/png', base64: EXAMPLE };
  const ways = {
    drop: () => hand(page, 'drop', png),
    paste: () => hand(page, 'paste', png),
    open: () =>
      page
        .locator('#take-file')
        .setInputFiles({ name: 'one.png', mimeType: 'image/png', buffer: Buffer.from(EXAMPLE, 'base64') }),
    example: () => page.getByRole('button', { name: /^Take the picture: on a green background, a laughing/ }).click(),
  };
  const found = [];
  for (const way of Object.values(ways)) {
    await page.reload();
    await reach(page, 'ready');
    await way();
    await page.waitForSelector('canvas[data-kind=taken]');
    await make(page, 'i2t');
    found.push(await panes(page));
  }
  for (const other of found) assert.deepEqual(other, found[0]);
  assert.match(found[0].words, /red hair|green background/);

  // What is no picture leaves the pane as it is.
  await hand(page, 'drop', { name: 'note.txt', type: 'text/plain', base64: btoa('no picture') });
  await page.locator('#error').waitFor();
  assert.match(await page.locator('#error').innerText(), /no picture in note\.txt/);
  assert.deepEqual(await panes(page), found[0]);
  assert.deepEqual(page.errors, []);
  await page.close();
});

test('words appear token by token, and are said; the focus stays with what was pressed', async () => {
  const page = await openPage(browser, `${server.url}/?device=cpu&${QUERY}&seed=21`);
  await reach(page, 'ready');
  await hand(page, 'drop', { name: 'one.png', type: 'image/png', base64: EXAMPLE });
  await page.waitForSelector('canvas[data-kind=taken]');
  await page.evaluate(() => {
    globalThis.shown = [];
    const saying = document.getElementById('saying');
    new MutationObserver(() => {
      const { textContent, ariaBusy, hidden } = saying;
      if (!hidden) globalThis.shown.push({ text: textContent, busy: ariaBusy });
    }).observe(saying, { childList: true, characterData: true, subtree: true });
    globalThis.said = [];
    const place = document.getElementById('announce');
    new MutationObserver(() => globalThis.said.push(place.textContent)).observe(place, { childList: true });
  });
  await page.locator('[data-mode=i2t]').focus();
  await page.keyboard.press('Enter');
  await page.waitForSelector('html[data-state=running]');
  assert.equal(await page.evaluate(() => document.activeElement.id), 'stop');
  await reach(page, 'ready');
  assert.equal(await page.evaluate(() => document.activeElement.dataset.mode), 'i2t');
  const { shown, said } = await page.evaluate(() => ({ shown: globalThis.shown, said: globalThis.said }));
  assert.equal(await page.locator('#saying').getAttribute('aria-live'), 'polite');
  const estimates = shown.filter(({ busy }) => busy === 'true');
  const tokens = shown.filter(({ busy }) => busy === 'false').map(({ text }) => text);
  assert.ok(estimates.length > 0, 'there are previews of words');
  assert.ok(tokens.length > 5, `${tokens.length} texts`);
  assert.ok(tokens.every((text, i) => i === 0 || text.length >= tokens[i - 1].length - 20));
  assert.equal(tokens.at(-1), await words(page));
  assert.match(said.join(', '), /^Describing, Encoding the picture, Describing, Writing the words, Done in [\d.]+ s$/);
  assert.deepEqual(page.errors, []);
  await page.close();
});
