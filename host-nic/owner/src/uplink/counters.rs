//! Counters of an uplink: frames that passed and frames that did not, each way.
#![forbid(unsafe_code)]

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use serde::Serialize;

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// Counters of one direction at one moment.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
        pub struct DirectionCounters {
            $($(#[$doc])* pub $name: u64,)*
        }

        /// Counters of one direction; one thread adds, any may read.
        #[derive(Debug, Default)]
        pub(super) struct LiveCounters {
            $(pub(super) $name: AtomicU64,)*
        }

        impl LiveCounters {
            fn read(&self) -> DirectionCounters {
                DirectionCounters { $($name: self.$name.load(Relaxed),)* }
            }
        }
    };
}

counters! {
    /// Frames that passed.
    frames,
    /// Bytes of the frames that passed.
    bytes,
    /// Frames dropped: longer than [`postern_abi::window::MAX_FRAME`], or than the interface sends.
    too_long,
    /// Frames dropped: shorter than an Ethernet header.
    too_short,
    /// Frames dropped: an offload left undone what cannot be completed (see the module's
    /// documentation).
    offload,
    /// Frames dropped: the other side did not take it (the port's ring, the interface's queue is
    /// full).
    refused,
    /// Frames dropped: the interface was down.
    link_down,
    /// Frames dropped by the kernel before this process fetched them.
    missed,
    /// Requests in which frames passed.
    batches,
}

/// Counters of one uplink.
#[derive(Debug, Default)]
pub struct UplinkCounters {
    pub(super) to_port: LiveCounters,
    pub(super) to_interface: LiveCounters,
}

/// [`UplinkCounters`] at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct UplinkSnapshot {
    /// From the interface to the port.
    pub to_port: DirectionCounters,
    /// From the port to the interface.
    pub to_interface: DirectionCounters,
}

impl UplinkCounters {
    /// The counters now.
    pub fn snapshot(&self) -> UplinkSnapshot {
        UplinkSnapshot {
            to_port: self.to_port.read(),
            to_interface: self.to_interface.read(),
        }
    }
}

/// Adds to a counter that only this thread changes.
pub(super) fn add(counter: &AtomicU64, number: u64) {
    if number != 0 {
        counter.store(counter.load(Relaxed).wrapping_add(number), Relaxed);
    }
}
