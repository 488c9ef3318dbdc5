//! The CPU as a device: which kernels run, and the memory that Sessions share.

#[cfg(feature = "fast-cpu")]
use super::fast;
use super::{Memory, plain};
use crate::meter::{Meter, Metered};
use crate::plan::{Capabilities, Compute, Form, Mix, Program, StateLayout, Weight, WeightId};
use crate::{Code, Error, Result, weights};
use std::cell::{Cell, RefCell};
use std::ops::Range;
use std::rc::{Rc, Weak};
use uvit_simd::Lines;
#[cfg(feature = "fast-cpu")]
use uvit_simd::{Level, Threads};

/// Which kernels.
enum Kernels {
    /// The twins, that everything else is compared with.
    Plain,
    /// The fast ones.
    #[cfg(feature = "fast-cpu")]
    Fast { level: Level, threads: Threads },
}

/// The CPU.
pub struct Device {
    kernels: Kernels,
    meter: Meter,
    /// Scratch that Sessions share, for as long as one of them lives.
    scratch: RefCell<Weak<Block>>,
    sessions: Cell<u64>,
    multiply_adds: Cell<u64>,
}

/// Numbers that several may hold.
pub(super) struct Block {
    pub(super) values: RefCell<Lines<f32>>,
    /// The Session whose contents a block of scratch has.
    pub(super) tenant: Cell<u64>,
    _metered: Metered,
}

impl Device {
    /// With the plain kernels.
    pub fn plain() -> Device {
        Device::new(Kernels::Plain)
    }

    /// With the fast kernels, on an instruction set that the processor must have ([`Level::all`]).
    #[cfg(feature = "fast-cpu")]
    pub fn fast(level: Level, threads: Threads) -> Device {
        Device::new(Kernels::Fast { level, threads })
    }

    fn new(kernels: Kernels) -> Device {
        let (meter, scratch, sessions, multiply_adds) = Default::default();
        Device { kernels, meter, scratch, sessions, multiply_adds }
    }

    /// Whether it has the plain kernels.
    pub fn is_plain(&self) -> bool {
        matches!(self.kernels, Kernels::Plain)
    }

    /// What Programs in this arithmetic are lowered with.
    pub fn capabilities(&self, compute: Compute) -> Capabilities {
        Capabilities { compute, ..Capabilities::CPU }
    }

    /// How many threads work.
    pub fn threads(&self) -> usize {
        match &self.kernels {
            Kernels::Plain => 1,
            #[cfg(feature = "fast-cpu")]
            Kernels::Fast { threads, .. } => threads.count(),
        }
    }

    /// What Weights, States and Sessions take.
    pub fn meter(&self) -> &Meter {
        &self.meter
    }

    /// Of the kernels that ran so far.
    pub fn multiply_adds(&self) -> u64 {
        self.multiply_adds.get()
    }

    fn block(&self, what: &str, bytes: usize) -> Result<Rc<Block>> {
        let values = Lines::try_zeroed(bytes.div_ceil(4)).map_err(|_| {
            Error::new(
                Code::OutOfMemory,
                format!("{what} need {bytes} bytes, which could not be allocated"),
                "Generate fewer images at once, or close other pages",
            )
        })?;
        Ok(Rc::new(Block { values: RefCell::new(values), tenant: Cell::new(0), _metered: self.meter.count(bytes) }))
    }

    /// Scratch of at least so many bytes, shared with other Sessions.
    fn scratch(&self, bytes: usize) -> Result<Rc<Block>> {
        let shared = self.scratch.borrow().upgrade().filter(|block| block.values.borrow().len() * 4 >= bytes);
        if let Some(block) = shared {
            return Ok(block);
        }
        let block = self.block("the activations", bytes)?;
        *self.scratch.borrow_mut() = Rc::downgrade(&block);
        Ok(block)
    }
}

/// One component's tensors as the kernels read them.
pub struct Weights {
    device: Rc<Device>,
    compute: Compute,
    stored: Stored,
    forms: Vec<Option<Form>>,
    metered: Vec<Metered>,
}

enum Stored {
    Plain(Vec<plain::Stored>),
    #[cfg(feature = "fast-cpu")]
    Fast(Vec<fast::Packed>),
}

impl Weights {
    /// None yet, for this arithmetic.
    pub fn new(device: Rc<Device>, compute: Compute) -> Weights {
        let stored = match device.kernels {
            Kernels::Plain => Stored::Plain(Vec::new()),
            #[cfg(feature = "fast-cpu")]
            Kernels::Fast { .. } => Stored::Fast(Vec::new()),
        };
        Weights { device, compute, stored, forms: Vec::new(), metered: Vec::new() }
    }

    /// The device that holds them.
    pub fn device(&self) -> &Rc<Device> {
        &self.device
    }

    /// The arithmetic that they are packed for.
    pub fn compute(&self) -> Compute {
        self.compute
    }

    /// The form in which a weight was loaded, if it was.
    pub fn form(&self, id: WeightId) -> Option<Form> {
        self.forms.get(id.index()).copied().flatten()
    }

