//! The I/O APIC of pins that no other function shares (Intel, "82093AA I/O Advanced Programmable
//! Interrupt Controller"): a second one, beside KVM's.
//!
//! An edge of its pin is a message, as an MSI-X vector has one, so KVM delivers it at once, in the
//! context of whoever signals the event: a pin of KVM's own I/O APIC takes a thread of the host's
//! kernel for that. And since the pin is edge-triggered, the guest's handler asks no local APIC whether
//! it was a level, and needs no exit for the end of the interrupt. The ACPI tables say so by an
//! interrupt link device, as `_PRT` alone can only mean a level (ACPI 6.5, "_PRT").
//!
//! It has one pin, for the NIC's port, and is edge-triggered whatever the guest writes: no end of an
//! interrupt comes back to it. What is signalled while the pin is masked comes when it no longer is.
#![deny(unsafe_code)]

use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use vmm_sys_util::eventfd::EventFd;

use super::machine::{Machine, Message};
use crate::event;

/// Offset of the register that selects one.
const SELECT: u64 = 0x00;
/// Offset of the register that is selected.
const WINDOW: u64 = 0x10;
/// Selects the APIC's ID.
const ID: u8 = 0x00;
/// Selects the version, and the number of the last pin.
const VERSION: u8 = 0x01;
/// Selects the arbitration ID.
const ARBITRATION: u8 = 0x02;
/// Select the halves of the pin's entry in the redirection table.
const ENTRY_LOW: u8 = 0x10;
const ENTRY_HIGH: u8 = 0x11;

/// The version is that of the 82093AA; pin 0 is the last.
const VERSION_VALUE: u32 = 0x11;
/// Bits of the ID.
const ID_BITS: u32 = 0x0f00_0000;
/// ID after a reset, which the MADT tells.
pub const FIRST_ID: u8 = 1;

/// Redirection entry: vector and delivery mode.
const DELIVERY: u32 = 0x7ff;
/// Redirection entry: the destination is logical.
const LOGICAL: u32 = 1 << 11;
/// Redirection entry: the pin is masked.
const MASKED: u32 = 1 << 16;
/// Bits of the low half that can be written: but delivery status and remote IRR.
const WRITABLE: u32 = 0x1_afff;
/// Bits of the high half: the destination.
const DESTINATION: u32 = 0xff00_0000;

/// An I/O APIC with one pin, and the events that are edges of it.
pub struct IoApic {
    machine: Arc<dyn Machine>,
    gsi: u32,
    /// The edges that its own function makes by the pin's level.
    own: Arc<EventFd>,
    state: Mutex<State>,
}

struct State {
    select: u8,
    id: u32,
    low: u32,
    high: u32,
    level: bool,
    /// Events of others that are edges, too.
    wired: Vec<Arc<EventFd>>,
    routed: Option<Message>,
    /// Whether KVM has the events.
    connected: bool,
}

impl fmt::Debug for IoApic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IoApic")
            .field("gsi", &self.gsi)
            .finish_non_exhaustive()
    }
}

