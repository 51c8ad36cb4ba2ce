//! Configuration space by I/O ports (PCI Local Bus Specification 3.0, "Configuration Mechanism").
//!
//! Each access is two exits to user space, the first of which KVM could collect
//! (KVM_CAP_COALESCED_PIO). It would collect writes to 0xcf9 with them, one of the address register's
//! four bytes, which is where a guest resets the machine: nobody would see that until the next exit.
#![deny(unsafe_code)]

use std::sync::Arc;

use super::segment::Segment;
use crate::devices::{Bus, Effect, PioDevice, Shared};
use crate::layout;

/// The configuration address register and the data register that it selects a place for.
#[derive(Debug)]
pub struct ConfigPorts {
    segment: Arc<Segment>,
    address: u32,
}

/// Address register: accesses to the data register are configuration accesses.
const ENABLE: u32 = 1 << 31;

impl ConfigPorts {
    /// The ports of a segment.
    pub fn new(segment: Arc<Segment>) -> Shared<ConfigPorts> {
        Shared::new(ConfigPorts {
            segment,
            address: 0,
        })
    }

    /// Puts the ports on the bus of a vCPU.
    pub fn add_to(ports: &Shared<ConfigPorts>, bus: &mut Bus) {
        bus.add(
            layout::PCI_CONFIG_ADDRESS,
            1,
            Box::new(AddressPort(ports.clone())),
        );
        bus.add(
            layout::PCI_CONFIG_DATA,
            4,
            Box::new(DataPorts(ports.clone())),
        );
    }

    /// Function and offset that the address register selects; bus 0 alone is there.
    fn selected(&self) -> Option<(usize, usize)> {
        let address = self.address;
        let bus = address >> 16 & 0xff;
        let enabled = address & ENABLE != 0 && bus == 0;
        enabled.then_some((address as usize >> 8 & 0xff, address as usize & 0xfc))
    }
}

struct AddressPort(Shared<ConfigPorts>);

impl PioDevice for AddressPort {
    fn read(&mut self, _: u16, data: &mut [u8]) {
        if let Ok(word) = <&mut [u8; 4]>::try_from(data) {
            *word = self.0.with(|ports| ports.address).to_le_bytes();
        }
    }

    fn write(&mut self, _: u16, data: &[u8]) -> Effect {
        if let Ok(&word) = <&[u8; 4]>::try_from(data) {
            let address = u32::from_le_bytes(word) & (ENABLE | 0x00ff_fffc);
            self.0.with(|ports| ports.address = address);
        }
        Effect::Continue
    }
}

struct DataPorts(Shared<ConfigPorts>);

impl PioDevice for DataPorts {
    fn read(&mut self, offset: u16, data: &mut [u8]) {
        self.0.with(|ports| {
            if let Some((function, first)) = ports.selected() {
                let offset = first + usize::from(offset);
                ports.segment.read_config(function, offset, data);
            }
        });
    }

    fn write(&mut self, offset: u16, data: &[u8]) -> Effect {
        self.0.with(|ports| match ports.selected() {
            Some((function, first)) => {
                let offset = first + usize::from(offset);
                ports.segment.write_config(function, offset, data)
            }
            None => Effect::Continue,
        })
    }
}
