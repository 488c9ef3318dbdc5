//! The one error type. Every error has a code (the same in Rust, in JavaScript and in the tool's exit),
//! a cause that names what was found, and a remedy that says what to do next.

use std::fmt;

/// Result with [`Error`].
pub type Result<T> = std::result::Result<T, Error>;

/// What kind of failure this is; stable across versions, the same text in JavaScript (`error.code`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Code {
    /// A setting is outside its range (steps, label, guidance scale, seed, count, ...).
    InvalidArgument,
    /// The manifest is no JSON, lacks a field, or contradicts itself.
    BadManifest,
    /// The manifest's format version is not one that this build reads.
    UnsupportedVersion,
    /// The architecture or an option of it is not one that this build runs.
    UnsupportedModel,
    /// A shard's bytes differ from the manifest's SHA-256 or length.
    ShardCorrupt,
    /// A tensor of the network is missing from the weights.
    TensorMissing,
    /// The weights hold a tensor that the network does not have.
    TensorUnexpected,
    /// A tensor's shape or dtype is not what the network needs.
    TensorShape,
    /// A weight is NaN or infinite.
    NotFinite,
    /// A checkpoint file cannot be read.
    BadCheckpoint,
    /// A file or URL could not be read or written.
    Io,
    /// There is no WebGPU adapter, or WebGPU is switched off.
    NoWebGpu,
    /// The page is not a secure context, so the browser hides WebGPU.
    InsecureContext,
    /// The adapter's limits are too small for this model.
    LimitTooSmall,
    /// A shader did not compile on this adapter.
    ShaderFailed,
    /// The GPU device was lost while working.
    DeviceLost,
    /// The device could not allocate what was asked for.
    OutOfMemory,
    /// The device computed something else than the reference does.
    WrongResult,
    /// This browser has no WebAssembly SIMD.
    SimdUnsupported,
    /// JavaScript runs in a place that lacks what the package needs: workers, say.
    UnsupportedPlatform,
    /// A worker that computed part of a step is gone.
    WorkerLost,
    /// The caller asked to stop.
    Aborted,
    /// The pipeline was disposed of.
    Disposed,
    /// A bug in this library.
    Internal,
}

impl Code {
    /// The code's stable text, as JavaScript sees it.
    pub fn as_str(self) -> &'static str {
        match self {
            Code::InvalidArgument => "INVALID_ARGUMENT",
            Code::BadManifest => "BAD_MANIFEST",
            Code::UnsupportedVersion => "UNSUPPORTED_VERSION",
            Code::UnsupportedModel => "UNSUPPORTED_MODEL",
            Code::ShardCorrupt => "SHARD_CORRUPT",
            Code::TensorMissing => "TENSOR_MISSING",
            Code::TensorUnexpected => "TENSOR_UNEXPECTED",
            Code::TensorShape => "TENSOR_SHAPE",
            Code::NotFinite => "NOT_FINITE",
            Code::BadCheckpoint => "BAD_CHECKPOINT",
            Code::Io => "IO",
            Code::NoWebGpu => "NO_WEBGPU",
            Code::InsecureContext => "INSECURE_CONTEXT",
            Code::LimitTooSmall => "LIMIT_TOO_SMALL",
            Code::ShaderFailed => "SHADER_FAILED",
            Code::DeviceLost => "DEVICE_LOST",
            Code::OutOfMemory => "OUT_OF_MEMORY",
            Code::WrongResult => "WRONG_RESULT",
            Code::SimdUnsupported => "SIMD_UNSUPPORTED",
            Code::UnsupportedPlatform => "UNSUPPORTED_PLATFORM",
            Code::WorkerLost => "WORKER_LOST",
            Code::Aborted => "ABORTED",
            Code::Disposed => "DISPOSED",
            Code::Internal => "INTERNAL",
        }
    }

    /// The code of that text, as the workers of a page hand them to each other, and as files fail that are brought.
    pub fn parse(text: &str) -> Option<Code> {
        let known = [
            Code::InvalidArgument,
            Code::ShardCorrupt,
            Code::NotFinite,
            Code::Io,
            Code::OutOfMemory,
            Code::WorkerLost,
            Code::Aborted,
            Code::Disposed,
            Code::Internal,
        ];
        known.into_iter().find(|code| code.as_str() == text)
    }

    /// The tool's exit status for this code: 2 for bad settings, 3 for bad files, 4 for devices, 130 for a stop, 70 for bugs.
    pub fn exit_status(self) -> u8 {
        match self {
            Code::InvalidArgument => 2,
            Code::BadManifest
            | Code::UnsupportedVersion
            | Code::UnsupportedModel
            | Code::ShardCorrupt
            | Code::TensorMissing
            | Code::TensorUnexpected
            | Code::TensorShape
            | Code::NotFinite
            | Code::BadCheckpoint
            | Code::Io => 3,
            Code::NoWebGpu
            | Code::InsecureContext
            | Code::LimitTooSmall
            | Code::ShaderFailed
            | Code::DeviceLost
            | Code::OutOfMemory
            | Code::WrongResult
            | Code::SimdUnsupported
            | Code::UnsupportedPlatform
            | Code::WorkerLost => 4,
            Code::Aborted => 130,
            Code::Disposed | Code::Internal => 70,
        }
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// An error: what kind, what was found, what to do. A pointer, because every `?` copies it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}: {}. {}.", .0.code, .0.cause, .0.remedy)]
pub struct Error(Box<Report>);

/// What an [`Error`] says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// What kind of failure this is.
    pub code: Code,
    /// What was found, with names and numbers; no final full stop.
    pub cause: String,
    /// What the reader can do about it; no final full stop.
    pub remedy: String,
}

impl Error {
    /// An error from its three parts; neither text ends in a full stop.
    pub fn new(code: Code, cause: impl Into<String>, remedy: impl Into<String>) -> Error {
        // Compiled once, whatever the texts are.
        fn new(code: Code, cause: String, remedy: String) -> Error {
            Error(Box::new(Report { code, cause, remedy }))
        }
        new(code, cause.into(), remedy.into())
    }

    /// A broken promise inside this library.
    pub fn internal(cause: impl Into<String>) -> Error {
        Error::new(Code::Internal, cause, "This is a bug: please report it with the steps that led here")
    }

    /// A name that is none of those that there are.
    pub(crate) fn unknown(what: &str, name: &str, remedy: impl Into<String>) -> Error {
        Error::new(Code::InvalidArgument, ["there is no ", what, " \"", name, "\""].concat(), remedy)
    }

    /// An error of a part of what is at hand: `part: cause`.
    #[must_use]
    pub fn of(mut self, part: &str) -> Error {
        self.0.cause = format!("{part}: {}", self.cause);
        self
    }
}

impl std::ops::Deref for Error {
    type Target = Report;

    fn deref(&self) -> &Report {
        &self.0
    }
}
