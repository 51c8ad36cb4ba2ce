//! What a bridge counts.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use serde::Serialize;

macro_rules! counters {
    ($($(#[doc = $doc:literal])+ $name:ident),+ $(,)?) => {
        /// The counters of a queue, which its thread stores and others read.
        #[derive(Debug, Default)]
        pub struct Shared {
            $($name: AtomicU64),+
        }

        /// The counters of a queue.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
        pub struct Counters {
            $($(#[doc = $doc])+ pub $name: u64),+
        }

        impl Shared {
            /// Shows others the counters as they are now.
            pub fn store(&self, counters: &Counters) {
                $(self.$name.store(counters.$name, Relaxed);)+
            }

            /// The counters when they were stored last.
            pub fn load(&self) -> Counters {
                Counters { $($name: self.$name.load(Relaxed)),+ }
            }
        }
    };
}

counters! {
    /// Frames that the NIC took from here.
    to_nic_frames,
    /// Their bytes.
    to_nic_bytes,
    /// Frames that the interface took from the NIC.
    to_interface_frames,
    /// Their bytes.
    to_interface_bytes,
    /// Requests to the NIC.
    requests,
    /// Requests that the NIC refused.
    refused,
    /// Bells of sleeping receivers that were rung: VM exits.
    rings,
    /// Times that the thread slept with the RX queue armed.
    sleeps,
    /// Interrupts that were seen.
    interrupts,
    /// Interrupts that had no frame with them.
    spurious,
    /// Times that frames had to wait for room at their receiver.
    held,
    /// Frames that waited too long, and went on to whoever had room.
    dropped_no_room,
    /// Frames dropped: shorter or longer than the NIC takes.
    dropped_length,
    /// Frames dropped: work was left on them that cannot be done.
    dropped_offload,
    /// Frames dropped: the interface was down.
    dropped_interface_down,
    /// Frames dropped: the interface refused them.
    dropped_interface,
    /// Records that were none, in lanes that were emptied for it.
    malformed,
    /// Frames that wait in the TX ring of the NIC, when last looked at.
    waiting_in_ring,
    /// Frames that wait in the bridge, when last looked at.
    waiting_in_bridge,
}
