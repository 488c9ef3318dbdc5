//! Counts the bytes that a device's buffers take.

use std::sync::{Arc, Mutex};

/// Device memory that buffers take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// Buffers made so far, those of readbacks included.
    pub made: usize,
    /// Bytes in use.
    pub bytes: usize,
    /// The most that ever were.
    pub peak_bytes: usize,
}

/// Keeps count of a device's memory.
#[derive(Clone, Debug, Default)]
pub struct Meter(Arc<Mutex<Memory>>);

impl Meter {
    /// As of now.
    pub fn memory(&self) -> Memory {
        self.0.lock().map(|memory| *memory).unwrap_or_default()
    }

    /// Counts a buffer until the answer is dropped.
    pub fn count(&self, bytes: usize) -> Metered {
        if let Ok(mut memory) = self.0.lock() {
            memory.made += 1;
            memory.bytes += bytes;
            memory.peak_bytes = memory.peak_bytes.max(memory.bytes);
        }
        Metered { meter: self.clone(), bytes }
    }
}

/// A buffer that is counted.
#[derive(Debug)]
pub struct Metered {
    meter: Meter,
    bytes: usize,
}

impl Drop for Metered {
    fn drop(&mut self) {
        if let Ok(mut memory) = self.meter.0.lock() {
            memory.bytes -= self.bytes;
        }
    }
}
