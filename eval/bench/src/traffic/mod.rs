//! Input traffic: where frames come from, and the proof that they arrived.
//!
//! ```text
//!   capture (two network namespaces)  --+
//!   pcap or pcapng file of the user   --+--> Trace --> frames to send --> VMs --> frames received
//!   synthetic frames of one size      --+                    |                        |
//!                                                            +-----> proof::compare <-+
//! ```

pub mod capture;
pub mod pcap;
pub mod proof;
mod synthetic;

use std::collections::BTreeMap;
use std::fmt;

use etherparse::{EtherType, IpNumber, NetSlice, SlicedPacket};
use postern_abi::window;

/// Length of an Ethernet header, in bytes: the NIC takes no shorter frame.
pub const HEADER_LEN: usize = window::MIN_FRAME as usize;

/// Shortest frame that Ethernet puts on a wire, in bytes without the frame check sequence
/// (IEEE 802.3: 64 with it). A NIC pads what is shorter with zeros.
pub const MIN_WIRE_LEN: usize = 60;

/// Longest frame, in bytes without the frame check sequence: header and an MTU of 1500.
pub const MAX_LEN: usize = HEADER_LEN + 1500;

/// Longest jumbo frame that the NIC takes, in bytes without the frame check sequence.
pub const MAX_JUMBO: usize = window::MAX_FRAME as usize;

const _: () = assert!(MAX_LEN <= MAX_JUMBO);

/// One Ethernet frame, from the destination address on, without the frame check sequence.
pub type Frame = Box<[u8]>;

/// Frames in the order in which they are sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trace {
    name: String,
    frames: Vec<Frame>,
    sha256: String,
}

impl Trace {
    /// A trace called `name` of these frames.
    pub fn new(name: impl Into<String>, frames: Vec<Frame>) -> Trace {
        let sha256 = pcap::hash_frames(&frames);
        Trace {
            name: name.into(),
            frames,
            sha256,
        }
    }

    /// Room in bytes that each frame may need: that of a usual one, or of the longest.
    pub fn longest(&self) -> usize {
        let lengths = self.frames.iter().map(|frame| frame.len());
        lengths.max().unwrap_or(0).max(MAX_LEN)
    }

    /// `count` frames of `len` bytes each, all different, from one station to another.
    ///
    /// `len` must lie between [`MIN_WIRE_LEN`] and [`MAX_JUMBO`].
    pub fn synthetic(len: usize, count: usize) -> Trace {
        Trace::new(format!("{len}-byte"), synthetic::frames(len, count))
    }

    /// Name of the trace, for people.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The trace with its frames under another name.
    pub fn named(self, name: impl Into<String>) -> Trace {
        Trace {
            name: name.into(),
            ..self
        }
    }

    /// The frames, each once.
    pub fn frames(&self) -> &[Frame] {
        &self.frames
    }

    /// SHA-256 over lengths and bytes of all frames, in hexadecimal. It is equal for equal frames,
    /// whatever kind of file they came from.
    pub fn sha256(&self) -> &str {
        &self.sha256
    }

    /// The first `count` frames, beginning again at the first when the trace is shorter.
    pub fn cycle_to(&self, count: usize) -> Trace {
        let frames = self.frames.iter().cycle().take(count).cloned().collect();
        Trace::new(self.name.clone(), frames)
    }

    /// Number of frames of each kind, and their lengths.
    pub fn summary(&self) -> Summary {
        let mut summary = Summary {
            frames: self.frames.len(),
            shortest: self.frames.iter().map(|f| f.len()).min().unwrap_or(0),
            longest: self.frames.iter().map(|f| f.len()).max().unwrap_or(0),
            bytes: self.frames.iter().map(|f| f.len() as u64).sum(),
            kinds: BTreeMap::new(),
        };
        for frame in &self.frames {
            *summary.kinds.entry(kind(frame)).or_default() += 1;
        }
        summary
    }
}

/// Names the protocol of a frame.
fn kind(frame: &[u8]) -> &'static str {
    let Ok(packet) = SlicedPacket::from_ethernet(frame) else {
        return "other";
    };
    let protocol = match &packet.net {
        Some(NetSlice::Ipv4(ip)) => ip.payload_ip_number(),
        Some(NetSlice::Ipv6(ip)) => ip.payload().ip_number,
        Some(NetSlice::Arp(_)) => return "ARP",
        None => {
            return match packet.ether_payload() {
                Some(payload) if payload.ether_type == EtherType::ARP => "ARP",
                _ => "other",
            };
        }
    };
    match protocol {
        IpNumber::TCP => "TCP",
        IpNumber::UDP => "UDP",
        IpNumber::ICMP | IpNumber::IPV6_ICMP => "ICMP",
        _ => "other",
    }
}

/// Summary of a [`Trace`], for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// Number of frames.
    pub frames: usize,
    /// Length of the shortest frame in bytes.
    pub shortest: usize,
    /// Length of the longest frame in bytes.
    pub longest: usize,
    /// Sum of all lengths in bytes.
    pub bytes: u64,
    /// Number of frames by protocol.
    pub kinds: BTreeMap<&'static str, usize>,
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} frames of {} to {} bytes",
            self.frames, self.shortest, self.longest
        )?;
        for (n, (kind, count)) in self.kinds.iter().enumerate() {
            write!(f, "{} {count} {kind}", if n == 0 { ":" } else { "," })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cycling_repeats_and_cuts() {
        let trace = Trace::synthetic(60, 3);
        let longer = trace.cycle_to(7);
        assert_eq!(longer.frames().len(), 7);
        assert_eq!(longer.frames()[6], trace.frames()[0]);
        assert_eq!(trace.cycle_to(2).frames(), &trace.frames()[..2]);
        assert_ne!(trace.sha256(), longer.sha256());
    }

    #[test]
    fn summary_names_protocols() {
        let summary = Trace::synthetic(64, 5).summary();
        assert_eq!(summary.to_string(), "5 frames of 64 to 64 bytes: 5 UDP");
    }
}
