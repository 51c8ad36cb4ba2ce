//! Numbers of ports.
#![forbid(unsafe_code)]

use core::fmt;

use super::limits::MAX_PORTS;

/// Number of a port, below [`MAX_PORTS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortId(u8);

impl PortId {
    /// The port of that number, if any NIC can have it.
    pub const fn new(number: u32) -> Option<PortId> {
        if number < MAX_PORTS {
            Some(PortId(number as u8))
        } else {
            None
        }
    }

    /// The port of that number; the largest NIC has as many as there are numbers.
    pub const fn from_number(number: u8) -> PortId {
        PortId(number)
    }

    /// The port's number.
    pub const fn number(self) -> u32 {
        self.0 as u32
    }

    /// The port's number, as an index of arrays of [`MAX_PORTS`] elements.
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

impl fmt::Display for PortId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
