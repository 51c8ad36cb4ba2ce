//! The NIC's window as a PCI function, compatible with ivshmem (QEMU, "Device Specification for
//! Inter-VM shared memory device", revision 1), with a capability that says what ivshmem cannot
//! ([`postern_abi::nic_device`]).
//!
//! The *plain* variant has memory and registers. The *doorbell* variant has MSI-X vectors, too: who
//! knows a [`Bell`] of the function interrupts its driver, and a write to its doorbell register
//! rings the bell of the port that it names, if the VM has been given one, or its own. Both have an
//! INTx pin, which the interrupt status and mask registers control while MSI-X is off.
#![deny(unsafe_code)]

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use postern_abi::nic_device::{self, NicDevice, register};
use vmm_sys_util::eventfd::EventFd;

use super::function::{Bar, BarKind, BarMemory, Identity, Interrupts, PciFunction};
use crate::devices::Effect;

/// Subsystem vendor and device of QEMU's PCI functions.
const SUBSYSTEM: (u16, u16) = (0x1af4, 0x1100);

/// Bit 0 of interrupt mask and status: a peer has rung. The others do nothing.
const PEER: u32 = 1;

/// Event descriptors of other ports' vectors, by number of the port.
pub type Peers = BTreeMap<u16, Vec<EventFd>>;

/// The NIC port of a VM on its PCI bus.
pub struct Ivshmem {
    device: NicDevice,
    memory: Mutex<Option<BarMemory>>,
    bell: Arc<Bell>,
    peers: Peers,
}

impl fmt::Debug for Ivshmem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ivshmem")
            .field("device", &self.device)
            .field("peers", &self.peers.len())
            .finish_non_exhaustive()
    }
}

/// Interrupts the driver of a function, from any thread.
#[derive(Default)]
pub struct Bell {
    interrupts: OnceLock<Arc<dyn Interrupts>>,
    registers: Mutex<Registers>,
}

impl fmt::Debug for Bell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bell").finish_non_exhaustive()
    }
}

#[derive(Default)]
struct Registers {
    mask: u32,
    status: u32,
}

impl Bell {
    /// Sends the message of a vector, or sets the interrupt status while MSI-X is off. A vector that
    /// the function does not have is ignored.
    ///
    /// # Errors
    ///
    /// The event descriptor cannot be written.
    pub fn ring(&self, vector: u16) -> io::Result<()> {
        match self.interrupts.get() {
            None => Ok(()),
            Some(interrupts) if interrupts.msix_enabled() => interrupts.signal(vector),
            Some(_) => {
                self.change(|registers| registers.status |= PEER);
                Ok(())
            }
        }
    }

    fn registers(&self) -> MutexGuard<'_, Registers> {
        // Two numbers: a panic elsewhere breaks neither.
        self.registers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the registers, and the pin with them.
    fn change<R>(&self, act: impl FnOnce(&mut Registers) -> R) -> R {
        let mut registers = self.registers();
        let result = act(&mut registers);
        if let Some(interrupts) = self.interrupts.get() {
            interrupts.set_intx(registers.status & registers.mask & PEER != 0);
        }
        result
    }
}

impl Ivshmem {
    /// The function of a port, with the memory behind BAR 2 and the bells of other ports.
    pub fn new(device: NicDevice, memory: BarMemory, peers: Peers) -> Ivshmem {
        Ivshmem {
            device,
            memory: Mutex::new(Some(memory)),
            bell: Arc::default(),
            peers,
        }
    }

    /// What interrupts the function's driver.
    pub fn bell(&self) -> Arc<Bell> {
        Arc::clone(&self.bell)
    }

    /// A write to the doorbell register. What names nobody is harmless.
    fn ring(&self, value: u32) {
        let (peer, vector) = ((value >> 16) as u16, value as u16);
        if self.device.vectors == 0 || vector >= self.device.vectors {
            return;
        }
        // An event that cannot be counted any more has been signalled.
        if u32::from(peer) == self.device.port.number() {
            let _ = self.bell.ring(vector);
        } else if let Some(event) = self
            .peers
            .get(&peer)
            .and_then(|vectors| vectors.get(usize::from(vector)))
        {
            let _ = event.write(1);
        }
    }
}

impl PciFunction for Ivshmem {
    fn identity(&self) -> Identity {
        let registers = Bar {
            size: nic_device::REGISTERS_SIZE,
            kind: BarKind::Registers,
        };
        let window = Bar {
            size: self.device.bar_size(),
            kind: BarKind::Memory,
        };
        Identity {
            id: (nic_device::VENDOR_ID, nic_device::DEVICE_ID),
            subsystem: SUBSYSTEM,
            class: nic_device::CLASS,
            revision: nic_device::REVISION_ID,
            bars: vec![
                (nic_device::BAR_REGISTERS, registers),
                (nic_device::BAR_WINDOW, window),
            ],
            vendor_capabilities: vec![self.device.capability().to_vec()],
            msix_vectors: self.device.vectors,
            intx: true,
        }
    }

    fn memory(&self, _: usize) -> Option<BarMemory> {
        self.memory
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
    }

    fn connect(&mut self, interrupts: Arc<dyn Interrupts>) {
        let _ = self.bell.interrupts.set(interrupts);
    }

    /// Registers have 32 bits; other accesses read as zeros.
    fn read(&mut self, _: usize, offset: u64, data: &mut [u8]) {
        data.fill(0);
        let Ok(word) = <&mut [u8; 4]>::try_from(data) else {
            return;
        };
        let value = match offset {
            register::INTERRUPT_MASK => self.bell.registers().mask,
            register::INTERRUPT_STATUS => self
                .bell
                .change(|registers| std::mem::take(&mut registers.status)),
            register::IV_POSITION if self.device.vectors > 0 => self.device.port.number(),
            _ => 0,
        };
        *word = value.to_le_bytes();
    }

    fn write(&mut self, _: usize, offset: u64, data: &[u8]) -> Effect {
        if let Ok(&word) = <&[u8; 4]>::try_from(data) {
            let value = u32::from_le_bytes(word);
            match offset {
                register::INTERRUPT_MASK => self.bell.change(|registers| registers.mask = value),
                register::INTERRUPT_STATUS => {
                    self.bell.change(|registers| registers.status = value);
                }
                register::DOORBELL => self.ring(value),
                _ => {}
            }
        }
        Effect::Continue
    }

    fn reset(&mut self) {
        self.bell
            .change(|registers| *registers = Registers::default());
    }
}
