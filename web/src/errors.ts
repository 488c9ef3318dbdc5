/**
 * The one error type. The codes are those of the Rust crate (`src/error.rs`), word for word, so that a
 * failure has the same name in the page, in the worker and in the command-line tool.
 */

const CODES = [
  'INVALID_ARGUMENT',
  'BAD_MANIFEST',
  'UNSUPPORTED_VERSION',
  'UNSUPPORTED_MODEL',
  'SHARD_CORRUPT',
  'TENSOR_MISSING',
  'TENSOR_UNEXPECTED',
  'TENSOR_SHAPE',
  'NOT_FINITE',
  'BAD_CHECKPOINT',
  'IO',
  'NO_WEBGPU',
  'INSECURE_CONTEXT',
  'LIMIT_TOO_SMALL',
  'SHADER_FAILED',
  'DEVICE_LOST',
  'OUT_OF_MEMORY',
  'WRONG_RESULT',
  'SIMD_UNSUPPORTED',
  'UNSUPPORTED_PLATFORM',
  'WORKER_LOST',
  'ABORTED',
  'DISPOSED',
  'INTERNAL',
] as const;

/** What kind of failure an error is; stable across versions. */
export type ErrorCode = (typeof CODES)[number];

/** An error's parts as they cross from the worker to the page (class instances do not). */
export interface ErrorParts {
  code: ErrorCode;
  cause: string;
  remedy: string;
}

/** Every rejection of this package is one of these. */
export class UvitError extends Error {
  /** What kind of failure this is. */
  readonly code: ErrorCode;
  /** What was found, with names and numbers; no final full stop. */
  override readonly cause: string;
  /** What can be done about it; no final full stop. */
  readonly remedy: string;

  constructor(code: ErrorCode, cause: string, remedy: string) {
    super(`${code}: ${cause}. ${remedy}.`);
    // The name that `fetch` and friends use, so that code which already ignores aborts ignores ours.
    this.name = code === 'ABORTED' ? 'AbortError' : 'UvitError';
    this.code = code;
    this.cause = cause;
    this.remedy = remedy;
  }

  /** The parts that can be sent to another thread. */
  parts(): ErrorParts {
    return { code: this.code, cause: this.cause, remedy: this.remedy };
  }
}

/** Turns whatever was thrown (by the wasm core, by the browser, by us) into a {@link UvitError}. */
export function toUvitError(thrown: unknown): UvitError {
  if (thrown instanceof UvitError) return thrown;
  const { code, cause, remedy, message } = (thrown ?? {}) as Record<string, unknown>;
  if (isCode(code)) return new UvitError(code, String(cause ?? message), String(remedy ?? ''));
  if (thrown instanceof WebAssembly.RuntimeError) {
    // A panic says nothing there, but where it was.
    console.error(thrown);
    return internal(`the wasm core stopped (${message})`);
  }
  return internal(String(message ?? thrown));
}

/** A broken promise inside this package. */
export function internal(cause: string): UvitError {
  return new UvitError(
    'INTERNAL',
    withoutFullStop(cause),
    'This is a bug: please report it with the steps that led here; loading the model again may help',
  );
}

/** The caller asked to stop. */
export function aborted(what: string): UvitError {
  return new UvitError('ABORTED', `${what} was stopped`, 'Start it again when you want to');
}

/** A setting is of the wrong type or outside its range. */
export function invalidArgument(cause: string, remedy: string): UvitError {
  return new UvitError('INVALID_ARGUMENT', cause, remedy);
}

function isCode(code: unknown): code is ErrorCode {
  return CODES.includes(code as ErrorCode);
}

function withoutFullStop(text: string): string {
  return text.replace(/\.+$/, '');
}
