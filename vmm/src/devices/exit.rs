//! The port that ends the VM.
#![deny(unsafe_code)]

use super::bus::{Effect, PioDevice, word};
use crate::status;

/// [`postern_abi::platform::PORT_EXIT`]: a 32-bit write ends the VM with that status. Statuses that
/// the guest cannot have ([`status::MAX_GUEST`]) become that maximum.
#[derive(Debug)]
pub struct ExitPort;

impl PioDevice for ExitPort {
    fn write(&mut self, offset: u16, data: &[u8]) -> Effect {
        match word(offset, data) {
            Some(value) => Effect::Exit(value.min(u32::from(status::MAX_GUEST)) as u8),
            None => Effect::Continue,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_are_bounded() {
        let exit = |value: u32| match ExitPort.write(0, &value.to_le_bytes()) {
            Effect::Exit(status) => status,
            other => panic!("{other:?}"),
        };
        assert_eq!(
            [exit(0), exit(17), exit(63), exit(64), exit(u32::MAX)],
            [0, 17, 63, 63, 63]
        );
        assert!(matches!(ExitPort.write(0, &[1]), Effect::Continue));
        assert!(matches!(ExitPort.write(1, &[1; 4]), Effect::Continue));
    }
}
