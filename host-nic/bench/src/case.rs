//! Cases: what is sent, and through which NIC.

use std::fmt;
use std::str::FromStr;

use postern_abi::window::{Geometry, GeometryError, record_size};

/// The pattern of traffic: the destinations of a sender's frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pattern {
    /// All frames go to the station at port 1, which the switch knows.
    Unicast,
    /// Each frame goes to another port than the one before, all of them known.
    Scatter,
    /// All frames go to everybody.
    Broadcast,
}

impl Pattern {
    /// All patterns.
    pub const ALL: [Pattern; 3] = [Pattern::Unicast, Pattern::Scatter, Pattern::Broadcast];

    /// The name of the pattern in tables and on command lines.
    pub const fn name(self) -> &'static str {
        match self {
            Pattern::Unicast => "unicast",
            Pattern::Scatter => "scatter",
            Pattern::Broadcast => "broadcast",
        }
    }
}

/// A case. On command lines it is `PATTERN/PORTS/LENGTH/BATCH`, such as `unicast/2/64/32`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Case {
    /// Pattern of the traffic.
    pub pattern: Pattern,
    /// Number of ports of the NIC, all in use.
    pub ports: u32,
    /// Length of a frame in bytes, without FCS.
    pub length: u32,
    /// Number of frames that are sent at once.
    pub batch: u32,
}

/// Shortest frame that is sent here, in bytes: the shortest of Ethernet, without FCS.
const SHORTEST: u32 = 60;
/// Longest frame that is sent here, in bytes.
const LONGEST: u32 = 9014;

/// Why a case cannot be measured.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CaseError {
    /// It is no case.
    #[error(
        "'{0}' is no case: write PATTERN/PORTS/LENGTH/BATCH, such as unicast/2/64/32, with a \
         pattern of unicast, scatter and broadcast, and frames of {SHORTEST} to {LONGEST} bytes"
    )]
    Text(String),
    /// There is no such NIC.
    #[error(transparent)]
    Geometry(#[from] GeometryError),
    /// A ring or lane is too small.
    #[error("{frames} frames of {length} bytes do not fit into a ring or lane of {size} bytes")]
    Size {
        /// Number of frames of a batch that come there.
        frames: u32,
        /// Length of a frame in bytes.
        length: u32,
        /// Size of the ring or lane in bytes.
        size: u32,
    },
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Case {
            pattern,
            ports,
            length,
            batch,
        } = self;
        write!(f, "{}/{ports}/{length}/{batch}", pattern.name())
    }
}

impl FromStr for Case {
    type Err = CaseError;

    fn from_str(text: &str) -> Result<Case, CaseError> {
        let parse = || {
            let parts: Vec<&str> = text.split('/').collect();
            let [pattern, ports, length, batch] = parts[..] else {
                return None;
            };
            Some(Case {
                pattern: Pattern::ALL.into_iter().find(|one| one.name() == pattern)?,
                ports: ports.parse().ok()?,
                length: length.parse().ok()?,
                batch: batch.parse().ok()?,
            })
        };
        let valid = |case: &Case| case.batch != 0 && (SHORTEST..=LONGEST).contains(&case.length);
        parse()
            .filter(valid)
            .ok_or_else(|| CaseError::Text(text.to_owned()))
    }
}

impl Case {
    /// Number of receivers that get each frame.
    pub fn copies(self) -> u32 {
        match self.pattern {
            Pattern::Broadcast => self.ports - 1,
            Pattern::Unicast | Pattern::Scatter => 1,
        }
    }

    /// Number of receivers. The frames of a batch are scattered to no more than there are frames.
    pub fn receivers(self) -> u32 {
        match self.pattern {
            Pattern::Unicast => 1,
            Pattern::Scatter => self.batch.min(self.ports - 1),
            Pattern::Broadcast => self.ports - 1,
        }
    }

    /// Size of a frame's record in a ring, in bytes.
    pub fn record(self) -> u32 {
        record_size(self.length) as u32
    }

    /// Default size of the NIC's TX rings, in bytes.
    pub const fn default_ring(self) -> u32 {
        Geometry::default_ring(self.ports, 1)
    }

    /// Geometry of the NIC: TX rings and lanes of these sizes in bytes, or else of the default ones.
    ///
    /// # Errors
    ///
    /// [`CaseError`]: there is no such NIC, or a batch does not fit into its rings.
    pub fn geometry(self, ring: Option<u32>, lane: Option<u32>) -> Result<Geometry, CaseError> {
        let Case { ports, length, .. } = self;
        let ring = ring.unwrap_or_else(|| self.default_ring());
        let lane = lane.unwrap_or_else(|| Geometry::default_lane(ports, 1, ring));
        let geometry = Geometry::new(ports, 1, ring, lane)?;
        let in_a_lane = match self.pattern {
            Pattern::Scatter => self.batch.div_ceil(self.receivers()),
            Pattern::Unicast | Pattern::Broadcast => self.batch,
        };
        for (size, frames) in [(ring, self.batch), (lane, in_a_lane)] {
            if size / self.record() < frames {
                return Err(CaseError::Size {
                    frames,
                    length,
                    size,
                });
            }
        }
        Ok(geometry)
    }
}

/// The cases that are measured unless others are asked for.
pub const USUAL: [&str; 14] = [
    "unicast/2/64/1",
    "unicast/2/64/32",
    "unicast/2/1500/32",
    "unicast/16/64/1",
    "unicast/16/64/32",
    "unicast/16/1500/32",
    "unicast/64/64/1",
    "unicast/64/64/32",
    "unicast/64/1500/32",
    "scatter/16/64/32",
    "scatter/16/1500/32",
    "scatter/64/64/32",
    "broadcast/16/64/1",
    "broadcast/16/1500/32",
];
