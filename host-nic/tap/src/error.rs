//! Why there is no TAP.
#![forbid(unsafe_code)]

use std::io;

/// A TAP that cannot be made, opened or set up.
#[derive(Debug, thiserror::Error)]
pub enum TapError {
    /// No interface can have this name.
    #[error("`{name}` is no name of a network interface: {reason}")]
    Name {
        /// The text.
        name: String,
        /// The fault.
        reason: &'static str,
    },
    /// The kernel has no TAPs.
    #[error(
        "cannot make TAP {name}: there is no /dev/net/tun; load the kernel module tun \
         (modprobe tun)"
    )]
    NoDriver {
        /// Name of the TAP.
        name: String,
        /// The kernel's error.
        source: io::Error,
    },
    /// The process lacks a right.
    #[error(
        "cannot {step} {name}: not permitted; run as root or with CAP_NET_ADMIN, or have \
         `ip tuntap add mode tap user $USER name {name}` and `ip link set {name} up` run before"
    )]
    Denied {
        /// The step that was tried.
        step: &'static str,
        /// Name of the TAP.
        name: String,
    },
    /// Somebody else has it open.
    #[error(
        "cannot open TAP {name}: it is in use; end the program that uses it, or take another name"
    )]
    Busy {
        /// Name of the TAP.
        name: String,
    },
    /// It was made for another number of queues.
    #[error(
        "cannot open {queues} queues of TAP {name}: it was made for one; remove it, or make it with \
         `ip tuntap add mode tap multi_queue name {name}`"
    )]
    OneQueue {
        /// Name of the TAP.
        name: String,
        /// Queues that were asked for.
        queues: usize,
    },
    /// There is an interface of this name that is something else.
    #[error(
        "cannot open TAP {name}: an interface of this name exists and is no TAP of this kind; take \
         another name"
    )]
    OtherKind {
        /// Name of the interface.
        name: String,
        /// The kernel's error.
        source: io::Error,
    },
    /// The kernel refused.
    #[error("cannot {step} {name}")]
    System {
        /// The step that was tried.
        step: &'static str,
        /// Name of the TAP.
        name: String,
        /// The kernel's error.
        source: io::Error,
    },
}

impl TapError {
    /// The meaning of an error of the kernel while `step` was tried.
    pub(crate) fn new(step: &'static str, name: &str, source: io::Error) -> TapError {
        let name = name.to_owned();
        match source.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) => TapError::Denied { step, name },
            _ => TapError::System { step, name, source },
        }
    }
}
