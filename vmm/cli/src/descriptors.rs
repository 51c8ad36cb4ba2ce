//! How many descriptors this process may have.
#![deny(unsafe_code)]

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Raises the soft limit to the hard one. The usual soft limit, 1024, is there for programs that use
/// select(2), and is less than a large NIC takes: a window, a bell and a connection for each port, and
/// all of the bells for each VM.
pub fn allow_all() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current != maximum {
        // A process may always do so. If it may not, what has no descriptor says so.
        let _ = setrlimit(
            Resource::Nofile,
            Rlimit {
                current: maximum,
                maximum,
            },
        );
    }
}
