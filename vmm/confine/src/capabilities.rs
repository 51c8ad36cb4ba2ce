//! Dropping capabilities (capabilities(7)). They are each thread's own, and go to the threads that
//! it starts.
#![deny(unsafe_code)]

use std::io;

use rustix::io::Errno;
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, clear_ambient_capability_set,
    remove_capability_from_bounding_set, set_capabilities,
};

use crate::error::Error;
use crate::kind::Kind;

impl Kind {
    /// The capabilities that a thread of this kind keeps of those that it has.
    pub(crate) const fn capabilities(self) -> CapabilitySet {
        match self {
            // Sockets and captures of an owner that root has started may lie in anybody's directory.
            Kind::NicServer => CapabilitySet::DAC_OVERRIDE
                .union(CapabilitySet::NET_ADMIN)
                .union(CapabilitySet::NET_RAW)
                .union(CapabilitySet::BPF)
                .union(CapabilitySet::SYS_RAWIO)
                .union(CapabilitySet::IPC_LOCK)
                .union(CapabilitySet::KILL),
            _ => CapabilitySet::empty(),
        }
    }
}

/// Leaves the calling thread those of its capabilities that are in `kept`, and lets it gain no
/// others.
///
/// # Errors
///
/// The kernel refuses.
pub(crate) fn keep_only(kept: CapabilitySet) -> Result<(), Error> {
    keep(kept).map_err(|errno| Error::Capabilities(io::Error::from(errno)))
}

fn keep(kept: CapabilitySet) -> Result<(), Errno> {
    let before = capabilities(None)?;
    let none = CapabilitySet::empty();
    if [before.effective, before.permitted, before.inheritable] == [none; 3] {
        return Ok(());
    }
    // The bounding set limits what a program gets that is executed; no_new_privs does the same, so
    // it is no loss that only those may change it who have SETPCAP.
    if before.effective.contains(CapabilitySet::SETPCAP) {
        for one in CapabilitySet::all().difference(kept).iter() {
            match remove_capability_from_bounding_set(one) {
                // An older kernel has fewer.
                Ok(()) | Err(Errno::INVAL) => {}
                Err(errno) => return Err(errno),
            }
        }
    }
    clear_ambient_capability_set()?;
    let kept = before.permitted & kept;
    set_capabilities(
        None,
        CapabilitySets {
            effective: before.effective & kept,
            permitted: kept,
            inheritable: none,
        },
    )
}
