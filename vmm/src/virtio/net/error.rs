//! Why there is no network device.
#![deny(unsafe_code)]

use std::io;

use postern_tap::TapError;

use crate::virtio::vhost;

/// A network device that cannot be.
#[derive(Debug, thiserror::Error)]
pub enum NetError {
    /// The TAP cannot be had.
    #[error(transparent)]
    Tap(#[from] TapError),
    /// The TAP cannot be set up.
    #[error("cannot set up TAP {name}")]
    SetUp {
        /// Name of the TAP.
        name: String,
        /// The kernel's error.
        source: io::Error,
    },
    /// The kernel has no vhost-net.
    #[error(
        "cannot have vhost-net for TAP {name}: there is no {path}; load the kernel module \
         (modprobe vhost_net), or give backend=user",
        path = vhost::NET
    )]
    NoVhost {
        /// Name of the TAP.
        name: String,
        /// The kernel's error.
        source: io::Error,
    },
    /// vhost-net may not be used.
    #[error(
        "cannot open {path} for TAP {name}: not permitted; run as root or as one who may read and \
         write it (ls -l {path}), or give backend=user",
        path = vhost::NET
    )]
    VhostDenied {
        /// Name of the TAP.
        name: String,
    },
    /// The inherited descriptor cannot be used.
    #[error(
        "cannot use descriptor {descriptor} as {path}; open it for this program alone, for example \
         by {descriptor}<>{path} in a shell",
        path = vhost::NET
    )]
    Inherited {
        /// The descriptor.
        descriptor: i32,
        /// The kernel's error.
        source: io::Error,
    },
    /// vhost-net refused.
    #[error("cannot {step} vhost-net for TAP {name}")]
    Vhost {
        /// The step that was tried.
        step: &'static str,
        /// Name of the TAP.
        name: String,
        /// The kernel's error.
        source: io::Error,
    },
    /// The host has no random numbers.
    #[error("cannot draw a MAC address")]
    Random(#[source] io::Error),
}

impl NetError {
    /// Whether it is a matter of what was asked for, or of the host's set-up, and not of the VMM.
    pub fn is_configuration(&self) -> bool {
        match self {
            NetError::Tap(TapError::System { .. })
            | NetError::SetUp { .. }
            | NetError::Vhost { .. }
            | NetError::Random(_) => false,
            NetError::Tap(_)
            | NetError::NoVhost { .. }
            | NetError::VhostDenied { .. }
            | NetError::Inherited { .. } => true,
        }
    }
}
