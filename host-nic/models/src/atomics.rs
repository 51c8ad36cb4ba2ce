//! Atomic words with the layout of the processor's, whose orderings the model checker loom
//! explores.
//!
//! An atomic here is its memory and nothing else, so that structures, their sizes and pointers into
//! raw memory stay as they are. A model declares with [`share`] which words several of its threads
//! use; these are looked up by address and are loom's atomics during an execution. All others are
//! plain memory.
//!
//! A test can change the switch's accesses without changing its code: [`Mutation`] weakens
//! orderings, tears exchanges apart or lets two stores change places; [`stop_after`] ends a call
//! between two accesses, as a guest does that stops its vCPU for ever.

extern crate std;

use core::cell::{Cell, RefCell, UnsafeCell};
use std::boxed::Box;
use std::collections::BTreeMap;
use std::vec::Vec;
use std::{panic, thread_local};

use loom::sync::atomic as model;
pub use loom::sync::atomic::Ordering;

/// A change of the code under test.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mutation {
    /// No change.
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
    /// A store to address `first` happens only after the next one to address `second`.
    Late {
        /// Address of the store that comes first in the code.
        first: usize,
        /// Address of the store that comes second in the code.
        second: usize,
    },
    /// Nothing is written to an address.
    Lost(usize),
    /// No zero is written to an address.
    LostZero(usize),
}

/// A word that threads share, as loom has it.
enum Word {
    Long(model::AtomicU64),
    Short(model::AtomicU32),
}

/// A word that threads share, and how loom orders accesses to it.
struct Shared {
    word: Word,
    /// A second word that each access writes, if several threads both load and store the first.
    /// Before a store loom goes back to the last access only, which may be a load by the same
    /// thread; without this word it would not try the store before another thread's load.
    turn: Option<model::AtomicU32>,
}

/// The payload of the panic that ends a call before its end.
struct Stopped;

thread_local! {
    /// The words that threads share, by address. All threads of a loom execution run on one thread
    /// of the system.
    static SHARED: RefCell<BTreeMap<usize, &'static Shared>> =
        const { RefCell::new(BTreeMap::new()) };
    /// The lowest and the highest address of these words.
    static RANGE: Cell<(usize, usize)> = const { Cell::new((usize::MAX, 0)) };
    /// The change of the code under test.
    static MUTATION: Cell<Mutation> = const { Cell::new(Mutation::None) };
    /// Address and value of a store that is late.
    static LATE: Cell<Option<(usize, u64)>> = const { Cell::new(None) };
    /// Number of accesses until a call stops.
    static LEFT: Cell<Option<u32>> = const { Cell::new(None) };
    /// The model's thread whose call stops.
    static STOPS: RefCell<Option<loom::thread::ThreadId>> = const { RefCell::new(None) };
    /// Addresses and sizes of stores, while they are recorded.
    static WRITES: RefCell<Option<Vec<(usize, usize)>>> = const { RefCell::new(None) };
}

/// Changes the code under test, on this thread of the system, from now on.
pub fn mutate(mutation: Mutation) {
    MUTATION.set(mutation);
}

/// Forgets the words that the execution before this one shared. Loom frees them.
pub fn begin() {
    SHARED.with_borrow_mut(BTreeMap::clear);
    RANGE.set((usize::MAX, 0));
    LATE.set(None);
    LEFT.set(None);
    STOPS.set(None);
}

/// Lets loom decide what accesses to a word of `size` bytes (4 or 8) see. It must be called before
/// threads begin.
pub fn share(address: *const u8, size: usize) {
    add(address, size, Some(model::AtomicU32::new(0)));
}

/// [`share`] for a word that one thread stores and others load.
pub fn share_one_way(address: *const u8, size: usize) {
    add(address, size, None);
}

