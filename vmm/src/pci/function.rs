//! A PCI function, as its device model sees it.
#![deny(unsafe_code)]

use std::io;
use std::sync::Arc;

use vmm_sys_util::eventfd::EventFd;

use crate::devices::Effect;
use crate::memory::MemoryOwner;

/// What a function is to the driver: its configuration header, its BARs and its interrupts. All of
/// it is fixed when the function is put on the bus.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Vendor and device ID.
    pub id: (u16, u16),
    /// Subsystem vendor and subsystem ID.
    pub subsystem: (u16, u16),
    /// Class code: base class, sub-class, programming interface.
    pub class: [u8; 3],
    /// Revision ID.
    pub revision: u8,
    /// Base address registers, by index.
    pub bars: Vec<(usize, Bar)>,
    /// Vendor-specific capabilities (ID 9): what follows the ID and the pointer to the next one.
    pub vendor_capabilities: Vec<Vec<u8>>,
    /// MSI-X vectors; with 0 the function has no MSI-X. The table and the pending bits have BAR 1,
    /// which the bus makes.
    pub msix_vectors: u16,
    /// The function's INTx pin, if it has one.
    pub intx: Option<Intx>,
}

/// Where the INTx pin of a function leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Intx {
    /// To a level-triggered interrupt that it shares with others, as PCI has it.
    Shared,
    /// To the pin of an I/O APIC of its own ([`super::IoApic`]), which is edge-triggered: the interrupt
    /// comes when the pin is asserted, and only then. One function of a bus can have it.
    Own,
}

/// A base address register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bar {
    /// Size in bytes: a power of two, at least 16.
    pub size: u64,
    /// What is behind it.
    pub kind: BarKind,
}

/// What is behind a BAR.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BarKind {
    /// Registers in memory space, 32 bits: accesses come to the function.
    Registers,
    /// Memory that the guest accesses without an exit, 64 bits and prefetchable: a memory slot, which
    /// moves with the BAR.
    Memory,
}

/// Host memory behind a [`BarKind::Memory`].
#[expect(missing_debug_implementations, reason = "taken apart at once")]
pub struct BarMemory {
    /// Name of what it is, for people.
    pub name: &'static str,
    /// Host-virtual address of the first byte, at a page boundary.
    pub host: usize,
    /// Bytes that exist: whole pages, at most the size of the BAR. Nothing is behind the rest.
    pub size: u64,
    /// Keeps the memory mapped.
    pub owner: MemoryOwner,
}

/// A register that KVM answers: a write of any width there signals an event and does not come to the
/// function (`KVM_IOEVENTFD`). Where KVM has no room for it, the write comes to the function.
#[derive(Clone, Debug)]
pub struct Doorbell {
    /// Number of the BAR.
    pub bar: usize,
    /// Offset in the BAR.
    pub offset: u64,
    /// What is signalled.
    pub event: Arc<EventFd>,
}

/// A PCI function: type 0 header, one function a device.
///
/// Accesses to configuration space are the bus's; a function sees those to its BARs that the guest
/// makes while memory decoding is on. All values that a guest writes are hostile. Calls are made by
/// vCPU threads, one at a time.
pub trait PciFunction: Send {
    /// What the function is. Asked once.
    fn identity(&self) -> Identity;

    /// The memory behind a BAR that is [`BarKind::Memory`]. Asked once.
    fn memory(&self, bar: usize) -> Option<BarMemory> {
        let _ = bar;
        None
    }

    /// The function's doorbells. Asked once.
    fn doorbells(&self) -> Vec<Doorbell> {
        Vec::new()
    }

    /// Event descriptors that are pulses of a pin of its own while that is [`Pin::Wired`]: whoever else
    /// has them interrupts the driver by no thread of the VMM's. Asked once.
    fn pulses(&self) -> Vec<Arc<EventFd>> {
        Vec::new()
    }

    /// Gives the function its interrupts, before the guest runs.
    fn connect(&mut self, interrupts: Arc<dyn Interrupts>);

    /// Changes what a read of a vendor-specific capability gives, by its index in
    /// [`Identity::vendor_capabilities`]: `data` holds the capability's bytes from `offset` on, as
    /// the identity has them. For capabilities through which a driver reaches registers; it must not
    /// change the interrupts' set-up.
    fn read_capability(&mut self, index: usize, offset: usize, data: &mut [u8]) {
        let _ = (index, offset, data);
    }

    /// Takes a write to a vendor-specific capability.
    fn write_capability(&mut self, index: usize, offset: usize, data: &[u8]) -> Effect {
        let _ = (index, offset, data);
        Effect::Continue
    }

    /// Fills `data` (1, 2, 4 or 8 bytes) with what a read at `offset` in a BAR gives. It holds all
    /// ones before.
    fn read(&mut self, bar: usize, offset: u64, data: &mut [u8]);

    /// Takes a write of `data` (1, 2, 4 or 8 bytes) at `offset` in a BAR.
    fn write(&mut self, bar: usize, offset: u64, data: &[u8]) -> Effect;

    /// The driver has disabled INTx while the function asserted it, or has read the status of a pulse:
    /// it knows of the interrupt.
    fn intx_acknowledged(&mut self) {}

    /// A reset of the function, by the bus's or the machine's.
    fn reset(&mut self);
}

/// What an INTx pin is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pin {
    /// As PCI has it.
    #[default]
    Level,
    /// INTx Disable does not keep it from being asserted, and a read of the status register
    /// acknowledges it ([`PciFunction::intx_acknowledged`]).
    Pulse,
    /// The same, and while MSI-X is off, KVM turns the function's events ([`PciFunction::pulses`]) into
    /// pulses. What is pending KVM alone knows, so each read of the
    /// status register finds the pin asserted. A pin that is shared is as with [`Pin::Pulse`].
    Wired,
}

/// The interrupts of one function, shared with its worker threads.
pub trait Interrupts: Send + Sync {
    /// Whether the driver has turned MSI-X on: INTx is not used then.
    fn msix_enabled(&self) -> bool;

    /// Sends the message of an MSI-X vector; pends while the vector is masked. Ignored where there
    /// is no such vector.
    ///
    /// # Errors
    ///
    /// The event descriptor cannot be written.
    fn signal(&self, vector: u16) -> io::Result<()>;

    /// The event descriptor of an MSI-X vector, for others that signal it (vhost): KVM turns it into
    /// the message, while unmasked. The same for as long as the VM lives.
    fn event(&self, vector: u16) -> Option<&EventFd>;

    /// Has an event signalled from now on each time that the driver turns MSI-X on or off, or that
    /// [`Interrupts::is_pin_wired`] changes.
    fn watch_msix(&self, event: Arc<EventFd>);

    /// Sets the level of the INTx pin.
    fn set_intx(&self, level: bool);

    /// Chooses what the pin is.
    fn set_pin(&self, pin: Pin);

    /// Whether the function's events are the pin's now ([`Pin::Wired`]).
    fn is_pin_wired(&self) -> bool;
}