    /// Packs a weight for its kernels, in the form that Programs want it in.
    ///
    /// # Errors
    /// `OUT_OF_MEMORY` naming the weight and the need.
    pub fn load(&mut self, id: WeightId, weight: &Weight, form: Form, tensor: &weights::Tensor) -> Result<()> {
        let bytes = match (&mut self.stored, &self.device.kernels) {
            (Stored::Plain(all), _) => {
                let stored = plain::Stored::new(weight, form, tensor);
                let bytes = stored.bytes();
                put(all, id, stored);
                bytes
            }
            #[cfg(feature = "fast-cpu")]
            (Stored::Fast(all), Kernels::Fast { level, .. }) => {
                let packed = fast::Packed::new(*level, weight, form, tensor)?;
                let bytes = packed.bytes();
                put(all, id, packed);
                bytes
            }
            #[cfg(feature = "fast-cpu")]
            (Stored::Fast(_), Kernels::Plain) => return Err(Error::internal("packed weights beside plain kernels")),
        };
        put(&mut self.forms, id, Some(form));
        self.metered.push(self.device.meter.count(bytes));
        Ok(())
    }
}

fn put<T: Default>(all: &mut Vec<T>, id: WeightId, one: T) {
    if all.len() <= id.index() {
        all.resize_with(id.index() + 1, T::default);
    }
    all[id.index()] = one;
}

/// Tensors that outlive runs.
pub struct State {
    layout: Rc<StateLayout>,
    pub(super) block: Rc<Block>,
}

impl State {
    /// Zeroed.
    ///
    /// # Errors
    /// `OUT_OF_MEMORY` naming the need.
    pub fn new(device: &Device, layout: Rc<StateLayout>) -> Result<State> {
        Ok(State { block: device.block("the sampler's tensors", layout.bytes())?, layout })
    }

    /// Where its tensors lie.
    pub fn layout(&self) -> &StateLayout {
        &self.layout
    }

    /// Writes a tensor.
    ///
    /// # Errors
    /// `INTERNAL` if there is none of that name and length.
    pub fn write(&self, name: &str, values: &[f32]) -> Result<()> {
        let slot = self.layout.slot(name)?;
        if slot.elements() != values.len() {
            return Err(Error::internal(format!("wrote {} values into \"{name}\"", values.len())));
        }
        self.block.values.borrow_mut()[slot.offset / 4..][..values.len()].copy_from_slice(values);
        Ok(())
    }

    /// Reads a tensor.
    ///
    /// # Errors
    /// `INTERNAL` if there is none of that name.
    pub fn read(&self, name: &str) -> Result<Vec<f32>> {
        let slot = self.layout.slot(name)?;
        Ok(self.block.values.borrow()[slot.offset / 4..][..slot.elements()].to_vec())
    }

    /// What becomes of `sum of coefficient * tensor`, by the first element of each in the State.
    pub fn combine(&self, out: usize, elements: usize, terms: &[(usize, f32)], mix: Mix) {
        super::combine(&mut self.block.values.borrow_mut(), out, elements, terms, mix);
    }
}

/// A Program on the CPU, over Weights and a State.
pub struct Session {
    weights: Rc<Weights>,
    memory: Memory,
    #[cfg(feature = "fast-cpu")]
    kept: fast::Scratch,
}

impl Session {
    /// Allocates what the Program needs.
    ///
    /// # Errors
    /// `OUT_OF_MEMORY` naming the need, `INTERNAL` if the State lacks a tensor.
    pub fn new(weights: Rc<Weights>, program: Program, state: Option<Rc<State>>) -> Result<Session> {
        let device = &weights.device;
        let io = device.block("inputs and outputs", program.io_bytes)?;
        let scratch = device.scratch(program.slab_bytes.iter().sum())?;
        device.sessions.set(device.sessions.get() + 1);
        let memory = Memory::new(program, io, scratch, state, device.sessions.get())?;
        Ok(Session {
            weights,
            memory,
            #[cfg(feature = "fast-cpu")]
            kept: fast::Scratch::default(),
        })
    }

    /// Its tensors.
    pub fn memory(&mut self) -> &mut Memory {
        &mut self.memory
    }

    /// The Program.
    pub fn program(&self) -> &Program {
        self.memory.program()
    }

    /// Its Weights.
    pub fn weights(&self) -> &Rc<Weights> {
        &self.weights
    }

    /// Runs kernels of a range for the first `items` items, all if none is given, until `budget` of work is spent or the
    /// range ends; returns the next kernel.
    ///
    /// # Errors
    /// `INTERNAL` if tensors of a kernel overlap, or another Session's run came between.
    pub fn run(&mut self, range: Range<usize>, items: Option<usize>, budget: u64) -> Result<usize> {
        let Session { weights, memory, .. } = self;
        let (next, multiply_adds) = match (&weights.stored, &weights.device.kernels) {
            #[cfg(feature = "fast-cpu")]
            (Stored::Fast(packed), Kernels::Fast { level, threads }) => {
                let kept = &mut self.kept;
                let launcher = fast::Launcher { level: *level, threads, weights: packed };
                memory.run(range, items, budget, |walk| {
                    threads.enter(|| walk.each(|blocks, kernel| launcher.launch(blocks, kept, kernel)))
                })
            }
            (Stored::Plain(stored), _) => memory
                .run(range, items, budget, |walk| walk.each(|blocks, kernel| plain::launch(blocks, stored, kernel))),
            #[cfg(feature = "fast-cpu")]
            (Stored::Fast(_), Kernels::Plain) => Err(Error::internal("packed weights beside plain kernels")),
        }?;
        let device = &weights.device;
        device.multiply_adds.set(device.multiply_adds.get() + multiply_adds);
        Ok(next)
    }
}
