//! Ports by which a guest switches itself off or resets itself.
#![deny(unsafe_code)]

use super::bus::{Bus, Effect, PioDevice};

/// The registers of power of a VM. Each takes bytes; other widths are ignored.
///
/// | port | register | effect |
/// | --- | --- | --- |
/// | 0x600 | sleep control (ACPI 6.5, "Sleep Control and Status Registers") | SLP_EN with the type of S5 switches the VM off |
/// | 0x601 | sleep status | none: it reads as 0, a VM that sleeps does not wake |
/// | 0xcf9 | reset control, as of PCs' chip sets, and the FADT's reset register | bit 2 resets |
/// | 0x64 | command of the keyboard controller, which there is not | 0xfe resets |
#[derive(Clone, Copy, Debug)]
pub struct PowerPorts(Register);

/// One of the registers.
#[derive(Clone, Copy, Debug)]
enum Register {
    Sleep,
    Reset,
    Keyboard,
}

impl PowerPorts {
    /// Sleep control register of the FADT.
    pub const SLEEP_CONTROL: u16 = 0x600;
    /// Sleep status register of the FADT.
    pub const SLEEP_STATUS: u16 = 0x601;
    /// Sleep type of S5.
    pub const SOFT_OFF: u8 = 5;
    /// Reset register of the FADT.
    pub const RESET: u16 = 0xcf9;
    /// What resets when it is written there: a hard reset.
    pub const RESET_VALUE: u8 = 0x06;
    /// Status and command of the keyboard controller.
    const KEYBOARD: u16 = 0x64;

    /// Puts all registers on a bus.
    pub fn add_to(bus: &mut Bus) {
        bus.add(
            PowerPorts::SLEEP_CONTROL,
            2,
            Box::new(PowerPorts(Register::Sleep)),
        );
        bus.add(PowerPorts::RESET, 1, Box::new(PowerPorts(Register::Reset)));
        bus.add(
            PowerPorts::KEYBOARD,
            1,
            Box::new(PowerPorts(Register::Keyboard)),
        );
    }
}

impl PioDevice for PowerPorts {
    fn read(&mut self, _: u16, data: &mut [u8]) {
        // No reset and no sleep is under way, and the keyboard controller takes a command at once:
        // Linux waits for that.
        if let [byte] = data {
            *byte = 0;
        }
    }

    fn write(&mut self, offset: u16, data: &[u8]) -> Effect {
        /// Bits of the sleep control register.
        const SLEEP_ENABLE: u8 = 1 << 5;
        const SLEEP_TYPE_SHIFT: u8 = 2;
        const SLEEP_TYPE_MASK: u8 = 7;
        /// Bit of the reset control register: resets the processors.
        const RESET_CPU: u8 = 1 << 2;
        /// Command of the keyboard controller: pulse the reset line.
        const PULSE_RESET: u8 = 0xfe;
        let &[value] = data else {
            return Effect::Continue;
        };
        match self.0 {
            Register::Sleep
                if offset == 0
                    && value & SLEEP_ENABLE != 0
                    && value >> SLEEP_TYPE_SHIFT & SLEEP_TYPE_MASK == PowerPorts::SOFT_OFF =>
            {
                Effect::PowerOff
            }
            Register::Reset if value & RESET_CPU != 0 => Effect::Reset,
            Register::Keyboard if value == PULSE_RESET => Effect::Reset,
            _ => Effect::Continue,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bus() -> Bus {
        let mut bus = Bus::new();
        PowerPorts::add_to(&mut bus);
        bus
    }

    #[test]
    fn soft_off_switches_off() {
        let mut bus = bus();
        for (value, off) in [(0x34, true), (0x14, false), (0x20, false), (0x3c, false)] {
            let effect = bus.write(PowerPorts::SLEEP_CONTROL, &[value]);
            assert_eq!(matches!(effect, Effect::PowerOff), off, "{value:#x}");
        }
        assert!(matches!(
            bus.write(PowerPorts::SLEEP_STATUS, &[0x34]),
            Effect::Continue
        ));
    }

    #[test]
    fn resets() {
        let mut bus = bus();
        for (port, value, reset) in [
            (0xcf9, PowerPorts::RESET_VALUE, true),
            (0xcf9, 0x0e, true),
            (0xcf9, 0x02, false),
            (0x64, 0xfe, true),
            (0x64, 0xd1, false),
        ] {
            let effect = bus.write(port, &[value]);
            assert_eq!(
                matches!(effect, Effect::Reset),
                reset,
                "{port:#x} {value:#x}"
            );
        }
    }

    #[test]
    fn other_widths_do_nothing() {
        let mut bus = bus();
        for port in [PowerPorts::SLEEP_CONTROL, PowerPorts::RESET, 0x64] {
            for data in [&[0xfe_u8, 0xfe][..], &[0x34; 4]] {
                assert!(matches!(bus.write(port, data), Effect::Continue));
            }
        }
        let mut word = [0xff; 2];
        bus.read(0x64, &mut word);
        assert_eq!(word, [0xff; 2]);
        bus.read(0x64, &mut word[..1]);
        assert_eq!(word[0], 0);
    }
}
