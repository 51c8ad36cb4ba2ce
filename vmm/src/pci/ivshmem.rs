//! The NIC's window as a PCI function, compatible with ivshmem (QEMU, "Device Specification for
//! Inter-VM shared memory device", revision 1), with a capability that says what ivshmem cannot
//! ([`postern_abi::nic_device`]).
//!
//! The *plain* variant has memory and registers. The *doorbell* variant has MSI-X vectors, too: a
//! write to a register rings the bell of one of the NIC's RX queues. The bell of another port is an
//! event descriptor that KVM signals by itself (a [`Doorbell`]); where it does not, and for writes
//! to the doorbell register of ivshmem, this does. The bells of the port itself interrupt its
//! driver: a thread ([`crate::bells`]) waits for them, and sends the message of an MSI-X vector for
//! each, or sets the interrupt status while MSI-X is off.
//!
//! Both variants have an INTx pin, which the interrupt status and mask registers control while MSI-X
//! is off. A driver acknowledges an interrupt by a read of the status, or by setting INTx Disable in
//! the command register, which drivers that do not know the device do (Linux: `uio_pci_generic`).
//! A driver that knows the device can spare that with [`register::PULSE`].
#![deny(unsafe_code)]

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Instant;

use postern_abi::nic_device::{self, NicDevice, register};
use vmm_sys_util::eventfd::EventFd;

use super::function::{
    Bar, BarKind, BarMemory, Doorbell, Identity, Interrupts, Intx, PciFunction, Pin,
};
use crate::bells::{Allowance, BellCounters};
use crate::devices::Effect;
use crate::event;

/// Subsystem vendor and device of QEMU's PCI functions.
const SUBSYSTEM: (u16, u16) = (0x1af4, 0x1100);

/// Bit 0 of interrupt mask and status: a peer has rung.
const PEER: u32 = 1;

