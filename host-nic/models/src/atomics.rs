//! Atomics whose every access the model checker loom decides on, with the layout of the processor's.
//!
//! An atomic here is its memory and nothing else, so that structures, their sizes and pointers into raw
//! memory stay what they are. A model declares with [`share`] which words several of its threads
//! use; these are looked up by address and are loom's atomics during an execution. All others are plain memory.
//!
//! A test can change what the core does without changing the core: [`Mutation`] weakens orderings, tears
//! exchanges apart or lets two stores change places; [`stop_after`] ends a call between two accesses,
//! as a guest does that stops its vCPU for ever.

extern crate std;

use core::cell::{Cell, RefCell, UnsafeCell};
use std::boxed::Box;
use std::collections::BTreeMap;
use std::vec::Vec;
use std::{panic, thread_local};

use loom::sync::atomic as model;
pub use loom::sync::atomic::Ordering;

/// What is changed about the code under test.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mutation {
    /// Nothing.
    #[default]
    None,
    /// Stores with release are relaxed.
    RelaxedStores,
    /// Loads with acquire are relaxed.
    RelaxedLoads,
    /// There are no fences.
    NoFences,
    /// An exchange is a load and a store.
    TornExchange,
    /// A store to the one address happens only after the next one to the other.
    Late {
        /// The store that comes first in the code.
        first: usize,
        /// And the other one.
        second: usize,
    },
    /// Nothing is written to an address.
    Lost(usize),
    /// No zero is.
    LostZero(usize),
}

/// A word that threads share.
enum Word {
    Long(model::AtomicU64),
    Short(model::AtomicU32),
}

/// A word that threads share, and what each access to it writes too, if several of them both load and store it.
/// Before a store loom goes back to the last access only, which may be a load by the same thread; so it
/// would not try what happens if the store comes before another thread's load.
struct Shared {
    word: Word,
    turn: Option<model::AtomicU32>,
}

/// The marker of a call that ends before its end.
struct Stopped;

thread_local! {
    // All threads of a loom execution run on one thread of the system.
    static SHARED: RefCell<BTreeMap<usize, &'static Shared>> = const { RefCell::new(BTreeMap::new()) };
    /// The lowest and the highest of their addresses.
    static RANGE: Cell<(usize, usize)> = const { Cell::new((usize::MAX, 0)) };
    static MUTATION: Cell<Mutation> = const { Cell::new(Mutation::None) };
    static LATE: Cell<Option<(usize, u64)>> = const { Cell::new(None) };
    /// Accesses until a call stops, and the model's thread that makes it.
    static LEFT: Cell<Option<u32>> = const { Cell::new(None) };
    static STOPS: RefCell<Option<loom::thread::ThreadId>> = const { RefCell::new(None) };
    static WRITES: RefCell<Option<Vec<(usize, usize)>>> = const { RefCell::new(None) };
}

/// Changes the code under test, on this thread of the system, from now on.
pub fn mutate(mutation: Mutation) {
    MUTATION.set(mutation);
}

/// Forgets the words that an execution before this one shared. They are loom's to free.
pub fn begin() {
    SHARED.with_borrow_mut(BTreeMap::clear);
    RANGE.set((usize::MAX, 0));
    LATE.set(None);
    LEFT.set(None);
    STOPS.set(None);
}

/// Lets loom decide what accesses to a word of `size` bytes (4 or 8) see. Before threads begin.
pub fn share(address: *const u8, size: usize) {
    add(address, size, Some(model::AtomicU32::new(0)));
}

/// The same for a word that one thread stores and others load.
pub fn share_one_way(address: *const u8, size: usize) {
    add(address, size, None);
}

fn add(address: *const u8, size: usize, turn: Option<model::AtomicU32>) {
    // SAFETY: models share words of memory that they have.
    let word = unsafe {
        match size {
            8 => Word::Long(model::AtomicU64::new(*address.cast::<u64>())),
            _ => Word::Short(model::AtomicU32::new(*address.cast::<u32>())),
        }
    };
    let shared = Shared { word, turn };
    let (low, high) = RANGE.get();
    RANGE.set((low.min(address as usize), high.max(address as usize)));
    SHARED.with_borrow_mut(|all| all.insert(address as usize, Box::leak(Box::new(shared))));
}

