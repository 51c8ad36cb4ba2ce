//! A port that the owner of the NIC uses itself: for uplinks, for captures, and for programs that send.

use std::fmt;
use std::sync::Arc;

use postern_abi::window::PortId;
use postern_guest::nic::{Nic, WhenFull};

use crate::uplink::Port;
use postern_guest::direct::{Direct, DirectError};
use postern_nic_client::memory::Memory;

/// A port with a tenant that has all of the NIC's memory.
pub struct NativePort {
    nic: Nic<Direct>,
    frame: Vec<u8>,
    /// What `nic` works in.
    _memory: Arc<Memory>,
}

impl fmt::Debug for NativePort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NativePort")
            .field("port", &self.nic.port())
            .finish_non_exhaustive()
    }
}

impl NativePort {
    /// Opens a port for its present tenant, which this is: there must be no other `NativePort` of the tenancy,
    /// else the two garble each other's frames.
    ///
    /// # Errors
    /// When the port has no tenant, or the tenant has spoilt its window.
    pub fn open(memory: Arc<Memory>, port: PortId) -> Result<NativePort, DirectError> {
        // SAFETY: the memory is mapped as long as the port keeps it, page aligned, and nothing refers to it
        // but atomics.
        let (direct, window) = unsafe { Direct::new(memory.base(), memory.size(), port) }?;
        Ok(NativePort {
            nic: Nic::new(direct, window),
            frame: Vec::new(),
            _memory: memory,
        })
    }

    /// Frames wait for room at their destination instead of being dropped.
    pub fn hold(mut self) -> NativePort {
        self.nic.set_when_full(WhenFull::Hold);
        self
    }

    /// Sends what still waits for room; how many frames go on waiting.
    pub fn flush(&mut self) -> u32 {
        self.nic.tx_burst::<&[u8]>(&[]);
        self.nic.pending()
    }

    /// As [`Port::receive`], with the number of the sender that sent each frame.
    pub fn receive_from(&mut self, most: usize, mut sink: impl FnMut(u32, &[u8])) -> usize {
        let buffer = &mut self.frame;
        self.nic.rx_burst(most, |frame| {
            // Whoever else has the NIC's memory may write there meanwhile; from here on it stands still.
            buffer.resize(frame.len(), 0);
            frame.copy_to(buffer);
            sink(frame.sender(), buffer);
        })
    }
}

impl Port for NativePort {
    fn send(&mut self, frames: &[&[u8]]) -> usize {
        self.nic.tx_burst(frames)
    }

    fn receive(&mut self, most: usize, sink: &mut dyn FnMut(&[u8])) -> usize {
        self.receive_from(most, |_, frame| sink(frame))
    }
}
