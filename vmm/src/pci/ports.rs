//! Configuration space by I/O ports (PCI Local Bus Specification 3.0, "Configuration Mechanism").
//!
//! Each access is two exits to user space. Of those that Linux' `uio_pci_generic` makes for each
//! interrupt the first is one that KVM handles alone: the write of the address of the command register
//! of the function with a pin of its own ([`Intx::Own`](super::Intx::Own)) is an ioeventfd for that very
//! word. Whether the address register holds it is seen with the next access to either register, since a
//! guest makes them one at a time. (KVM could collect all writes, KVM_CAP_COALESCED_PIO. It would collect
//! those to 0xcf9 with them, one of the address register's four bytes, which is where a guest resets the
//! machine: nobody would see that until the next exit.)
#![deny(unsafe_code)]

use std::sync::Arc;

use vmm_sys_util::eventfd::EventFd;

use super::config::COMMAND;
use super::segment::Segment;
use crate::devices::{Bus, Effect, PioDevice, Shared};
use crate::layout;

/// The configuration address register and the data register that it selects a place for.
#[derive(Debug)]
pub struct ConfigPorts {
    segment: Arc<Segment>,
    address: u32,
    /// A word that KVM takes when it is written to the address register, and the event that it signals
    /// then.
    taken: Option<(u32, EventFd)>,
}

/// Address register: accesses to the data register are configuration accesses.
const ENABLE: u32 = 1 << 31;

impl ConfigPorts {
    /// The ports of a segment, all functions of which are there.
    pub fn new(segment: Arc<Segment>) -> Shared<ConfigPorts> {
        let taken = segment.own_pin().and_then(|device| {
            let word = ENABLE | (device as u32) << 11 | COMMAND as u32;
            let event = EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC).ok()?;
            let port = layout::PCI_CONFIG_ADDRESS;
            // Without it, that write is an exit to user space as all others are.
            segment.machine().set_port(port, word, &event).ok()?;
            Some((word, event))
        });
        Shared::new(ConfigPorts {
            segment,
            address: 0,
            taken,
        })
    }

    /// Takes over what KVM has taken for the address register.
    fn settle(&mut self) {
        if let Some((word, event)) = &self.taken
            && event.read().is_ok()
        {
            self.address = *word;
        }
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
            let address = self.0.with(|ports| {
                ports.settle();
                ports.address
            });
            *word = address.to_le_bytes();
        }
    }

    fn write(&mut self, _: u16, data: &[u8]) -> Effect {
        if let Ok(&word) = <&[u8; 4]>::try_from(data) {
            let address = u32::from_le_bytes(word) & (ENABLE | 0x00ff_fffc);
            self.0.with(|ports| {
                ports.settle();
                ports.address = address;
            });
        }
        Effect::Continue
    }
}

struct DataPorts(Shared<ConfigPorts>);

impl PioDevice for DataPorts {
    fn read(&mut self, offset: u16, data: &mut [u8]) {
        self.0.with(|ports| {
            ports.settle();
            if let Some((function, first)) = ports.selected() {
                let offset = first + usize::from(offset);
                ports.segment.read_config(function, offset, data);
            }
        });
    }

    fn write(&mut self, offset: u16, data: &[u8]) -> Effect {
        self.0.with(|ports| {
            ports.settle();
            match ports.selected() {
                Some((function, first)) => {
                    let offset = first + usize::from(offset);
                    ports.segment.write_config(function, offset, data)
                }
                None => Effect::Continue,
            }
        })
    }
}