/// Runs a call that ends before access `accesses` (from 0) to any atomic; nothing if it got so far.
pub fn stop_after<T>(accesses: u32, call: impl FnOnce() -> T) -> Option<T> {
    LEFT.set(Some(accesses));
    STOPS.set(modelled().then(|| loom::thread::current().id()));
    let result = panic::catch_unwind(panic::AssertUnwindSafe(call));
    LEFT.set(None);
    match result {
        Ok(value) => Some(value),
        Err(cause) if cause.is::<Stopped>() => None,
        Err(cause) => panic::resume_unwind(cause),
    }
}

/// Runs something and tells where it stored: addresses and sizes.
pub fn writes_of<T>(call: impl FnOnce() -> T) -> (T, Vec<(usize, usize)>) {
    WRITES.set(Some(Vec::new()));
    let value = call();
    (value, WRITES.take().unwrap_or_default())
}

fn modelled() -> bool {
    RANGE.get().1 != 0
}

fn shared(address: usize) -> Option<&'static Word> {
    let (low, high) = RANGE.get();
    if address < low || address > high {
        return None;
    }
    let shared = SHARED.with_borrow(|all| all.get(&address).copied())?;
    if let Some(turn) = &shared.turn {
        turn.fetch_add(1, Ordering::Relaxed);
    }
    Some(&shared.word)
}

/// Counts an access of a call that is to stop.
fn step() {
    let Some(left) = LEFT.get() else {
        return;
    };
    if STOPS.with_borrow(|id| id.is_some_and(|id| id != loom::thread::current().id())) {
        return;
    }
    if left == 0 {
        LEFT.set(None);
        panic::resume_unwind(Box::new(Stopped));
    }
    LEFT.set(Some(left - 1));
}

fn load_order(order: Ordering) -> Ordering {
    match (MUTATION.get(), order) {
        (Mutation::RelaxedLoads, _) => Ordering::Relaxed,
        _ => order,
    }
}

fn store_order(order: Ordering) -> Ordering {
    match (MUTATION.get(), order) {
        (Mutation::RelaxedStores, _) => Ordering::Relaxed,
        _ => order,
    }
}

/// As [`core::sync::atomic::fence`].
pub fn fence(order: Ordering) {
    if modelled() && MUTATION.get() != Mutation::NoFences {
        model::fence(order);
    }
}

