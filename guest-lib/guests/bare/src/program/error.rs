//! The reasons for which a role fails.
#![deny(unsafe_code)]

use core::fmt;

use postern_abi::platform::CMDLINE_NIC;
use postern_abi::window::HeaderError;
use postern_guest::direct::DirectError;
use postern_guest_bare::cmdline::CmdlineError;
use postern_guest_bare::pcap::PcapError;
use postern_guest_bare::status;

/// The reason for which a role failed.
pub enum RoleError {
    /// The command line was refused.
    Cmdline(CmdlineError<'static>),
    /// The role needs this word or path, which is not there.
    Needs(&'static str),
    /// The VM has no NIC port.
    NoNic,
    /// The port's window cannot be used.
    Window(HeaderError),
    /// The NIC's memory cannot be used.
    Direct(DirectError),
    /// The window is not that of the port on the command line.
    OtherPort,
    /// There is no initrd.
    NoInitrd,
    /// The initrd is no pcap file that can be sent.
    Pcap(PcapError),
    /// The frames to make up are longer than the NIC takes.
    TooLong {
        /// Size of the frames in bytes.
        size: usize,
        /// The longest that the NIC takes, in bytes.
        longest: usize,
    },
    /// The frames do not fit into the VM's memory.
    Full {
        /// Number of frames that did fit.
        frames: u64,
    },
    /// Nothing moved for as long as the role was willing to wait.
    Stalled {
        /// The time that it waited, in ticks.
        ticks: u64,
        /// The event that it waited for.
        what: &'static str,
        /// Number of frames until then.
        frames: u64,
    },
    /// An empty call gave this result, which is not 0.
    Answer(u64),
    /// A frame came back altered or out of order.
    Altered {
        /// Number of the frame.
        frame: u64,
    },
    /// No attack has this name.
    NoAttack(&'static str),
}

impl RoleError {
    /// The VM's status.
    pub fn status(&self) -> u32 {
        match self {
            RoleError::Full { .. }
            | RoleError::Stalled { .. }
            | RoleError::Answer(_)
            | RoleError::Altered { .. } => status::FAILED,
            _ => status::USAGE,
        }
    }
}

impl fmt::Display for RoleError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RoleError::Cmdline(error) => error.fmt(f),
            RoleError::Needs(word) => write!(f, "command line: this role needs {word}"),
            RoleError::NoNic => write!(
                f,
                "this role needs a NIC port, which the VMM describes by {CMDLINE_NIC}"
            ),
            RoleError::Window(error) => error.fmt(f),
            RoleError::Direct(error) => error.fmt(f),
            RoleError::OtherPort => {
                f.write_str("the window is that of another port than the command line says")
            }
            RoleError::NoInitrd => f.write_str("input=pcap needs a pcap file as the VM's initrd"),
            RoleError::Pcap(error) => write!(f, "initrd: {error}"),
            RoleError::TooLong { size, longest } => write!(
                f,
                "command line: input={size} is more than the {longest} bytes that the NIC's rings \
                 take; give the NIC larger ones, or send shorter frames"
            ),
            RoleError::Full { frames } => write!(
                f,
                "the VM's memory is full after {frames} frames; give it more, or receive fewer"
            ),
            RoleError::Stalled {
                ticks,
                what,
                frames,
            } => write!(
                f,
                "waited {ticks} ticks for {what}, after {frames} frames; nothing moved"
            ),
            RoleError::Answer(answer) => write!(f, "an empty call answered {answer:#x}, not 0"),
            RoleError::Altered { frame } => {
                write!(f, "frame {frame} came back altered or out of order")
            }
            RoleError::NoAttack(name) => write!(f, "command line: there is no attack '{name}'"),
        }
    }
}
