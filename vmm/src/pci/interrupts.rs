//! The interrupts of one function: MSI-X and INTx (PCI Local Bus Specification 3.0, "MSI-X
//! Capability and Table Structures", "Interrupt Pin").
//!
//! Each vector has one event descriptor for the VM's life. While the vector may be delivered, KVM
//! turns the event into the message; while it may not, what is signalled stays in the descriptor, and
//! that is the vector's pending bit.
#![deny(unsafe_code)]

use std::fmt;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use vmm_sys_util::eventfd::EventFd;

use super::function::{Interrupts, Pin};
use super::io_apic::IoApic;
use super::machine::{Machine, Message};
use crate::event;

/// Bytes of an entry of the MSI-X table.
const ENTRY: u64 = 16;
/// Vector control: the vector is masked.
const MASKED: u32 = 1;
/// First byte behind the addresses to which messages can be written, and their first one (SDM volume
/// 3, "Message Address Register Format").
const MESSAGES: std::ops::Range<u64> = 0xfee0_0000..0xfef0_0000;

/// Where BAR 1 has the pending bits, for so many vectors.
pub fn pending_offset(vectors: u16) -> u64 {
    (u64::from(vectors) * ENTRY).next_multiple_of(2048)
}

/// Size of BAR 1 for so many vectors, in bytes.
pub fn bar_size(vectors: u16) -> u64 {
    let pending = u64::from(vectors).div_ceil(64) * 8;
    (pending_offset(vectors) + pending)
        .next_power_of_two()
        .max(4096)
}

/// One MSI-X vector.
struct Vector {
    event: EventFd,
    gsi: u32,
}

/// What the driver has set, and what follows from it.
struct State {
    enabled: bool,
    masked: bool,
    master: bool,
    /// The MSI-X table, as the driver sees it: address, its high half, data, vector control.
    table: Vec<[u32; 4]>,
    /// What the machine has for each vector.
    routed: Vec<Option<Message>>,
    /// Whether the machine delivers each vector.
    connected: Vec<bool>,
    /// Level of the function's pin.
    level: bool,
    intx_disabled: bool,
    pin: Pin,
    /// Whether the pulses are the pin's.
    wired: bool,
    /// What the interrupt controller sees of it.
    asserted: bool,
}

/// Where the pin of a function leads.
#[derive(Clone, Debug)]
pub enum Line {
    /// To this level-triggered interrupt.
    Shared(u32),
    /// To an I/O APIC of its own.
    Own(Arc<IoApic>),
}

/// The interrupts of one function.
pub struct FunctionInterrupts {
    machine: Arc<dyn Machine>,
    intx: Option<Line>,
    /// The function's events for the pin.
    pulses: Vec<Arc<EventFd>>,
    vectors: Vec<Vector>,
    /// `State::enabled`, for those who signal.
    msix: AtomicBool,
    /// `State::wired`, for them too.
    pin_wired: AtomicBool,
    /// Is signalled when one of the two changes.
    watcher: OnceLock<Arc<EventFd>>,
    state: Mutex<State>,
}

impl fmt::Debug for FunctionInterrupts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FunctionInterrupts")
            .field("intx", &self.intx)
            .field("vectors", &self.vectors.len())
            .finish_non_exhaustive()
    }
}

const RESET_ENTRY: [u32; 4] = [0, 0, 0, MASKED];

