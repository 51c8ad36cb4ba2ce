//! What commands of the driver do to a TAP.
#![deny(unsafe_code)]

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use postern_tap::Tap;
use virtio_bindings::virtio_net as net;

use super::control::Commands;
use super::features::{self, GUEST_OFFLOADS, bit};

/// The TAP of a device, for commands.
pub(super) struct TapCommands {
    pub(super) taps: Arc<Vec<Tap>>,
    /// Queues of the TAP that get frames.
    pub(super) pairs: usize,
    /// Pairs that the driver may use.
    pub(super) most: usize,
    pub(super) mac: Arc<Mutex<[u8; 6]>>,
    pub(super) features: u64,
}

impl TapCommands {
    /// Has the kernel put frames into the first `pairs` queues of the TAP only.
    pub(super) fn enable(&mut self, pairs: usize) -> io::Result<()> {
        if self.taps.len() == 1 {
            return Ok(());
        }
        for (number, tap) in self.taps.iter().enumerate() {
            match tap.set_enabled(number < pairs) {
                Ok(()) => {}
                // It is so already.
                Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {}
                Err(error) => return Err(error),
            }
        }
        self.pairs = pairs;
        Ok(())
    }
}

impl Commands for TapCommands {
    fn set_pairs(&mut self, pairs: u16) -> bool {
        let pairs = usize::from(pairs);
        pairs <= self.most && self.enable(pairs).is_ok()
    }

    fn set_mac(&mut self, mac: [u8; 6]) -> bool {
        if self.features & bit(net::VIRTIO_NET_F_CTRL_MAC_ADDR) == 0 {
            return false;
        }
        *self.mac.lock().unwrap_or_else(PoisonError::into_inner) = mac;
        true
    }

    fn set_offloads(&mut self, features: u64) -> bool {
        let may = self.features & GUEST_OFFLOADS;
        self.features & bit(net::VIRTIO_NET_F_CTRL_GUEST_OFFLOADS) != 0
            && features & !may == 0
            && self.taps[0]
                .set_offloads(features::tap_offloads(features))
                .is_ok()
    }
}