impl IoApic {
    /// An I/O APIC whose pin is masked.
    ///
    /// # Errors
    ///
    /// No event descriptor or no interrupt is left.
    pub fn new(machine: Arc<dyn Machine>) -> io::Result<IoApic> {
        let full = || io::Error::other("all interrupt routes are taken");
        Ok(IoApic {
            gsi: machine.take_gsi().ok_or_else(full)?,
            machine,
            own: Arc::new(EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC)?),
            state: Mutex::new(State {
                select: 0,
                id: u32::from(FIRST_ID) << 24,
                low: MASKED,
                high: 0,
                level: false,
                wired: Vec::new(),
                routed: None,
                connected: false,
            }),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // What a panic elsewhere could leave half done is done again by the next change.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Back to what it is after a reset, but for the pin's level and events.
    pub fn reset(&self) {
        let mut state = self.state();
        (state.select, state.id) = (0, u32::from(FIRST_ID) << 24);
        (state.low, state.high) = (MASKED, 0);
        self.update(&mut state);
        event::take(&self.own);
    }

    /// Sets the level of the pin.
    pub fn set_level(&self, level: bool) {
        let mut state = self.state();
        if level && !state.level {
            event::signal(&self.own);
        }
        state.level = level;
    }

    /// Has these events be edges of the pin from now on, instead of those before.
    ///
    /// # Errors
    ///
    /// KVM refuses one of them; none are then.
    pub fn wire(&self, events: Vec<Arc<EventFd>>) -> io::Result<()> {
        let mut state = self.state();
        self.disconnect(&mut state);
        state.wired = events;
        let done = self.connect(&mut state);
        if done.is_err() {
            state.wired.clear();
            // What the pin had before, it has had.
            let _ = self.connect(&mut state);
        }
        done
    }

    /// Fills `data` with what a read at `offset` gives.
    pub fn read(&self, offset: u64, data: &mut [u8]) {
        let state = self.state();
        let value = match offset {
            SELECT => u32::from(state.select),
            WINDOW => match state.select {
                ID | ARBITRATION => state.id,
                VERSION => VERSION_VALUE,
                ENTRY_LOW => state.low,
                ENTRY_HIGH => state.high,
                _ => 0,
            },
            _ => 0,
        };
        // The registers have 32 bits, of which a narrow read has the first ones.
        let bytes = value.to_le_bytes().into_iter().chain(std::iter::repeat(0));
        for (to, byte) in data.iter_mut().zip(bytes) {
            *to = byte;
        }
    }

    /// Takes a write, as KVM's I/O APIC does: of a select register the first byte, of others all four.
    pub fn write(&self, offset: u64, data: &[u8]) {
        let mut state = self.state();
        let word = data.first_chunk().copied().map(u32::from_le_bytes);
        match (offset, data.first(), word) {
            (SELECT, Some(&select), _) => state.select = select,
            (WINDOW, _, Some(value)) => {
                match state.select {
                    ID => state.id = value & ID_BITS,
                    ENTRY_LOW => state.low = value & WRITABLE,
                    ENTRY_HIGH => state.high = value & DESTINATION,
                    _ => return,
                }
                self.update(&mut state);
            }
            _ => {}
        }
    }

    /// Has KVM deliver what the entry says.
    fn update(&self, state: &mut State) {
        if state.low & MASKED != 0 {
            self.disconnect(state);
            return;
        }
        let message = message(state.low, state.high);
        if state.routed != Some(message) {
            // An edge has no message rather than another one's.
            let routed = self.machine.route(self.gsi, message);
            state.routed = routed.is_ok().then_some(message);
            if routed.is_err() {
                self.disconnect(state);
            }
        }
        if !state.connected {
            // As with a vector of MSI-X: what KVM has no room for is not delivered.
            let _ = self.connect(state);
        }
    }

    /// Gives KVM the events, if the pin may be delivered.
    fn connect(&self, state: &mut State) -> io::Result<()> {
        if state.connected || state.low & MASKED != 0 || state.routed.is_none() {
            return Ok(());
        }
        let events = [&self.own].into_iter().chain(&state.wired);
        for (given, event) in events.clone().enumerate() {
            if let Err(error) = self.machine.set_event(self.gsi, event, true) {
                for event in events.take(given) {
                    let _ = self.machine.set_event(self.gsi, event, false);
                }
                return Err(error);
            }
        }
        state.connected = true;
        Ok(())
    }

    fn disconnect(&self, state: &mut State) {
        if std::mem::take(&mut state.connected) {
            for event in [&self.own].into_iter().chain(&state.wired) {
                // KVM has it.
                let _ = self.machine.set_event(self.gsi, event, false);
            }
        }
    }
}

/// The message of an entry, as an edge (SDM volume 3, "Message Address Register Format").
fn message(low: u32, high: u32) -> Message {
    const BASE: u64 = 0xfee0_0000;
    const LOGICAL_DESTINATION: u64 = 1 << 2;
    let mode = if low & LOGICAL != 0 {
        LOGICAL_DESTINATION
    } else {
        0
    };
    Message {
        address: BASE | u64::from(high >> 24) << 12 | mode,
        data: low & DELIVERY,
    }
}
