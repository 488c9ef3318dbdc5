//! Numbers on a cache line's boundary: a vector that straddles two lines takes twice as long to load.

use std::collections::TryReserveError;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};

#[derive(Clone, Copy)]
#[repr(align(64))]
struct Line(#[allow(dead_code)] [u32; 16]);

/// Numbers of 32 bits, the first one on a cache line's boundary.
#[derive(Default)]
pub struct Lines<T> {
    lines: Vec<Line>,
    len: usize,
    numbers: PhantomData<T>,
}

/// Numbers of 32 bits, zero where all bits are.
pub trait Word: Copy {}
impl Word for f32 {}
impl Word for u32 {}

impl<T: Word> Lines<T> {
    /// So many zeros.
    pub fn zeroed(len: usize) -> Lines<T> {
        Lines { lines: vec![Line([0; 16]); len.div_ceil(16)], len, numbers: PhantomData }
    }

    /// So many zeros.
    ///
    /// # Errors
    /// If there is no memory for them.
    pub fn try_zeroed(len: usize) -> Result<Lines<T>, TryReserveError> {
        let mut lines = Vec::new();
        lines.try_reserve_exact(len.div_ceil(16))?;
        lines.resize(len.div_ceil(16), Line([0; 16]));
        Ok(Lines { lines, len, numbers: PhantomData })
    }

    /// Other numbers than before, whichever.
    pub fn resize(&mut self, len: usize) {
        grow(&mut self.lines, len.div_ceil(16));
        self.len = len;
    }
}

/// To at least so many lines.
#[inline(never)]
fn grow(lines: &mut Vec<Line>, len: usize) {
    if lines.len() < len {
        lines.resize(len, Line([0; 16]));
    }
}

impl<T: Word> Deref for Lines<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // SAFETY: a line is sixteen words, any bits are a value of them, and their alignment is the smaller one.
        unsafe { std::slice::from_raw_parts(self.lines.as_ptr().cast(), self.len) }
    }
}

impl<T: Word> DerefMut for Lines<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as above.
        unsafe { std::slice::from_raw_parts_mut(self.lines.as_mut_ptr().cast(), self.len) }
    }
}
