//! Events of a NIC that somebody should hear of, although they are no answer to a request.
#![forbid(unsafe_code)]

use std::fmt;
use std::path::PathBuf;

/// Something that happened to a NIC without being its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServerEvent {
    /// The keeper had ended, and another one was started.
    KeeperReplaced,
    /// The keeper had ended, and no other one could be started: the NIC will end with its owner.
    KeeperLost {
        /// The obstacle.
        reason: String,
    },
    /// An uplink waits for its interface.
    UplinkWaits {
        /// Number of its port.
        port: u32,
        /// What is with the interface.
        reason: String,
    },
    /// People should know something of an uplink's interface.
    UplinkNotice {
        /// Number of its port.
        port: u32,
        /// The notice.
        text: String,
    },
    /// Frames pass an uplink again that has waited for its interface.
    UplinkWorks {
        /// Number of its port.
        port: u32,
    },
    /// An uplink of the former owner could not be begun again.
    UplinkNotResumed {
        /// Number of its port.
        port: u32,
        /// The obstacle.
        reason: String,
    },
    /// The file of a capture can no longer be written.
    CaptureFailed {
        /// The file and the obstacle.
        reason: String,
    },
    /// A capture of the former owner goes on in another file.
    CaptureResumed {
        /// The file in which it began.
        former: PathBuf,
        /// The file in which it goes on.
        file: PathBuf,
    },
    /// A capture of the former owner could not be begun again.
    CaptureNotResumed {
        /// The file in which it began.
        former: PathBuf,
        /// The obstacle.
        reason: String,
    },
    /// The policy of a port, which the former owner was changing, could not be applied.
    PolicyNotResumed {
        /// Number of the port.
        port: u32,
        /// The obstacle.
        reason: String,
    },
    /// KVM did not take back what was granted for a port. It is let to nobody until that is done.
    NotRevoked {
        /// Number of the port.
        port: u32,
        /// The obstacle.
        reason: String,
    },
    /// Stations move back and forth between two ports.
    StationsMove {
        /// Numbers of the ports.
        ports: [u32; 2],
        /// Number of moves to one of them in half a second or more.
        moves: u64,
    },
    /// The policies that captures need could not be applied.
    PoliciesNotResumed {
        /// The obstacle.
        reason: String,
    },
}

impl fmt::Display for ServerEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ServerEvent::KeeperReplaced => {
                f.write_str("the NIC's keeper has ended, and another one was started")
            }
            ServerEvent::KeeperLost { reason } => write!(
                f,
                "the NIC's keeper has ended, and the NIC will end with its owner: {reason}"
            ),
            ServerEvent::UplinkWaits { port, reason } => {
                write!(f, "the uplink of port {port} waits: {reason}")
            }
            ServerEvent::UplinkNotice { port, text } => {
                write!(f, "the uplink of port {port}: {text}")
            }
            ServerEvent::UplinkWorks { port } => {
                write!(f, "the uplink of port {port} works again")
            }
            ServerEvent::UplinkNotResumed { port, reason } => {
                write!(f, "port {port} is no uplink any more: {reason}")
            }
            ServerEvent::CaptureFailed { reason } => write!(
                f,
                "{reason}; all further frames are counted as lost until the capture is removed"
            ),
            ServerEvent::CaptureResumed { former, file } => {
                let (former, file) = (former.display(), file.display());
                write!(f, "the capture into {former} goes on in {file}")
            }
            ServerEvent::CaptureNotResumed { former, reason } => {
                let former = former.display();
                write!(f, "the capture into {former} has ended: {reason}")
            }
            ServerEvent::PolicyNotResumed { port, reason } => {
                write!(f, "the policy of port {port} cannot be resumed: {reason}")
            }
            ServerEvent::NotRevoked { port, reason } => {
                write!(f, "port {port} is let to nobody for now: {reason}")
            }
            ServerEvent::StationsMove {
                ports: [first, second],
                moves,
            } => write!(
                f,
                "stations move between ports {first} and {second} all the time ({moves} times just \
                 now): the networks there are connected elsewhere, too, which makes a loop, or \
                 somebody uses others' addresses; part one of them (postern nic uplink, postern nic \
                 port), or keep addresses where they are (postern nic set ... source=own)"
            ),
            ServerEvent::PoliciesNotResumed { reason } => {
                write!(f, "policies cannot be resumed: {reason}")
            }
        }
    }
}
