//! COM1: a 16550A, in both directions.
#![deny(unsafe_code)]

use std::fmt;
use std::io::{self, Write};
use std::sync::Arc;

use vm_superio::Trigger;
use vm_superio::serial::SerialEvents;
use vmm_sys_util::eventfd::EventFd;

use super::bus::{DeviceError, Effect, PioDevice};

/// Raises the serial port's interrupt line.
struct Irq(EventFd);

impl Trigger for Irq {
    type E = io::Error;

    fn trigger(&self) -> io::Result<()> {
        self.0.write(1)
    }
}

/// Tells who brings input that the guest takes some.
struct Room(Arc<dyn Fn() + Send + Sync>);

impl SerialEvents for Room {
    fn in_buffer_empty(&self) {
        (self.0)();
    }

    fn buffer_read(&self) {}

    fn out_byte(&self) {}

    fn tx_lost_byte(&self) {}
}

/// Where the console's output goes.
pub type Output = Box<dyn Write + Send>;

/// The serial port, [`postern_abi::platform::PORT_SERIAL`].
pub struct Serial {
    uart: vm_superio::Serial<Irq, Room, Output>,
    room: Arc<dyn Fn() + Send + Sync>,
    /// Whether the guest is ready for input.
    ready: bool,
}

/// Registers, by their offsets, and bits of them (PC16550D data sheet, "Summary of Registers").
mod register {
    pub(super) const DATA: u16 = 0;
    pub(super) const IER: u16 = 1;
    pub(super) const LCR: u16 = 3;
    pub(super) const MCR: u16 = 4;
    pub(super) const LSR: u16 = 5;
    const SCRATCH: u16 = 7;
    /// A byte has been received.
    pub(super) const LSR_DATA: u8 = 1 << 0;
    /// OUT2, with which the interrupt goes out.
    const MCR_OUT2: u8 = 1 << 3;
    /// 8 data bits.
    pub(super) const LCR_8_BITS: u8 = 3;
    /// What brings the registers to their state at the start, in this order: 9600 baud, no interrupt.
    pub(super) const AT_RESET: [(u16, u8); 7] = [
        (LCR, LCR_DIVISOR),
        (DATA, 12),
        (IER, 0),
        (LCR, LCR_8_BITS),
        (IER, 0),
        (MCR, MCR_OUT2),
        (SCRATCH, 0),
    ];
    /// An interrupt for received bytes.
    pub(super) const IER_RECEIVED: u8 = 1 << 0;
    /// The divisor is at the first two offsets.
    pub(super) const LCR_DIVISOR: u8 = 1 << 7;
    /// Request to send.
    pub(super) const MCR_RTS: u8 = 1 << 1;
    /// What is sent is received.
    pub(super) const MCR_LOOP: u8 = 1 << 4;
}

impl fmt::Debug for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Serial").finish_non_exhaustive()
    }
}

impl Serial {
    /// A serial port that raises `irq` and writes to `output`, and calls `room` when it takes input
    /// again.
    pub fn new(irq: EventFd, output: Output, room: Arc<dyn Fn() + Send + Sync>) -> Serial {
        Serial {
            uart: vm_superio::Serial::with_events(Irq(irq), Room(Arc::clone(&room)), output),
            room,
            ready: false,
        }
    }

    /// Gives the guest input; returns how many of the bytes it took. It takes none before it has
    /// raised RTS or asked for interrupts of received bytes, since what comes earlier is lost when its
    /// driver starts.
    pub fn feed(&mut self, bytes: &[u8]) -> usize {
        if !self.ready {
            return 0;
        }
        // The only error besides a full FIFO is that of the interrupt's event descriptor.
        self.uart.enqueue_raw_bytes(bytes).unwrap_or(0)
    }

    /// Looks whether the guest is ready for input, after it wrote a register.
    fn look_at_ready(&mut self) {
        let modem = self.uart.read(register::MCR as u8);
        let divisor = self.uart.read(register::LCR as u8) & register::LCR_DIVISOR != 0;
        let interrupts = match divisor {
            true => 0,
            false => self.uart.read(register::IER as u8),
        };
        let asked = modem & register::MCR_RTS != 0 || interrupts & register::IER_RECEIVED != 0;
        let ready = asked && modem & register::MCR_LOOP == 0;
        if ready && !self.ready {
            (self.room)();
        }
        self.ready = ready;
    }

    /// A reset: its registers are as they were when the guest started, and what it had received is
    /// gone. What it was to send stays.
    pub fn reset(&mut self) {
        // Else the divisor would be read below, and for ever.
        let _ = self.uart.write(register::LCR as u8, register::LCR_8_BITS);
        // A byte is lost with each read; the FIFO is finite, and nobody fills it meanwhile.
        while self.uart.read(register::LSR as u8) & register::LSR_DATA != 0 {
            self.uart.read(register::DATA as u8);
        }
        for (offset, value) in register::AT_RESET {
            // None of them sends, and the interrupt is off.
            let _ = self.uart.write(offset as u8, value);
        }
        self.ready = false;
    }

    /// Number of its ports.
    pub const PORTS: u16 = 8;