macro_rules! atomic {
    ($name:ident, $type:ty, $load:expr, $store:expr, $exchange:expr) => {
        /// As in [`core::sync::atomic`].
        #[repr(transparent)]
        #[derive(Default)]
        pub struct $name(UnsafeCell<$type>);

        // SAFETY: the threads of a model take turns on one thread of the system.
        unsafe impl Sync for $name {}

        impl core::fmt::Debug for $name {
            fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                self.load(Ordering::Relaxed).fmt(f)
            }
        }

        impl $name {
            /// A new one.
            pub const fn new(value: $type) -> $name {
                $name(UnsafeCell::new(value))
            }

            /// The one at an address.
            ///
            /// # Safety
            ///
            /// As that of [`core::sync::atomic`].
            pub const unsafe fn from_ptr<'a>(pointer: *mut $type) -> &'a $name {
                // SAFETY: the caller's promise.
                unsafe { &*pointer.cast() }
            }

            fn address(&self) -> usize {
                self.0.get() as usize
            }

            /// Loads.
            pub fn load(&self, order: Ordering) -> $type {
                step();
                $load(self.address(), load_order(order))
                    // SAFETY: nobody writes it at this moment.
                    .unwrap_or_else(|| unsafe { *self.0.get() })
            }

            fn store_now(&self, value: $type, order: Ordering) {
                WRITES.with_borrow_mut(|writes| {
                    if let Some(writes) = writes {
                        writes.push((self.address(), size_of::<$type>()));
                    }
                });
                if !$store(self.address(), value, order) {
                    // SAFETY: nobody else accesses it at this moment.
                    unsafe { *self.0.get() = value };
                }
            }

            /// Stores.
            pub fn store(&self, value: $type, order: Ordering) {
                step();
                let order = store_order(order);
                let mut late = None;
                match MUTATION.get() {
                    Mutation::Lost(address) if address == self.address() => return,
                    Mutation::LostZero(address) if address == self.address() && value == 0 => {
                        return;
                    }
                    Mutation::Late { first, .. } if first == self.address() => {
                        LATE.set(Some((first, value.into())));
                        return;
                    }
                    Mutation::Late { second, .. } if second == self.address() => {
                        late = LATE.take();
                    }
                    _ => {}
                }
                self.store_now(value, order);
                if let Some((address, value)) = late {
                    // SAFETY: an address of a word of this size was given; tests mutate no others.
                    let other = unsafe { $name::from_ptr(address as *mut $type) };
                    other.store_now(value as $type, order);
                }
            }

            /// Compares and exchanges.
            pub fn compare_exchange(
                &self,
                old: $type,
                new: $type,
                success: Ordering,
                failure: Ordering,
            ) -> Result<$type, $type> {
                step();
                let success = load_order(store_order(success));
                if MUTATION.get() == Mutation::Lost(self.address()) {
                    return Ok(old);
                }
                if MUTATION.get() == Mutation::TornExchange {
                    let found = self.load(failure);
                    if found != old {
                        return Err(found);
                    }
                    self.store(new, success);
                    return Ok(old);
                }
                $exchange(self.address(), old, new, success, failure).unwrap_or_else(|| {
                    // SAFETY: nobody else accesses it at this moment.
                    let found = unsafe { *self.0.get() };
                    if found != old {
                        return Err(found);
                    }
                    self.store_now(new, success);
                    Ok(old)
                })
            }

            fn update(&self, order: Ordering, change: impl Fn($type) -> $type) -> $type {
                let mut found = self.load(Ordering::Relaxed);
                loop {
                    match self.compare_exchange(found, change(found), order, Ordering::Relaxed) {
                        Ok(old) => return old,
                        Err(other) => found = other,
                    }
                }
            }

            /// Adds.
            pub fn fetch_add(&self, value: $type, order: Ordering) -> $type {
                self.update(order, |found| found.wrapping_add(value))
            }

            /// Subtracts.
            pub fn fetch_sub(&self, value: $type, order: Ordering) -> $type {
                self.update(order, |found| found.wrapping_sub(value))
            }

            /// And.
            pub fn fetch_and(&self, value: $type, order: Ordering) -> $type {
                self.update(order, |found| found & value)
            }

            /// Or.
            pub fn fetch_or(&self, value: $type, order: Ordering) -> $type {
                self.update(order, |found| found | value)
            }

            /// Exchanges.
            pub fn swap(&self, value: $type, order: Ordering) -> $type {
                self.update(order, |_| value)
            }
        }
    };
}

fn load_long(address: usize, order: Ordering) -> Option<u64> {
    match shared(address) {
        Some(Word::Long(word)) => Some(word.load(order)),
        _ => None,
    }
}

/// A long store also reaches words that are shared by halves.
fn store_long(address: usize, value: u64, order: Ordering) -> bool {
    if let Some(Word::Long(word)) = shared(address) {
        word.store(value, order);
        return true;
    }
    let low = store_word(address, value as u32, order);
    let high = store_word(address + 4, (value >> 32) as u32, order);
    low || high
}

fn load_word(address: usize, order: Ordering) -> Option<u32> {
    match shared(address) {
        Some(Word::Short(word)) => Some(word.load(order)),
        _ => None,
    }
}

fn store_word(address: usize, value: u32, order: Ordering) -> bool {
    match shared(address) {
        Some(Word::Short(word)) => word.store(value, order),
        _ => return false,
    }
    true
}

atomic!(
    AtomicU64,
    u64,
    load_long,
    store_long,
    |address, old, new, success, failure| match shared(address) {
        Some(Word::Long(word)) => Some(word.compare_exchange(old, new, success, failure)),
        _ => None,
    }
);
atomic!(
    AtomicU32,
    u32,
    load_word,
    store_word,
    |address, old, new, success, failure| match shared(address) {
        Some(Word::Short(word)) => Some(word.compare_exchange(old, new, success, failure)),
        _ => None,
    }
);
// Bytes are nowhere shared.
atomic!(
    AtomicU8,
    u8,
    |_, _| None,
    |_, _, _| false,
    |_, _, _, _, _| None
);
