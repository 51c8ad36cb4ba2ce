//! Cases: the combinations of traffic and NIC that can be measured.

use std::fmt;

use postern_abi::window::{Geometry, GeometryError, record_size};

/// Size of a slot in bytes, that of switches whose rings have slots (netmap, VALE). Longer frames
/// take several.
pub const SLOT: u32 = 2048;
/// Most bytes of memory that a NIC may take here.
const MAX_MEMORY: u64 = 4 << 30;

/// The pattern of traffic: the destinations of a sender's frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
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

/// A case: one combination.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Case {
    /// Pattern of the traffic.
    pub pattern: Pattern,
    /// Number of ports of the NIC, all in use.
    pub ports: u32,
    /// Length of a frame in bytes, without FCS.
    pub length: u32,
    /// Number of frames of a call.
    pub batch: u32,
    /// Number of slots of the floor's rings. The NIC's TX ring has as many bytes.
    pub slots: u32,
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}/{} ports/{} B/batch {}/{} slots",
            self.pattern.name(),
            self.ports,
            self.length,
            self.batch,
            self.slots
        )
    }
}

/// Why a case is left out.
#[derive(Debug, thiserror::Error)]
pub enum CaseError {
    /// There is no NIC of this geometry.
    #[error(transparent)]
    Geometry(#[from] GeometryError),
    /// The ring is too small.
    #[error("a batch of {batch} frames of {length} bytes does not fit a ring of {ring} bytes")]
    Ring {
        /// Number of frames of a batch.
        batch: u32,
        /// Length of a frame in bytes.
        length: u32,
        /// Size of the ring in bytes.
        ring: u32,
    },
    /// The NIC needs more memory than is used here.
    #[error("with lanes that hold a batch, {lane} bytes each, the NIC takes {needed} bytes")]
    Memory {
        /// Size of a lane in bytes.
        lane: u32,
        /// Size of all windows in bytes.
        needed: u64,
    },
}

impl Case {
    /// Number of receivers that get each frame.
    pub fn copies(self) -> u32 {
        match self.pattern {
            Pattern::Broadcast => self.ports - 1,
            Pattern::Unicast | Pattern::Scatter => 1,
        }
    }

    /// Number of receivers. The frames of a batch are scattered to no more receivers than there are
    /// frames.
    pub fn receivers(self) -> u32 {
        match self.pattern {
            Pattern::Unicast => 1,
            Pattern::Scatter => self.batch.min(self.ports - 1),
            Pattern::Broadcast => self.ports - 1,
        }
    }

    /// Number of slots that a frame takes, one behind the other.
    pub fn pieces(self) -> u32 {
        self.length.div_ceil(SLOT)
    }

    /// Geometry of the NIC. Its lanes have their default size, or else the smallest that holds a
    /// batch.
    ///
    /// # Errors
    ///
    /// [`CaseError`]: the case fits no NIC that is used here.
    pub fn geometry(self) -> Result<Geometry, CaseError> {
        let Case { batch, length, .. } = self;
        let record = record_size(length) as u32;
        let ring = self.slots * SLOT;
        if batch * self.pieces() > self.slots || ring / record < batch {
            return Err(CaseError::Ring {
                batch,
                length,
                ring,
            });
        }
        let mut lane = Geometry::default_lane(self.ports, 1, ring);
        while lane / record < batch {
            lane *= 2;
        }
        let geometry = Geometry::new(self.ports, 1, ring, lane)?;
        let needed = geometry.window_size() * u64::from(geometry.ports());
        if needed > MAX_MEMORY {
            return Err(CaseError::Memory { lane, needed });
        }
        Ok(geometry)
    }
}

/// Numbers of ports of a NIC.
pub const PORTS: [u32; 5] = [2, 4, 16, 64, 256];
/// Lengths of frames, in bytes without FCS.
pub const LENGTHS: [u32; 8] = [64, 128, 256, 512, 1024, 1500, 4096, 9000];
/// Numbers of frames of a call.
pub const BATCHES: [u32; 6] = [1, 8, 32, 64, 128, 256];
/// Numbers of slots of a ring.
pub const SLOTS: [u32; 2] = [128, 1024];

/// All cases.
pub fn all() -> Vec<Case> {
    let mut cases = Vec::new();
    for pattern in Pattern::ALL {
        for ports in PORTS {
            for slots in SLOTS {
                for length in LENGTHS {
                    for batch in BATCHES {
                        let case = Case {
                            pattern,
                            ports,
                            length,
                            batch,
                            slots,
                        };
                        // Frames that are scattered to one receiver are unicast.
                        if pattern != Pattern::Scatter || case.receivers() > 1 {
                            cases.push(case);
                        }
                    }
                }
            }
        }
    }
    cases
}

/// Whether a case is one of the selection: every length and batch between two ports, and more
/// ports, larger rings and several receivers at the lengths and batches that are compared most.
pub fn chosen(case: &Case) -> bool {
    let usual = matches!(case.length, 64 | 1500) && matches!(case.batch, 1 | 32);
    let [small, large] = SLOTS.map(|slots| Case { slots, ..*case });
    let smallest = *case
        == if small.geometry().is_ok() {
            small
        } else {
            large
        };
    match case.pattern {
        Pattern::Unicast => (case.ports == 2 && smallest) || usual,
        Pattern::Scatter => usual && smallest && case.ports < 256,
        Pattern::Broadcast => usual && smallest && case.ports > 2,
    }
}
