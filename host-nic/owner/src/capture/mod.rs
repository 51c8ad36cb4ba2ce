//! Frames to and from capture files: what passes ports, written as pcapng or pcap for Wireshark and
//! tcpdump; and the frames of such a file, sent into a port.
//!
//! ```text
//!   Tap (port 0) --+
//!   Tap (port 1) --+--> bounded queue --> thread --> file          Capture
//!
//!   file --> Recording --> Replay (as fast as possible, recorded times, fixed rate) --> Port
//! ```
//!
//! A tap never waits: what does not fit the queue is lost and counted, for each interface.
//!
//! Sources: "PCAP Next Generation (pcapng) Capture File Format" and "PCAP Capture File Format"
//! (IETF drafts draft-ietf-opsawg-pcapng and draft-ietf-opsawg-pcap).
#![forbid(unsafe_code)]

mod encode;
mod error;
mod file;
mod queue;
mod recording;
mod replay;
mod shared;
mod tap;
mod writer;

pub use error::CaptureError;
pub use file::{Capture, CaptureOptions};
pub use postern_nic_client::control::Format;
pub use recording::{MAX_FILE, RecordedFrame, Recording, RecordingError, Skipped};
pub use replay::{Jumps, MonotonicClock, Pace, Replay, ReplayClock, ReplayStats};
pub use shared::{CaptureStats, InterfaceStats};
pub use tap::{Direction, Tap, Tapped};