    /// Writes out what is still buffered.
    ///
    /// # Errors
    ///
    /// When the output's file cannot be written.
    pub fn flush(&mut self) -> Result<(), DeviceError> {
        self.uart.writer_mut().flush().map_err(device_error)
    }
}

fn device_error(source: io::Error) -> DeviceError {
    DeviceError {
        what: "write the VM's serial output",
        source,
    }
}

impl PioDevice for Serial {
    fn read(&mut self, offset: u16, data: &mut [u8]) {
        if let [byte] = data {
            *byte = self.uart.read(offset as u8);
        }
    }

    fn write(&mut self, offset: u16, data: &[u8]) -> Effect {
        // The registers are bytes; a string of OUTs arrives as several at the same port.
        for &byte in data {
            match self.uart.write(offset as u8, byte) {
                Ok(()) | Err(vm_superio::serial::Error::FullFifo) => {}
                // An eventfd of its own refuses nothing but a count near 2^64.
                Err(vm_superio::serial::Error::Trigger(_)) => {}
                Err(vm_superio::serial::Error::IOError(error)) => {
                    return Effect::Fail(device_error(error));
                }
            }
        }
        if matches!(offset, register::IER | register::LCR | register::MCR) {
            self.look_at_ready();
        }
        Effect::Continue
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicU32, Ordering};

    fn serial(output: Output) -> Serial {
        counting(output).0
    }

    /// A serial port, and how often it has told that there is room.
    fn counting(output: Output) -> (Serial, Arc<AtomicU32>) {
        let irq = EventFd::new(libc::EFD_NONBLOCK).unwrap();
        let told = Arc::new(AtomicU32::new(0));
        let count = Arc::clone(&told);
        let room = Arc::new(move || {
            count.fetch_add(1, Ordering::Relaxed);
        });
        (Serial::new(irq, output, room), told)
    }

    fn register(serial: &mut Serial, offset: u16) -> u8 {
        let mut byte = [0xff];
        serial.read(offset, &mut byte);
        byte[0]
    }

    #[test]
    fn input_waits_for_the_guest() {
        let (mut serial, told) = counting(Box::new(Sink::default()));
        let told = || told.load(Ordering::Relaxed);
        assert_eq!(serial.feed(b"early"), 0);
        // Linux looks for the port with RTS in loopback mode.
        assert!(matches!(serial.write(4, &[0x1a]), Effect::Continue));
        assert_eq!(serial.feed(b"early"), 0);
        // The divisor is no interrupt enable register.
        serial.write(4, &[0x08]);
        serial.write(3, &[0x83]);
        serial.write(1, &[1]);
        assert_eq!(serial.feed(b"early"), 0);
        serial.write(3, &[0x03]);
        assert_eq!(told(), 0);
        serial.write(4, &[0x0b]);
        assert_eq!(told(), 1, "input is taken");
        let long = [b'x'; 100];
        let taken = serial.feed(&long);
        assert!((16..100).contains(&taken), "{taken}");
        assert_eq!(serial.feed(&long), 0, "full");
        assert_eq!(register(&mut serial, 5) & 1, 1, "data ready");
        for _ in 0..taken {
            assert_eq!(register(&mut serial, 0), b'x');
        }
        assert_eq!(told(), 2, "there is room");
        assert_eq!(register(&mut serial, 5) & 1, 0);
    }

    #[test]
    fn interrupts_of_received_bytes_are_raised() {
        let mut serial = serial(Box::new(Sink::default()));
        serial.write(1, &[1]);
        assert_eq!(serial.feed(b"a"), 1);
        assert_eq!(serial.uart.interrupt_evt().0.read().unwrap(), 1);
        assert_eq!(
            register(&mut serial, 2) & 0x0f,
            4,
            "received data available"
        );
        assert_eq!(register(&mut serial, 0), b'a');
    }

    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>);

    impl Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn bytes_come_out_in_order() {
        let sink = Sink::default();
        let mut serial = serial(Box::new(sink.clone()));
        for byte in b"hello\n" {
            assert!(matches!(serial.write(0, &[*byte]), Effect::Continue));
        }
        assert!(matches!(serial.write(0, b"string"), Effect::Continue));
        serial.flush().unwrap();
        assert_eq!(*sink.0.lock().unwrap(), b"hello\nstring");
        let mut status = [0];
        serial.read(5, &mut status);
        assert_eq!(status[0] & 0x60, 0x60, "transmitter empty");
    }

    #[test]
    fn a_reset_ends_whatever_the_guest_has_left() {
        let mut serial = serial(Box::new(Sink::default()));
        serial.write(4, &[0x0b]);
        assert_eq!(serial.feed(b"typed"), 5);
        // The divisor is where received bytes are.
        serial.write(3, &[0x83]);
        serial.reset();
        assert_eq!(register(&mut serial, 5) & 1, 0, "nothing is received");
        assert_eq!(register(&mut serial, 3), 3);
        assert_eq!(serial.feed(b"early"), 0);
    }

    struct Full;

    impl Write for Full {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::StorageFull.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_lost_file_ends_the_vm() {
        let mut serial = serial(Box::new(Full));
        assert!(matches!(serial.write(0, b"x"), Effect::Fail(_)));
    }
}
