//! What a PCI bus needs of its VM.
#![deny(unsafe_code)]

use std::io;

use vmm_sys_util::eventfd::EventFd;

use super::function::BarMemory;

/// A message-signalled interrupt: a write of `data` to `address`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message {
    /// Guest-physical address.
    pub address: u64,
    /// What is written.
    pub data: u32,
}

/// Number of a memory BAR in the VM's table of memory slots.
pub type SlotNumber = usize;

/// The VM around a PCI bus: memory slots, interrupt routes, event descriptors. [`super::KvmMachine`]
/// on KVM, [`Detached`] for tests and fuzzing.
///
/// Calls are made by vCPU threads on behalf of a guest: an error means that what the guest asked for
/// is not there, and is no error of the VM's.
pub trait Machine: Send + Sync {
    /// Takes memory into the table of slots, at no address yet.
    fn add_memory(&self, memory: BarMemory) -> SlotNumber;

    /// Puts a slot at `gpa`. Nobody else may be there.
    ///
    /// # Errors
    ///
    /// The range is not whole pages, somebody has a part of it, or KVM refuses.
    fn map(&self, slot: SlotNumber, gpa: u64) -> io::Result<()>;

    /// Takes a slot from its address.
    fn unmap(&self, slot: SlotNumber);

    /// Has writes at that address signal an event, or no more.
    ///
    /// # Errors
    ///
    /// KVM refuses: too many, or one is there.
    fn set_doorbell(&self, address: u64, event: &EventFd, on: bool) -> io::Result<()>;

    /// Takes a global system interrupt for messages; none when all are taken.
    fn take_gsi(&self) -> Option<u32>;

    /// Has that interrupt mean that message.
    ///
    /// # Errors
    ///
    /// KVM refuses.
    fn route(&self, gsi: u32, message: Message) -> io::Result<()>;

    /// Has an event raise that interrupt, or no more. What was signalled meanwhile counts.
    ///
    /// # Errors
    ///
    /// KVM refuses.
    fn set_event(&self, gsi: u32, event: &EventFd, on: bool) -> io::Result<()>;

    /// Asserts or deasserts a level-triggered interrupt, on behalf of one of the pins that share it.
    fn set_level(&self, gsi: u32, level: bool);

    /// Has writes of that word to an I/O port signal an event, for the VM's life.
    ///
    /// # Errors
    ///
    /// KVM refuses.
    fn set_port(&self, port: u16, word: u32, event: &EventFd) -> io::Result<()>;
}

/// No VM: everything is accepted and nothing done.
#[derive(Debug, Default)]
pub struct Detached {
    gsis: std::sync::atomic::AtomicU32,
}

impl Machine for Detached {
    fn add_memory(&self, _: BarMemory) -> SlotNumber {
        0
    }

    fn map(&self, _: SlotNumber, _: u64) -> io::Result<()> {
        Ok(())
    }

    fn unmap(&self, _: SlotNumber) {}

    fn set_doorbell(&self, _: u64, _: &EventFd, _: bool) -> io::Result<()> {
        Ok(())
    }

    fn take_gsi(&self) -> Option<u32> {
        let before = self.gsis.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        Some(crate::layout::FIRST_MSI_GSI + before)
    }

    fn route(&self, _: u32, _: Message) -> io::Result<()> {
        Ok(())
    }

    fn set_event(&self, _: u32, _: &EventFd, _: bool) -> io::Result<()> {
        Ok(())
    }

    fn set_level(&self, _: u32, _: bool) {}

    fn set_port(&self, _: u16, _: u32, _: &EventFd) -> io::Result<()> {
        Ok(())
    }
}
