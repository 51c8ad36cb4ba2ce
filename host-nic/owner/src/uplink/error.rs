//! Errors of uplinks.
#![forbid(unsafe_code)]

use std::io;

/// An uplink that cannot be opened, or has ended.
#[derive(Debug, thiserror::Error)]
pub enum UplinkError {
    /// The text is no configuration.
    #[error(
        "`{text}` names no uplink: {reason}; use tap:NAME[,mtu=BYTES], packet:INTERFACE or \
         xdp:INTERFACE[,queue=N][,mode=auto|copy|zero-copy]"
    )]
    Config {
        /// The text.
        text: String,
        /// The fault.
        reason: &'static str,
    },
    /// No interface can have this name.
    #[error("`{name}` is no name of a network interface: {reason}")]
    Name {
        /// The text.
        name: String,
        /// The fault.
        reason: &'static str,
    },
    /// There is no interface of this name.
    #[error("there is no network interface {interface}; `ip link` lists those that there are")]
    Absent {
        /// Name of the interface.
        interface: String,
    },
    /// The interface is not Ethernet.
    #[error(
        "network interface {interface} is not Ethernet (its hardware type is {kind}); \
         an uplink needs one"
    )]
    NotEthernet {
        /// Name of the interface.
        interface: String,
        /// Its hardware type, an `ARPHRD_` number.
        kind: u16,
    },
    /// The interface is down.
    #[error("network interface {interface} is down; bring it up with `ip link set {interface} up`")]
    Down {
        /// Name of the interface.
        interface: String,
    },
    /// The interface is up, and has no link to anything.
    #[error(
        "network interface {interface} has no carrier: nothing is plugged in, or the other end is \
         down"
    )]
    NoCarrier {
        /// Name of the interface.
        interface: String,
    },
    /// The interface was there and is no longer.
    #[error(
        "network interface {interface} was removed, or moved to another network namespace; the \
         uplink goes on when there is one of this name that is up"
    )]
    Gone {
        /// Name of the interface.
        interface: String,
    },
    /// Somebody else uses the interface.
    #[error("cannot {step} {interface}: it is in use; {remedy}")]
    Busy {
        /// The step that was tried.
        step: &'static str,
        /// The interface.
        interface: String,
        /// The remedy.
        remedy: &'static str,
    },
    /// The process lacks a capability.
    #[error("cannot {step} {interface}: not permitted; run as root or give the program {needs}")]
    Denied {
        /// The step that was tried.
        step: &'static str,
        /// The interface.
        interface: String,
        /// The missing capability.
        needs: &'static str,
    },
    /// The kernel, the driver or the interface cannot.
    #[error("cannot {step} {interface}: {remedy}")]
    Unsupported {
        /// The step that was tried.
        step: &'static str,
        /// The interface.
        interface: String,
        /// The remedy.
        remedy: &'static str,
        /// The kernel's error.
        source: io::Error,
    },
    /// The kernel refused.
    #[error("cannot {step} {interface}")]
    System {
        /// The step that was tried.
        step: &'static str,
        /// The interface.
        interface: String,
        /// The kernel's error.
        source: io::Error,
    },
}

impl UplinkError {
    /// Whether it is only that the interface is down, or was for a moment.
    pub(super) fn is_down(&self) -> bool {
        matches!(self, UplinkError::Down { .. })
    }

    /// Whether it is only that the interface is not there, or down: which will be seen by a look at
    /// it when it is no longer so.
    pub fn is_absence(&self) -> bool {
        use UplinkError::{Absent, Down, Gone};
        matches!(self, Absent { .. } | Down { .. } | Gone { .. })
    }
}

/// An error of the kernel while `step` was tried, with the reasons that have their own names.
pub(super) fn failed(
    step: &'static str,
    interface: &str,
    needs: &'static str,
    source: io::Error,
) -> UplinkError {
    let interface = interface.to_owned();
    match source.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => UplinkError::Denied {
            step,
            interface,
            needs,
        },
        Some(libc::ENODEV) => UplinkError::Absent { interface },
        _ => UplinkError::System {
            step,
            interface,
            source,
        },
    }
}
