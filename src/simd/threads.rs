//! Loops whose turns are independent, over as many threads as there are.
//!
//! rayon keeps the threads; within one [`Threads::enter`] they stay awake and take turns from a counter. A kernel of this
//! crate lasts a tenth of a millisecond, about as long as waking a thread of a browser does.

#[cfg(feature = "threads")]
mod crew;

/// How many threads work on a kernel; one means the caller's alone.
pub struct Threads {
    count: usize,
    #[cfg(feature = "threads")]
    crew: crew::Crew,
    #[cfg(all(feature = "threads", not(target_arch = "wasm32")))]
    pool: Option<rayon::ThreadPool>,
}

impl Default for Threads {
    fn default() -> Threads {
        Threads::new(1)
    }
}

impl Threads {
    /// `count` threads, at least one. In the browser they are those of `initThreadPool`, started before. A system that
    /// refuses them leaves the caller's.
    pub fn new(count: usize) -> Threads {
        let count = if cfg!(feature = "threads") { count.max(1) } else { 1 };
        #[cfg(all(feature = "threads", not(target_arch = "wasm32")))]
        let pool = if count > 1 { rayon::ThreadPoolBuilder::new().num_threads(count).build().ok() } else { None };
        #[cfg(all(feature = "threads", not(target_arch = "wasm32")))]
        let count = if pool.is_some() { count } else { 1 };
        Threads {
            count,
            #[cfg(feature = "threads")]
            crew: crew::Crew::default(),
            #[cfg(all(feature = "threads", not(target_arch = "wasm32")))]
            pool,
        }
    }

    /// All cores, natively; one in the browser.
    pub fn all() -> Threads {
        let cores = || std::thread::available_parallelism().map_or(1, |n| n.get());
        Threads::new(if cfg!(target_arch = "wasm32") { 1 } else { cores() })
    }

    /// How many.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Runs `work`, whose [`Threads::each`] are shared by all threads. Where others are in it already, the caller works alone.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        #[cfg(all(feature = "threads", not(target_arch = "wasm32")))]
        if let Some(pool) = &self.pool {
            return pool.install(|| self.crew.lead(self.count - 1, work));
        }
        #[cfg(all(feature = "threads", target_arch = "wasm32"))]
        if self.count > 1 {
            return rayon::scope(|_| self.crew.lead(self.count - 1, work));
        }
        work()
    }

    /// `turn(i)` for every i below `turns`, in any order.
    pub fn each(&self, turns: usize, turn: impl Fn(usize) + Sync) {
        #[cfg(feature = "threads")]
        if turns > 1 && self.crew.shares() {
            return self.crew.share(turns, &turn);
        }
        (0..turns).for_each(turn);
    }

    /// `part(from, to)` over `0 .. items`, cut into a few parts a thread.
    pub fn parts(&self, items: usize, part: impl Fn(usize, usize) + Sync) {
        let parts = if self.count == 1 { 1 } else { (4 * self.count).min(items).max(1) };
        self.each(parts, |i| part(i * items / parts, (i + 1) * items / parts));
    }
}

/// Memory that several threads write, each its own places.
#[derive(Clone, Copy)]
pub(super) struct Shared<T>(pub *mut T);

// SAFETY: whoever writes through it states that no two threads write, or read and write, the same place.
unsafe impl<T> Send for Shared<T> {}
// SAFETY: as above.
unsafe impl<T> Sync for Shared<T> {}

impl<T> Shared<T> {
    /// Of a slice.
    pub fn of(slice: &mut [T]) -> Shared<T> {
        Shared(slice.as_mut_ptr())
    }

    /// Element `i`.
    #[inline(always)]
    pub fn at(self, i: usize) -> *mut T {
        self.0.wrapping_add(i)
    }
}
