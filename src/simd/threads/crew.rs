//! Threads that wait awake for the next loop of the one that leads them.

use std::cell::UnsafeCell;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};

thread_local! {
    /// Its address tells one thread from another.
    static ME: u8 = const { 0 };
}

/// Of this thread, never 0.
fn me() -> usize {
    ME.with(|me| std::ptr::from_ref(me).addr())
}

/// A loop to share.
type Turn<'a> = &'a (dyn Fn(usize) + Sync);

/// What the leader and its followers look at. A follower counts itself in before it looks whether a loop is open; the
/// leader closes the loop before it waits until nobody is counted in. So whoever takes turns is waited for, and whoever
/// comes too late takes none.
#[derive(Default)]
pub(super) struct Crew {
    /// The thread that leads, 0 without one.
    leader: AtomicUsize,
    open: AtomicBool,
    inside: AtomicUsize,
    next: AtomicUsize,
    job: UnsafeCell<Option<(Turn<'static>, usize)>>,
}

// SAFETY: `job` is written by the leader alone, while no loop is open and nobody is inside; it is read only inside.
unsafe impl Sync for Crew {}

/// Ends what it guards even if a turn panics.
struct Guard<'a>(&'a AtomicUsize);

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        self.0.store(0, SeqCst);
    }
}

impl Crew {
    /// Runs `work` with so many followers, in a pool of threads. Those that find no free thread are not missed; under
    /// another leader, there are none.
    pub fn lead<T: Send>(&self, followers: usize, work: impl FnOnce() -> T + Send) -> T {
        let leader = me();
        if self.leader.compare_exchange(0, leader, SeqCst, SeqCst).is_err() {
            return work();
        }
        let ends = Guard(&self.leader);
        rayon::in_place_scope(|scope| {
            let _ends = ends;
            for _ in 0..followers {
                scope.spawn(|_| self.follow(leader));
            }
            work()
        })
    }

    /// Whether this thread has followers that wait for a loop. Inside a loop they do not.
    pub fn shares(&self) -> bool {
        self.leader.load(SeqCst) == me() && !self.open.load(SeqCst)
    }

    /// Shares the turns of a loop; returns when all are done. Only where [`Crew::shares`].
    pub fn share(&self, turns: usize, turn: Turn<'_>) {
        // SAFETY: the reference is used by those inside only, and this function does not return while anyone is; no loop
        // is open, so nobody reads the place now.
        unsafe { *self.job.get() = Some((std::mem::transmute::<Turn<'_>, Turn<'static>>(turn), turns)) };
        debug_assert!(self.shares());
        self.next.store(0, SeqCst);
        self.open.store(true, SeqCst);
        let close = Close(self);
        self.take_turns(turn, turns);
        drop(close);
    }

    fn take_turns(&self, turn: Turn<'_>, turns: usize) {
        loop {
            let i = self.next.fetch_add(1, SeqCst);
            if i >= turns {
                return;
            }
            turn(i);
        }
    }

    fn follow(&self, leader: usize) {
        let mut idle = 0u32;
        while self.leader.load(SeqCst) == leader {
            if !self.open.load(SeqCst) {
                idle += 1;
                // On a busy machine somebody else has a use for the core.
                if idle.is_multiple_of(1 << 14) {
                    std::thread::yield_now();
                }
                std::hint::spin_loop();
                continue;
            }
            idle = 0;
            self.inside.fetch_add(1, SeqCst);
            let _leaves = Leave(&self.inside);
            if self.open.load(SeqCst) {
                // SAFETY: counted in while the loop was open, so the leader waits before it writes the place.
                if let Some((turn, turns)) = unsafe { *self.job.get() } {
                    self.take_turns(turn, turns);
                }
            }
        }
    }
}

/// Counts a follower out, even if its turn panics.
struct Leave<'a>(&'a AtomicUsize);

impl Drop for Leave<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, SeqCst);
    }
}

/// Closes the loop and waits for those inside.
struct Close<'a>(&'a Crew);

impl Drop for Close<'_> {
    fn drop(&mut self) {
        self.0.open.store(false, SeqCst);
        while self.0.inside.load(SeqCst) > 0 {
            std::hint::spin_loop();
        }
    }
}
