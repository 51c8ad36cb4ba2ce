//! The serial port of a guest that accesses its registers as it likes, while somebody types, and that
//! is reset. Input: accesses, bytes that come, resets.
#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use postern_fuzz_input::Bytes;
use postern_vmm::devices::{Bus, Effect, Serial, Shared};
use vmm_sys_util::eventfd::EventFd;

/// Where the port is: anywhere.
const FIRST: u16 = 0x3f8;
/// Bytes that the receive FIFO has room for.
const FIFO: usize = 64;
/// Registers and bits of them (PC16550D data sheet, "Summary of Registers").
const DATA: u16 = 0;
const IER: u16 = 1;
const LCR: u16 = 3;
const MCR: u16 = 4;
const LSR: u16 = 5;
const SCRATCH: u16 = 7;
const DIVISOR: u8 = 1 << 7;
const LOOP: u8 = 1 << 4;
const RTS: u8 = 1 << 1;

/// What was sent.
#[derive(Clone, Default)]
struct Sent(Arc<Mutex<Vec<u8>>>);

impl Write for Sent {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What the port is to be, as far as it can be seen from its accesses.
#[derive(Default)]
struct Model {
    lcr: u8,
    mcr: u8,
    ier: u8,
    /// Whether it takes what is typed: as of the last write to one of these three.
    ready: bool,
    divisor: [u8; 2],
    scratch: u8,
    received: VecDeque<u8>,
    sent: Vec<u8>,
}

impl Model {
    /// After a reset, or at the start.
    fn new() -> Model {
        Model {
            lcr: 3,
            mcr: 8,
            divisor: [12, 0],
            ..Model::default()
        }
    }

    fn shows_divisor(&self) -> bool {
        self.lcr & DIVISOR != 0
    }

    fn write(&mut self, register: u16, value: u8) {
        match register {
            DATA | IER if self.shows_divisor() => self.divisor[usize::from(register)] = value,
            DATA if self.mcr & LOOP == 0 => self.sent.push(value),
            DATA if self.received.len() < FIFO => self.received.push_back(value),
            IER => self.ier = value & 0x0f,
            LCR => self.lcr = value,
            MCR => self.mcr = value,
            SCRATCH => self.scratch = value,
            _ => {}
        }
    }

    /// After a write of the guest's to a register.
    fn look(&mut self, register: u16) {
        if matches!(register, IER | LCR | MCR) {
            let interrupts = self.ier & 1 != 0 && !self.shows_divisor();
            self.ready = (self.mcr & RTS != 0 || interrupts) && self.mcr & LOOP == 0;
        }
    }

    /// What a read gives, if that is known.
    fn read(&mut self, register: u16) -> Option<u8> {
        match register {
            DATA | IER if self.shows_divisor() => Some(self.divisor[usize::from(register)]),
            DATA => Some(self.received.pop_front().unwrap_or(0)),
            IER => Some(self.ier),
            LCR => Some(self.lcr),
            MCR => Some(self.mcr),
            // The transmitter is always empty.
            LSR => Some(0x60 | u8::from(!self.received.is_empty())),
            SCRATCH => Some(self.scratch),
            _ => None,
        }
    }

    fn reset(&mut self) {
        let sent = std::mem::take(&mut self.sent);
        *self = Model {
            sent,
            ..Model::new()
        };
    }
}

/// Runs an input.
pub fn run(data: &[u8]) {
    let mut input = Bytes(data);
    let sent = Sent::default();
    let told = Arc::new(AtomicUsize::new(0));
    let room = {
        let told = Arc::clone(&told);
        Arc::new(move || {
            told.fetch_add(1, Ordering::Relaxed);
        })
    };
    let irq = EventFd::new(libc::EFD_NONBLOCK).unwrap();
    let serial = Shared::new(Serial::new(irq, Box::new(sent.clone()), room));
    let mut bus = Bus::new();
    bus.add(FIRST, Serial::PORTS, Box::new(serial.clone()));
    let mut model = Model::new();
    let mut accesses = 0;
    while !input.is_empty() {
        let step = input.u8();
        let register = u16::from(step & 7);
        // What a guest writes by one instruction, and by one of a string.
        let width = [1, 2, 4, 8][usize::from(step >> 3 & 3)];
        match step >> 5 {
            0..=2 => {
                let data = input.u64().to_le_bytes();
                let effect = bus.write(FIRST + register, &data[..width]);
                assert!(matches!(effect, Effect::Continue), "{effect:?}");
                for &byte in &data[..width] {
                    model.write(register, byte);
                }
                model.look(register);
                accesses += width;
            }
            3..=5 => {
                let mut data = [0xff; 8];
                bus.read(FIRST + register, &mut data[..width]);
                match (width, model.read_if(width, register)) {
                    (1, Some(value)) => assert_eq!(data[0], value, "register {register}"),
                    (1, None) => {}
                    _ => assert_eq!(data, [0xff; 8], "no register is that wide"),
                }
                accesses += 1;
            }
            6 => {
                let count = usize::from(input.u8());
                let typed = input.take(count);
                let taken = serial.with(|serial| serial.feed(typed));
                let room = FIFO - model.received.len();
                let most = if model.ready { room } else { 0 };
                assert_eq!(taken, typed.len().min(most), "of {}", typed.len());
                model.received.extend(&typed[..taken]);
            }
            _ => {
                serial.with(Serial::reset);
                model.reset();
                // Each byte of the FIFO is read, and the last one tells that there is room.
                accesses += 1;
            }
        }
    }
    // What was sent is what came out, whatever else was done.
    assert_eq!(*sent.0.lock().unwrap(), model.sent);
    // Whoever types is told at most once for each access of the guest's.
    assert!(told.load(Ordering::Relaxed) <= accesses);
}

impl Model {
    /// [`Model::read`] of a byte; wider reads are of nothing.
    fn read_if(&mut self, width: usize, register: u16) -> Option<u8> {
        (width == 1).then(|| self.read(register)).flatten()
    }
}