/// Adds a word to those that threads share.
fn add(address: *const u8, size: usize, turn: Option<model::AtomicU32>) {
    // SAFETY: models share aligned words of memory that they have, before their threads begin.
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

/// Runs a call that ends before access `accesses`, from 0, to any atomic. Returns its result, or
/// nothing if it was ended.
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

/// Runs a call. Returns its result, and addresses and sizes of its stores.
pub fn writes_of<T>(call: impl FnOnce() -> T) -> (T, Vec<(usize, usize)>) {
    WRITES.set(Some(Vec::new()));
    let value = call();
    (value, WRITES.take().unwrap_or_default())
}

/// Whether the execution shares any word.
fn modelled() -> bool {
    RANGE.get().1 != 0
}

/// The shared word at an address, if there is one. Counts as an access to it.
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

/// The ordering of a load, as mutated.
fn load_order(order: Ordering) -> Ordering {
    match (MUTATION.get(), order) {
        (Mutation::RelaxedLoads, _) => Ordering::Relaxed,
        _ => order,
    }
}

/// The ordering of a store, as mutated.
fn store_order(order: Ordering) -> Ordering {
    match (MUTATION.get(), order) {
        (Mutation::RelaxedStores, _) => Ordering::Relaxed,
        _ => order,
    }
}

/// The counterpart of [`core::sync::atomic::fence`].
pub fn fence(order: Ordering) {
    if modelled() && MUTATION.get() != Mutation::NoFences {
        model::fence(order);
    }
}

macro_rules! atomic {
    ($name:ident, $type:ty, $load:expr, $store:expr, $exchange:expr) => {
        /// The counterpart of the atomic of this name in [`core::sync::atomic`].
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
            /// A new atomic with this value.
            pub const fn new(value: $type) -> $name {
                $name(UnsafeCell::new(value))
            }

            /// The atomic at an address.
            ///
            /// # Safety
            ///
            /// The contract of `from_ptr` of the atomic in [`core::sync::atomic`].
            pub const unsafe fn from_ptr<'a>(pointer: *mut $type) -> &'a $name {
                // SAFETY: the caller vouches for an aligned word that lives for `'a`; this type has
                // the layout of the word.
                unsafe { &*pointer.cast() }
            }

            /// Address of the word.
            fn address(&self) -> usize {
                self.0.get() as usize
            }

            /// Loads the value.
            pub fn load(&self, order: Ordering) -> $type {
                step();
                $load(self.address(), load_order(order))
                    // SAFETY: threads of a model take turns, so that nobody writes the word now.
                    .unwrap_or_else(|| unsafe { *self.0.get() })
            }

            /// Stores a value, whatever the mutation.
            fn store_now(&self, value: $type, order: Ordering) {
                WRITES.with_borrow_mut(|writes| {
                    if let Some(writes) = writes {
                        writes.push((self.address(), size_of::<$type>()));
                    }
                });
                if !$store(self.address(), value, order) {
                    // SAFETY: threads of a model take turns, so that nobody else accesses the word.
                    unsafe { *self.0.get() = value };
                }
            }

            /// Stores a value.
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
                    // SAFETY: the address is that of an atomic of this type; tests give no others.
                    let other = unsafe { $name::from_ptr(address as *mut $type) };
                    other.store_now(value as $type, order);
                }
            }

            /// Exchanges the value for `new` if it is `old`.
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
                    // SAFETY: threads of a model take turns, so that nobody else accesses the word.
                    let found = unsafe { *self.0.get() };
                    if found != old {
                        return Err(found);
                    }
                    self.store_now(new, success);
                    Ok(old)
                })
            }

            /// Changes the value by exchanges, until one succeeds. Returns the value before.
            fn update(&self, order: Ordering, change: impl Fn($type) -> $type) -> $type {
                let mut found = self.load(Ordering::Relaxed);
                loop {
                    match self.compare_exchange(found, change(found), order, Ordering::Relaxed) {
                        Ok(old) => return old,
                        Err(other) => found = other,
                    }
                }
            }

            /// Adds to the value. Returns the value before.
            pub fn fetch_add(&self, value: $type, order: Ordering) -> $type {
                self.update(order, |found| found.wrapping_add(value))
            }

            /// Subtracts from the value. Returns the value before.
            pub fn fetch_sub(&self, value: $type, order: Ordering) -> $type {
                self.update(order, |found| found.wrapping_sub(value))
            }

            /// Takes bits out of the value. Returns the value before.
            pub fn fetch_and(&self, value: $type, order: Ordering) -> $type {
                self.update(order, |found| found & value)
            }

            /// Puts bits into the value. Returns the value before.
            pub fn fetch_or(&self, value: $type, order: Ordering) -> $type {
                self.update(order, |found| found | value)
            }

            /// Exchanges the value. Returns the value before.
            pub fn swap(&self, value: $type, order: Ordering) -> $type {
                self.update(order, |_| value)
            }
        }
    };
}

/// The value of a shared word of 8 bytes, if there is one at the address.
fn load_long(address: usize, order: Ordering) -> Option<u64> {
    match shared(address) {
        Some(Word::Long(word)) => Some(word.load(order)),
        _ => None,
    }
}

/// Stores to a shared word of 8 bytes, or to its halves if these are shared. Returns whether there
/// was any.
fn store_long(address: usize, value: u64, order: Ordering) -> bool {
    if let Some(Word::Long(word)) = shared(address) {
        word.store(value, order);
        return true;
    }
    let low = store_word(address, value as u32, order);
    let high = store_word(address + 4, (value >> 32) as u32, order);
    low || high
}

/// The value of a shared word of 4 bytes, if there is one at the address.
fn load_word(address: usize, order: Ordering) -> Option<u32> {
    match shared(address) {
        Some(Word::Short(word)) => Some(word.load(order)),
        _ => None,
    }
}

/// Stores to a shared word of 4 bytes. Returns whether there was one.
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
// No model shares bytes.
atomic!(
    AtomicU8,
    u8,
    |_, _| None,
    |_, _, _| false,
    |_, _, _, _, _| None
);
