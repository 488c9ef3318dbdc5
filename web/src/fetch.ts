/** Fetching files with byte progress and with errors that name the URL. */

import { UvitError } from './errors.js';

/** A file as text. */
export async function fetchText(url: string): Promise<string> {
  const response = await get(url);
  try {
    return await response.text();
  } catch (thrown) {
    throw broken(url, thrown);
  }
}

/**
 * A file of known length; `onProgress` gets the bytes received so far. The length is checked here, before a
 * byte too many is kept; the content is the core's to check, by its hash.
 */
export async function fetchBytes(
  url: string,
  length: number,
  onProgress: (received: number) => void,
): Promise<Uint8Array> {
  const response = await get(url);
  if (!response.body) throw wrongLength(url, length, 0);
  const bytes = new Uint8Array(length);
  const reader = response.body.getReader();
  let received = 0;
  for (;;) {
    const { done, value } = await reader.read().catch((thrown: unknown) => {
      throw broken(url, thrown);
    });
    if (done) break;
    if (received + value.length > length) {
      void reader.cancel();
      throw wrongLength(url, length, received + value.length);
    }
    bytes.set(value, received);
    received += value.length;
    onProgress(received);
  }
  if (received < length) throw wrongLength(url, length, received);
  return bytes;
}

async function get(url: string): Promise<Response> {
  let response: Response;
  try {
    response = await fetch(url);
  } catch (thrown) {
    throw broken(url, thrown);
  }
  if (!response.ok) {
    throw new UvitError(
      'IO',
      `${url} answered ${response.status} ${response.statusText}`.trim(),
      'Check the URL, and that the manifest and its shards lie in one folder',
    );
  }
  return response;
}

function broken(url: string, thrown: unknown): UvitError {
  const why = thrown instanceof Error ? thrown.message : String(thrown);
  return new UvitError(
    'IO',
    `${url} could not be fetched (${why})`,
    'Check the connection, and that the server allows this page to read it (CORS)',
  );
}

function wrongLength(url: string, expected: number, found: number): UvitError {
  const relation = found > expected ? `at least ${found}` : `${found}`;
  return new UvitError(
    'SHARD_CORRUPT',
    `${url} has ${relation} bytes where the manifest says ${expected}`,
    'Fetch or convert the model again; the file was cut short or replaced',
  );
}
