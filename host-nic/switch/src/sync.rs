//! The atomic words that the switch is made of: the processor's, or those of host-nic/models, whose
//! orderings the model checker loom explores.
#![cfg_attr(not(loom), forbid(unsafe_code))]

#[cfg(not(loom))]
pub use core::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering, fence};

#[cfg(loom)]
#[path = "../../models/src/atomics.rs"]
pub mod modelled;
#[cfg(loom)]
pub use modelled::{AtomicU8, AtomicU32, AtomicU64, Ordering, fence};