impl FunctionInterrupts {
    /// The interrupts of a function with so many vectors, and a pin that leads there, whose pulses can be
    /// these events.
    ///
    /// # Errors
    ///
    /// No event descriptor or no interrupt is left.
    pub fn new(
        machine: Arc<dyn Machine>,
        vectors: u16,
        pulses: Vec<Arc<EventFd>>,
        intx: Option<Line>,
    ) -> io::Result<FunctionInterrupts> {
        let one = |_| {
            let full = || io::Error::other("all interrupt routes are taken");
            Ok(Vector {
                event: EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC)?,
                gsi: machine.take_gsi().ok_or_else(full)?,
            })
        };
        let vectors: Vec<Vector> = (0..vectors).map(one).collect::<io::Result<_>>()?;
        let count = vectors.len();
        Ok(FunctionInterrupts {
            machine,
            intx,
            pulses,
            vectors,
            msix: AtomicBool::new(false),
            pin_wired: AtomicBool::new(false),
            watcher: OnceLock::new(),
            state: Mutex::new(State {
                enabled: false,
                masked: false,
                master: false,
                table: vec![RESET_ENTRY; count],
                routed: vec![None; count],
                connected: vec![false; count],
                level: false,
                intx_disabled: false,
                pin: Pin::Level,
                wired: false,
                asserted: false,
            }),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // What a panic elsewhere could leave half done is done again by the next change.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes over what the command register and the MSI-X capability say; whether INTx was disabled
    /// while it was asserted.
    pub fn configure(&self, msix: (bool, bool), master: bool, intx_disabled: bool) -> bool {
        let mut state = self.state();
        let (enabled, masked) = msix;
        if enabled && !state.enabled {
            // Nothing is pending while MSI-X is off.
            for vector in &self.vectors {
                let _ = vector.event.read();
            }
        }
        let acknowledged = state.asserted && intx_disabled && state.pin == Pin::Level;
        let switched = enabled != state.enabled;
        let same = (state.enabled, state.masked, state.master) == (enabled, masked, master);
        state.enabled = enabled;
        state.masked = masked;
        state.master = master;
        state.intx_disabled = intx_disabled;
        self.msix.store(enabled, Ordering::Release);
        self.update_intx(&mut state);
        if !same {
            for index in 0..self.vectors.len() {
                self.update_vector(&mut state, index);
            }
        }
        self.update_pin(&mut state);
        if switched {
            self.tell();
        }
        acknowledged
    }

    /// Back to what the function has after a reset.
    pub fn reset(&self) {
        self.configure((false, false), false, false);
        let mut state = self.state();
        state.table.fill(RESET_ENTRY);
        state.level = false;
        state.pin = Pin::Level;
        self.update_pin(&mut state);
        self.update_intx(&mut state);
    }

    /// The status bit is read: whether the pin would be asserted if INTx were not disabled, and whether
    /// the read acknowledges that.
    pub fn read_intx(&self) -> (bool, bool) {
        let state = self.state();
        let level = state.level || state.wired;
        (level, level && state.pin != Pin::Level)
    }

    /// Says that something has changed to who watches.
    fn tell(&self) {
        if let Some(watcher) = self.watcher.get() {
            // It fails only where it has been signalled 2^64 - 2 times.
            let _ = watcher.write(1);
        }
    }

    /// Has the function's events be pulses of the pin, or no more.
    fn update_pin(&self, state: &mut State) {
        let wanted = state.pin == Pin::Wired && !state.enabled;
        if wanted == state.wired {
            return;
        }
        let before = state.wired;
        state.wired = match &self.intx {
            Some(Line::Own(apic)) => {
                let pulses = if wanted {
                    self.pulses.clone()
                } else {
                    Vec::new()
                };
                apic.wire(pulses).is_ok() && wanted
            }
            _ => false,
        };
        if wanted && !state.wired {
            state.pin = Pin::Pulse;
        }
        // Who watches tries again when told, so a refusal is not told.
        if state.wired != before {
            self.pin_wired.store(state.wired, Ordering::Release);
            self.tell();
        }
    }

    /// Fills `data` with what BAR 1 has at `offset`.
    pub fn read_table(&self, offset: u64, data: &mut [u8]) {
        let state = self.state();
        let pending = pending_offset(self.vectors.len() as u16);
        for (at, byte) in (offset..).zip(data.iter_mut()) {
            *byte = if at >= pending {
                self.pending_byte(&state, at - pending)
            } else {
                let entry = state.table.get((at / ENTRY) as usize);
                let word = entry.map_or(0, |entry| entry[(at % ENTRY / 4) as usize]);
                word.to_le_bytes()[(at % 4) as usize]
            };
        }
    }

    fn pending_byte(&self, state: &State, byte: u64) -> u8 {
        let first = (byte as usize).saturating_mul(8);
        let vectors = self
            .vectors
            .iter()
            .zip(&state.connected)
            .skip(first)
            .take(8);
        let bits = vectors.enumerate().map(|(bit, (vector, &connected))| {
            // Nobody else reads the descriptor of a vector that is not delivered.
            let pending = !connected && event::take(&vector.event) != 0;
            if pending {
                event::signal(&vector.event);
            }
            u8::from(pending) << bit
        });
        bits.fold(0, |all, bit| all | bit)
    }

    /// Writes `data` to BAR 1. Only whole words of the table can be written.
    pub fn write_table(&self, offset: u64, data: &[u8]) {
        if !offset.is_multiple_of(4) {
            return;
        }
        let mut state = self.state();
        for (at, word) in (offset..).step_by(4).zip(data.as_chunks::<4>().0) {
            let index = (at / ENTRY) as usize;
            if let Some(entry) = state.table.get_mut(index) {
                let field = (at % ENTRY / 4) as usize;
                let mask = if field == 3 { MASKED } else { u32::MAX };
                entry[field] = u32::from_le_bytes(*word) & mask;
                self.update_vector(&mut state, index);
            }
        }
    }

    /// Has the machine deliver a vector, or no more.
    fn update_vector(&self, state: &mut State, index: usize) {
        let Vector { event, gsi, .. } = &self.vectors[index];
        let [low, high, data, control] = state.table[index];
        let message = Message {
            address: u64::from(high) << 32 | u64::from(low),
            data,
        };
        let may = state.enabled && !state.masked && state.master && control & MASKED == 0;
        // A write to anywhere else is no interrupt, and is not made.
        let mut wanted = may && MESSAGES.contains(&message.address);
        if wanted && state.routed[index] != Some(message) {
            let routed = self.machine.route(*gsi, message);
            state.routed[index] = routed.is_ok().then_some(message);
            wanted = routed.is_ok();
        }
        if wanted != state.connected[index] {
            let done = self.machine.set_event(*gsi, event, wanted);
            state.connected[index] = wanted && done.is_ok();
        }
    }

    fn update_intx(&self, state: &mut State) {
        let disabled = state.intx_disabled && state.pin == Pin::Level;
        let asserted = state.level && !disabled && !state.enabled;
        match &self.intx {
            Some(_) if asserted == state.asserted => return,
            Some(Line::Shared(gsi)) => self.machine.set_level(*gsi, asserted),
            Some(Line::Own(apic)) => apic.set_level(asserted),
            None => return,
        }
        state.asserted = asserted;
    }
}

impl Interrupts for FunctionInterrupts {
    fn msix_enabled(&self) -> bool {
        self.msix.load(Ordering::Acquire)
    }

    fn signal(&self, vector: u16) -> io::Result<()> {
        match self.event(vector) {
            Some(event) => event.write(1),
            None => Ok(()),
        }
    }

    fn event(&self, vector: u16) -> Option<&EventFd> {
        self.vectors.get(usize::from(vector)).map(|one| &one.event)
    }

    fn watch_msix(&self, event: Arc<EventFd>) {
        let _ = self.watcher.set(event);
    }

    fn set_intx(&self, level: bool) {
        let mut state = self.state();
        if self.intx.is_some() {
            state.level = level;
            self.update_intx(&mut state);
        }
    }

    fn set_pin(&self, pin: Pin) {
        let mut state = self.state();
        state.pin = pin;
        self.update_pin(&mut state);
        self.update_intx(&mut state);
    }

    fn is_pin_wired(&self) -> bool {
        self.pin_wired.load(Ordering::Acquire)
    }
}
