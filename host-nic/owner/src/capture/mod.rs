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

mod encode;
mod error;
mod queue;
mod recording;
mod replay;
mod tap;
mod writer;

pub use error::{CaptureError, RecordingError};
pub use postern_nic_client::control::Format;
pub use recording::{Frame, MAX_FILE, Recording, Skipped};
pub use replay::{Clock, Monotonic, Pace, Replay, ReplayStats};
pub use tap::{Capture, CaptureOptions, Direction, InterfaceStats, Stats, Tap, Tapped};
