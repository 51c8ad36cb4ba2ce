//! A port whose tenant is a program of the host with all of the NIC's memory: for uplinks, for
//! captures, and for programs that send.

use std::fmt;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use postern_abi::window::PortId;
use postern_guest::direct::{Direct, DirectError};
use postern_guest::nic::{Nic, WhenFull};
use postern_guest::service::Service;
use postern_nic_client::bells::Bells;
use postern_nic_client::memory::Memory;

use crate::frame_port::{Frame, FramePort};

/// How a program of the host makes requests: by calls, and by ringing the bells of receivers.
struct HostService {
    direct: Direct,
    /// The bells of the NIC, if the program has them.
    bells: Option<Arc<Bells>>,
}

impl Service for HostService {
    #[inline]
    fn call(&mut self, request: u64, a: u64, b: u64) -> Option<u64> {
        self.direct.call(request, a, b)
    }

    fn tx_flags(&self) -> u64 {
        self.direct.tx_flags()
    }

    fn ring(&mut self, queue: u32) {
        if let Some(bells) = &self.bells {
            bells.ring(queue);
        }
    }
}

/// A port whose tenant is this program.
pub struct HostPort {
    nic: Nic<HostService>,
    /// The frame that was received last.
    frame: Vec<u8>,
    /// The memory that `nic` works in.
    memory: Arc<Memory>,
    bells: Option<Arc<Bells>>,
}

impl fmt::Debug for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HostPort")
            .field("port", &self.nic.port())
            .finish_non_exhaustive()
    }
}

impl HostPort {
    /// Opens a port for its present tenant, which this program is. There must be no other
    /// `HostPort` of the tenancy, else the two garble each other's frames.
    ///
    /// # Errors
    ///
    /// The port has no tenant, or the tenant has spoilt its window.
    pub fn open(memory: Arc<Memory>, port: PortId) -> Result<HostPort, DirectError> {
        HostPort::open_with(memory, port, None)
    }

    /// The same with the NIC's bells: it rings those of receivers that sleep, and can wait for its own.
    ///
    /// # Errors
    ///
    /// As [`HostPort::open`].
    pub fn with_bells(
        memory: Arc<Memory>,
        port: PortId,
        bells: Arc<Bells>,
    ) -> Result<HostPort, DirectError> {
        HostPort::open_with(memory, port, Some(bells))
    }

    fn open_with(
        memory: Arc<Memory>,
        port: PortId,
        bells: Option<Arc<Bells>>,
    ) -> Result<HostPort, DirectError> {
        // SAFETY: the memory is mapped as long as the port keeps it, page aligned, and nothing
        // refers to it but atomics.
        let (direct, window) = unsafe { Direct::new(memory.base(), memory.size(), port) }?;
        let service = HostService {
            direct,
            bells: bells.clone(),
        };
        Ok(HostPort {
            nic: Nic::new(service, window),
            frame: Vec::new(),
            memory,
            bells,
        })
    }

    /// Lets frames wait for room at their destination instead of being dropped.
    pub fn hold(mut self) -> HostPort {
        self.nic.set_when_full(WhenFull::Hold);
        self
    }

    /// Sends the frames that still wait for room; gives the number of those that go on waiting.
    pub fn flush(&mut self) -> u32 {
        self.nic.tx_burst::<&[u8]>(&[]);
        self.nic.pending()
    }

    /// Gives at most `most` waiting frames to `sink`, each with the number of the sender that sent
    /// it; gives their number.
    pub fn receive_from(&mut self, most: usize, mut sink: impl FnMut(u32, Frame<'_>)) -> usize {
        let buffer = &mut self.frame;
        self.nic.rx_burst(most, |frame| {
            // Whoever else has the NIC's memory may write there meanwhile. The copy stands still.
            buffer.resize(frame.len(), 0);
            frame.copy_to(buffer);
            let header = frame.header();
            let bytes = buffer.as_slice();
            sink(frame.sender(), Frame { header, bytes });
        })
    }
}

impl FramePort for HostPort {
    fn send(&mut self, frames: &[&[u8]]) -> usize {
        self.nic.tx_burst(frames)
    }

    fn receive(&mut self, most: usize, sink: &mut dyn FnMut(&[u8])) -> usize {
        self.receive_from(most, |_, frame| sink(frame.bytes))
    }

    fn agree(&mut self, features: u32) -> u32 {
        self.nic.agree(features).unwrap_or(0)
    }

    fn longest_segment(&self) -> usize {
        self.nic.geometry().max_segment() as usize
    }

    fn send_frames(&mut self, frames: &[Frame<'_>]) -> usize {
        let frames = frames.iter().map(|frame| (frame.header, frame.bytes));
        self.nic.tx_burst_with(frames)
    }

    fn receive_frames(&mut self, most: usize, sink: &mut dyn FnMut(Frame<'_>)) -> usize {
        self.receive_from(most, |_, frame| sink(frame))
    }

    fn bells(&self) -> Vec<BorrowedFd<'_>> {
        let port = self.nic.port();
        self.bells
            .as_ref()
            .map_or_else(Vec::new, |bells| bells.of_port(port).collect())
    }

    fn arm(&mut self) -> bool {
        self.bells.is_some() && self.nic.arm()
    }

    fn disarm(&mut self) {
        self.nic.disarm();
    }

    fn forget_stations(&mut self) {
        let switch = self.memory.switch();
        switch.state().fdb.flush(Some(self.nic.port()));
        switch.state().generation.fetch_add(1, Relaxed);
    }
}
