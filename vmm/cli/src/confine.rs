//! Whether this program's threads are confined.
#![deny(unsafe_code)]

use clap::ValueEnum;
use postern_vmm::console::restore_terminal;
use postern_vmm::{status, vm};

use crate::error::CommandError;

/// What `--seccomp` is if nobody says.
pub const DEFAULT: &str = "on";

/// The flag `--seccomp`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Seccomp {
    On,
    Off,
}

impl From<bool> for Seccomp {
    fn from(on: bool) -> Seccomp {
        match on {
            true => Seccomp::On,
            false => Seccomp::Off,
        }
    }
}

impl Seccomp {
    /// Its value as the flag takes it.
    pub const fn name(self) -> &'static str {
        match self {
            Seccomp::On => "on",
            Seccomp::Off => "off",
        }
    }

    /// Has this process's threads confined from now on, if they are to be.
    pub fn turn_on(self) -> Result<(), CommandError> {
        if self == Seccomp::On {
            postern_confine::before_the_end(restore_terminal);
            postern_confine::turn_on(status::REFUSED_CALL).map_err(vm::Error::from)?;
        }
        Ok(())
    }
}
