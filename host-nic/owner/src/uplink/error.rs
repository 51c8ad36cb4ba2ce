//! What can go wrong with an uplink.

use std::io;

/// Why there is no uplink, or no longer.
#[derive(Debug, thiserror::Error)]
pub enum UplinkError {
    /// The text is no configuration.
    #[error(
        "`{text}` names no uplink: {reason}; use tap:NAME[,mtu=BYTES], packet:INTERFACE or \
         xdp:INTERFACE[,queue=N][,mode=auto|copy|zero-copy]"
    )]
    Config {
        /// What was given.
        text: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// No interface can have this name.
    #[error("`{name}` is no name of a network interface: {reason}")]
    Name {
        /// What was given.
        name: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// There is no such interface.
    #[error("there is no network interface {interface}; `ip link` lists those that there are")]
    Absent {
        /// Its name.
        interface: String,
    },
    /// The interface carries something else.
    #[error(
        "network interface {interface} is not Ethernet (its hardware type is {kind}); an uplink needs one"
    )]
    NotEthernet {
        /// Its name.
        interface: String,
        /// Its `ARPHRD_` number.
        kind: u16,
    },
    /// The interface is down.
    #[error("network interface {interface} is down; bring it up with `ip link set {interface} up`")]
    Down {
        /// Its name.
        interface: String,
    },
    /// The interface was there and is no longer.
    #[error(
        "network interface {interface} was removed, or moved to another network namespace, while it was \
         an uplink"
    )]
    Gone {
        /// Its name.
        interface: String,
    },
    /// Somebody else uses it.
    #[error("cannot {step} {interface}: it is in use; {remedy}")]
    Busy {
        /// What was tried.
        step: &'static str,
        /// The interface.
        interface: String,
        /// What to do.
        remedy: &'static str,
    },
    /// The process may not.
    #[error("cannot {step} {interface}: not permitted; run as root or give the program {needs}")]
    Denied {
        /// What was tried.
        step: &'static str,
        /// The interface.
        interface: String,
        /// What is missing.
        needs: &'static str,
    },
    /// The kernel, the driver or the interface cannot.
    #[error("cannot {step} {interface}: {remedy}")]
    Unsupported {
        /// What was tried.
        step: &'static str,
        /// The interface.
        interface: String,
        /// What to do instead.
        remedy: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// The kernel refused.
    #[error("cannot {step} {interface}")]
    System {
        /// What was tried.
        step: &'static str,
        /// The interface.
        interface: String,
        /// Why.
        source: io::Error,
    },
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
