//! The port by which a guest's kernel says that it has panicked.
#![deny(unsafe_code)]

use super::bus::{Effect, PioDevice};

/// The panic device of QEMU (docs/specs/pvpanic): one port of one byte. A read tells which events it
/// takes, a write tells of events. A panic ends the VM; a panic after which the guest runs a kernel
/// that saves its memory (kdump) does not, since that one ends it.
#[derive(Clone, Copy, Debug)]
pub struct PanicPort;

impl PanicPort {
    /// The port, which the DSDT names.
    pub const PORT: u16 = 0x505;
    /// Event: the kernel has panicked.
    const PANICKED: u8 = 1 << 0;
    /// Event: it has, and runs its crash kernel now.
    const CRASH_LOADED: u8 = 1 << 1;
}

impl PioDevice for PanicPort {
    fn read(&mut self, _: u16, data: &mut [u8]) {
        if let [byte] = data {
            *byte = PanicPort::PANICKED | PanicPort::CRASH_LOADED;
        }
    }

    fn write(&mut self, _: u16, data: &[u8]) -> Effect {
        match data {
            [events] if events & PanicPort::PANICKED != 0 => Effect::Panic,
            _ => Effect::Continue,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_ends_the_vm() {
        let mut events = [0];
        PanicPort.read(0, &mut events);
        assert_eq!(events, [3]);
        assert!(matches!(PanicPort.write(0, &[1]), Effect::Panic));
        assert!(matches!(PanicPort.write(0, &[2]), Effect::Continue));
        assert!(matches!(PanicPort.write(0, &[0xfc]), Effect::Continue));
        assert!(matches!(PanicPort.write(0, &[1, 0]), Effect::Continue));
    }
}
