//! COM1: a 16550A whose output goes to a file or the terminal.
#![deny(unsafe_code)]

use std::fmt;
use std::io::{self, Write};

use vm_superio::{Trigger, serial::NoEvents};
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

/// Where the console's output goes.
pub type Output = Box<dyn Write + Send>;

/// The serial port, [`postern_abi::platform::PORT_SERIAL`].
pub struct Serial(vm_superio::Serial<Irq, NoEvents, Output>);

impl fmt::Debug for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Serial").finish_non_exhaustive()
    }
}

impl Serial {
    /// A serial port that raises `irq` and writes to `output`.
    pub fn new(irq: EventFd, output: Output) -> Serial {
        Serial(vm_superio::Serial::new(Irq(irq), output))
    }

    /// Number of its ports.
    pub const PORTS: u16 = 8;

    /// Writes out what is still buffered.
    ///
    /// # Errors
    ///
    /// When the output's file cannot be written.
    pub fn flush(&mut self) -> Result<(), DeviceError> {
        self.0.writer_mut().flush().map_err(device_error)
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
            *byte = self.0.read(offset as u8);
        }
    }

    fn write(&mut self, offset: u16, data: &[u8]) -> Effect {
        // The registers are bytes; a string of OUTs arrives as several at the same port.
        for &byte in data {
            match self.0.write(offset as u8, byte) {
                Ok(()) | Err(vm_superio::serial::Error::FullFifo) => {}
                // An eventfd of its own refuses nothing but a count near 2^64.
                Err(vm_superio::serial::Error::Trigger(_)) => {}
                Err(vm_superio::serial::Error::IOError(error)) => {
                    return Effect::Fail(device_error(error));
                }
            }
        }
        Effect::Continue
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

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
        let mut serial = Serial::new(EventFd::new(0).unwrap(), Box::new(sink.clone()));
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
        let mut serial = Serial::new(EventFd::new(0).unwrap(), Box::new(Full));
        assert!(matches!(serial.write(0, b"x"), Effect::Fail(_)));
    }
}