/// The bells of a NIC's RX queues, by number of the port, in the order of its queues.
pub type Peers = BTreeMap<u16, Vec<Arc<EventFd>>>;

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
pub struct Bell {
    interrupts: OnceLock<Arc<dyn Interrupts>>,
    registers: Mutex<Registers>,
    /// The bells of the port's own queues, one for each MSI-X vector.
    events: Vec<Arc<EventFd>>,
    /// Is signalled when the bells come to be KVM's, or no more, and when MSI-X is turned on or off.
    switched: Arc<EventFd>,
    counters: BellCounters,
    /// How often the guest may be interrupted.
    allowance: Mutex<Allowance>,
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
    fn new(events: Vec<Arc<EventFd>>) -> io::Result<Bell> {
        Ok(Bell {
            interrupts: OnceLock::new(),
            registers: Mutex::default(),
            events,
            switched: Arc::new(EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC)?),
            counters: BellCounters::default(),
            allowance: Mutex::new(Allowance::new(Instant::now())),
        })
    }

    /// The bells of the port's own queues, which other VMs ring.
    pub fn events(&self) -> &[Arc<EventFd>] {
        &self.events
    }

    /// Whether the bells are KVM's now, as pulses of the pin: nobody else may take them.
    pub fn is_wired(&self) -> bool {
        let interrupts = self.interrupts.get();
        interrupts.is_some_and(|interrupts| interrupts.is_pin_wired())
    }

    fn is_msix(&self) -> bool {
        let interrupts = self.interrupts.get();
        interrupts.is_some_and(|interrupts| interrupts.msix_enabled())
    }

    /// How often the guest may be interrupted.
    pub(crate) fn allowance(&self) -> MutexGuard<'_, Allowance> {
        // A time: a panic elsewhere does not break it.
        self.allowance
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the driver has the pin as a pulse, and nobody has wired the bells to it.
    pub(crate) fn is_unwired_pulse(&self) -> bool {
        self.registers().mask == register::PULSE && !self.is_wired() && !self.is_msix()
    }

    /// Wires the bells to the pin, or has [`crate::bells`] look after them.
    pub(crate) fn wire(&self, wired: bool) {
        let registers = self.registers();
        if let (Some(interrupts), register::PULSE) = (self.interrupts.get(), registers.mask) {
            interrupts.set_pin(if wired { Pin::Wired } else { Pin::Pulse });
        }
    }

    /// Has the pin be as PCI has it.
    fn set_level_pin(&self) {
        if let Some(interrupts) = self.interrupts.get() {
            interrupts.set_pin(Pin::Level);
        }
    }

    /// A pulse has been seen. If there were too many, others are let through one by one.
    fn count_pulse(&self) {
        let held = self.counters.count(&mut self.allowance(), Instant::now());
        if held {
            self.wire(false);
            // KVM may have taken a bell whose interrupt nobody has asked about yet: who does finds the
            // pin asserted.
            if self.is_unwired_pulse() {
                self.change(|registers| registers.status |= PEER);
            }
        }
    }

    /// What the thread counts that waits for the events.
    pub(crate) fn counters(&self) -> &BellCounters {
        &self.counters
    }

    /// Is signalled when [`Bell::is_wired`] changes, or MSI-X is turned on or off.
    pub fn switched(&self) -> &EventFd {
        &self.switched
    }

    /// Sends the message of a vector, or sets the interrupt status while MSI-X is off. A vector that
    /// the function does not have is ignored.
    pub fn ring(&self, vector: u16) {
        let Some(event) = self.events.get(usize::from(vector)) else {
            return;
        };
        match self.interrupts.get() {
            Some(interrupts) if interrupts.msix_enabled() => {
                // It fails only where it has been signalled 2^64 - 2 times.
                let _ = interrupts.signal(vector);
            }
            _ if self.is_wired() => event::signal(event),
            _ => self.change(|registers| registers.status |= PEER),
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
    /// The function of a port, with the memory behind BAR 2 and the bells of all ports, as far as the
    /// VM has them.
    ///
    /// # Errors
    ///
    /// No descriptor is left.
    pub fn new(device: NicDevice, memory: BarMemory, mut peers: Peers) -> io::Result<Ivshmem> {
        let vectors = usize::from(device.vectors);
        let own = peers.remove(&(device.port.number() as u16));
        let mut events = own.unwrap_or_default();
        events.truncate(vectors);
        while events.len() < vectors {
            let event = EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC)?;
            events.push(Arc::new(event));
        }
        Ok(Ivshmem {
            device,
            memory: Mutex::new(Some(memory)),
            bell: Arc::new(Bell::new(events)?),
            peers,
        })
    }

    /// What interrupts the function's driver.
    pub fn bell(&self) -> Arc<Bell> {
        Arc::clone(&self.bell)
    }

    /// A write to the doorbell register, as ivshmem has it.
    fn ring_peer(&self, value: u32) {
        self.ring((value >> 16) as u16, value as u16);
    }

    /// A write to a bell's register that KVM has not taken.
    fn ring_number(&self, number: u64) {
        let queues = u64::from(self.device.vectors.max(1));
        self.ring((number / queues) as u16, (number % queues) as u16);
    }

    /// Rings the bell of a port's queue. What names nobody is harmless.
    fn ring(&self, peer: u16, vector: u16) {
        if self.device.vectors == 0 || vector >= self.device.vectors {
            return;
        }
        if u32::from(peer) == self.device.port.number() {
            self.bell.ring(vector);
        } else if let Some(event) = self
            .peers
            .get(&peer)
            .and_then(|vectors| vectors.get(usize::from(vector)))
        {
            event::signal(event);
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
            intx: Some(Intx::Own),
        }
    }

    fn memory(&self, _: usize) -> Option<BarMemory> {
        self.memory
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
    }

    /// The bells of other ports.
    fn doorbells(&self) -> Vec<Doorbell> {
        let peers = self.peers.iter().filter(|_| self.device.vectors > 0);
        let doorbells = peers.flat_map(|(&port, bells)| {
            let first = u64::from(port) * u64::from(self.device.vectors);
            let queues = (0..self.device.vectors).zip(bells);
            queues.map(move |(queue, event)| Doorbell {
                bar: nic_device::BAR_REGISTERS,
                offset: register::BELLS + 4 * (first + u64::from(queue)),
                event: Arc::clone(event),
            })
        });
        doorbells.collect()
    }

    fn pulses(&self) -> Vec<Arc<EventFd>> {
        self.bell.events.clone()
    }

    fn connect(&mut self, interrupts: Arc<dyn Interrupts>) {
        interrupts.watch_msix(Arc::clone(&self.bell.switched));
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
                register::INTERRUPT_MASK => {
                    self.bell.change(|registers| registers.mask = value);
                    match value {
                        register::PULSE => self.bell.wire(true),
                        _ => self.bell.set_level_pin(),
                    }
                }
                register::INTERRUPT_STATUS => {
                    self.bell.change(|registers| registers.status = value);
                }
                register::DOORBELL => self.ring_peer(value),
                register::BELLS.. => self.ring_number((offset - register::BELLS) / 4),
                _ => {}
            }
        }
        Effect::Continue
    }

    fn intx_acknowledged(&mut self) {
        // The thread may have noted something before the bells were wired.
        self.bell.change(|registers| registers.status = 0);
        if self.bell.is_wired() {
            self.bell.count_pulse();
        }
    }

    fn reset(&mut self) {
        self.bell
            .change(|registers| *registers = Registers::default());
    }
}
