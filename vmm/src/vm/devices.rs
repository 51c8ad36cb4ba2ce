//! The devices that all vCPUs of a VM share.
#![deny(unsafe_code)]

use std::sync::Arc;

use postern_abi::platform;

use crate::devices::{Bus, ExitPort, Outbox, PanicPort, PowerPorts, Serial, Shared, SnapshotPort};
use crate::measurement::SnapshotRecorder;
use crate::pci::{ConfigPorts, Segment};

/// The devices that all vCPUs of a VM share.
#[derive(Clone)]
pub(super) struct Devices {
    pub(super) serial: Shared<Serial>,
    pub(super) outbox: Shared<Outbox>,
    pub(super) recorder: Option<Shared<SnapshotRecorder>>,
    pub(super) pci: Option<Pci>,
}

/// The PCI bus, and the ports of its configuration space.
#[derive(Clone)]
pub(super) struct Pci {
    pub(super) segment: Arc<Segment>,
    pub(super) ports: Shared<ConfigPorts>,
}

impl Devices {
    /// The bus of a vCPU with that snapshot port.
    pub(super) fn bus(&self, snapshot: Shared<SnapshotPort>) -> Bus {
        let mut bus = Bus::new();
        bus.add(platform::PORT_SNAPSHOT, 4, Box::new(snapshot));
        bus.add(platform::PORT_EXIT, 4, Box::new(ExitPort));
        bus.add(platform::PORT_OUTBOX, 4, Box::new(self.outbox.clone()));
        PowerPorts::add_to(&mut bus);
        bus.add(PanicPort::PORT, 1, Box::new(PanicPort));
        bus.add(
            platform::PORT_SERIAL,
            Serial::PORTS,
            Box::new(self.serial.clone()),
        );
        if let Some(pci) = &self.pci {
            ConfigPorts::add_to(&pci.ports, &mut bus);
            bus.add_mmio(Box::new(Arc::clone(&pci.segment)));
        }
        bus
    }

    /// All devices are as they were when the guest started.
    pub(super) fn reset(&self) {
        if let Some(pci) = &self.pci {
            pci.segment.reset();
        }
        self.serial.with(Serial::reset);
    }
}
