//! Requests served by a call, where the memory of the whole NIC is mapped: the `direct` path, on which the switch
//! runs in the guest, with no isolation at all; and native programs, such as uplinks.

use core::fmt;
use core::ptr::NonNull;

use postern_abi::window::{HeaderError, PortId};
use postern_switch::credentials::Credentials;
use postern_switch::layout::window_offset;
use postern_switch::state::{State, StateError};
use postern_switch::switch;

use crate::ring::{Window, touch};
use crate::service::Service;

/// A service of the switch in this very program: a request is a function call.
#[derive(Clone, Copy, Debug)]
pub struct Direct {
    base: NonNull<u8>,
    /// The words that say who calls; elsewhere the host keeps them.
    caller: Credentials,
    /// Number of the vCPU as which this value calls: the port's sender.
    vcpu: u32,
}

// SAFETY: the mapping belongs to no thread, and the switch accesses it atomically.
unsafe impl Send for Direct {}

/// Why memory cannot be used as a NIC's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DirectError {
    /// Its state is not valid, or the port is not in use.
    State(StateError),
    /// The port's window is not valid.
    Window(HeaderError),
    /// The NIC is larger than what is mapped.
    Size {
        /// Bytes that are mapped.
        mapped: u64,
        /// Bytes that the NIC has.
        needed: u64,
    },
}

impl fmt::Display for DirectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DirectError::State(error) => error.fmt(f),
            DirectError::Window(error) => error.fmt(f),
            DirectError::Size { mapped, needed } => {
                write!(f, "the NIC has {needed} bytes, and {mapped} are mapped")
            }
        }
    }
}

impl core::error::Error for DirectError {}

impl Direct {
    /// Takes the NIC at `base` into use, for a port of it, and finds the port's window.
    ///
    /// # Errors
    ///
    /// What is wrong with the memory; it is then not used.
    ///
    /// # Safety
    ///
    /// `base` is page aligned, `size` bytes are mapped there for reading and writing as long as the
    /// values or anything made from them is used, and no reference to them exists.
    pub unsafe fn new(
        base: NonNull<u8>,
        size: u64,
        port: PortId,
    ) -> Result<(Direct, Window), DirectError> {
        let too_small = |needed| DirectError::Size {
            mapped: size,
            needed,
        };
        let least = size_of::<State>() as u64;
        if size < least {
            return Err(too_small(least));
        }
        // SAFETY: that much is mapped, and only accessed atomically.
        let state = unsafe { State::at(base.as_ptr()) };
        let caller = Credentials::of_tenant(state, port.number()).map_err(DirectError::State)?;
        let needed = caller.size();
        if size < needed {
            return Err(too_small(needed));
        }
        let offset = window_offset(caller.geometry(), port);
        // SAFETY: the windows lie in the memory of the NIC, and each begins on a page.
        let window = unsafe { Window::new(base.add(offset as usize), size - offset) };
        let direct = Direct {
            base,
            caller,
            vcpu: 0,
        };
        Ok((direct, window.map_err(DirectError::Window)?))
    }

    /// The same for another vCPU or thread: no two may call with the same number at the same time.
    pub fn for_vcpu(self, vcpu: u32) -> Direct {
        Direct { vcpu, ..self }
    }

    /// Has the host give memory for the whole NIC now, not while frames move.
    pub fn populate(&self) {
        // SAFETY: `new` checked that the whole NIC of this geometry is mapped.
        unsafe { touch(self.base, self.caller.size()) };
    }
}

impl Service for Direct {
    /// Out of line, so that an empty request is a call here, too.
    #[inline(never)]
    fn call(&mut self, request: u64, a: u64, b: u64) -> Option<u64> {
        // SAFETY: `new` checked that the memory holds what the caller's geometry needs.
        Some(unsafe { switch::serve(self.base.as_ptr(), &self.caller, self.vcpu, request, a, b) })
    }
}
