//! The port by which a guest asks for a snapshot of all counters.
#![deny(unsafe_code)]

use std::io;

use super::bus::{DeviceError, Effect, PioDevice, Shared, word};
use crate::event_counters::{EventCounters, EventCounts};
use crate::measurement::{SnapshotRecorder, ViewStats};
use crate::view::{self, VcpuView};

/// [`postern_abi::platform::PORT_SNAPSHOT`] of one vCPU: a 32-bit write takes a snapshot under that
/// label. The counters are read first, so that the work of the snapshot itself comes after
/// them; it is the same work each time.
#[derive(Debug)]
pub struct SnapshotPort {
    vcpu: usize,
    counters: EventCounters,
    view: Option<VcpuView>,
    recorder: Option<Shared<SnapshotRecorder>>,
}

impl SnapshotPort {
    /// The port of vCPU `vcpu`; without a recorder it does nothing.
    pub fn new(
        vcpu: usize,
        counters: EventCounters,
        view: Option<VcpuView>,
        recorder: Option<Shared<SnapshotRecorder>>,
    ) -> SnapshotPort {
        SnapshotPort {
            vcpu,
            counters,
            view,
            recorder,
        }
    }

    /// The counters as they are now, and those of the view.
    ///
    /// # Errors
    ///
    /// When the module does not give them.
    pub fn last(&mut self) -> Result<(EventCounts, Option<ViewStats>), view::Error> {
        let counts = self.counters.read();
        let stats = self.view.as_ref().map(VcpuView::stats).transpose()?;
        Ok((counts, stats.map(|stats| ViewStats::new(self.vcpu, stats))))
    }

    /// Takes a snapshot.
    fn take(&mut self, label: u32) -> Result<(), DeviceError> {
        let Some(recorder) = &self.recorder else {
            return Ok(());
        };
        let counts = self.counters.read();
        let view = self.view.as_ref().map(VcpuView::stats).transpose();
        let view = view.map_err(io::Error::other).map_err(device_error)?;
        recorder
            .with(|recorder| recorder.take(label, self.vcpu, counts, view))
            .map_err(io::Error::other)
            .map_err(device_error)
    }
}

fn device_error(source: io::Error) -> DeviceError {
    DeviceError {
        what: "take a snapshot of the statistics",
        source,
    }
}

impl PioDevice for SnapshotPort {
    fn write(&mut self, offset: u16, data: &[u8]) -> Effect {
        match word(offset, data).map(|label| self.take(label)) {
            None | Some(Ok(())) => Effect::Continue,
            Some(Err(error)) => Effect::Fail(error),
        }
    }
}
