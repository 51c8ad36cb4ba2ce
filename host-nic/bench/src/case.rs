//! What can be measured.

use std::fmt;

use postern_abi::window::{Geometry, GeometryError, record_size};

/// Bytes of a slot: what switches with slots use. Longer frames take several.
pub const SLOT: u32 = 2048;
/// Most memory that a NIC may take here, in bytes.
const MEMORY: u64 = 4 << 30;

/// Whom frames are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Pattern {
    /// All for the station at port 1, which the switch knows.
    Unicast,
    /// Each for another port than the one before, all of them known.
    Scatter,
    /// For everybody.
    Broadcast,
}

impl Pattern {
    /// All of them.
    pub const ALL: [Pattern; 3] = [Pattern::Unicast, Pattern::Scatter, Pattern::Broadcast];

    /// In tables and on command lines.
    pub const fn name(self) -> &'static str {
        match self {
            Pattern::Unicast => "unicast",
            Pattern::Scatter => "scatter",
            Pattern::Broadcast => "broadcast",
        }
    }
}

/// One combination.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Case {
    /// Whom its frames are for.
    pub pattern: Pattern,
    /// Ports of the NIC, all in use.
    pub ports: u32,
    /// Bytes of a frame, without FCS.
    pub length: u32,
    /// Frames of a call.
    pub batch: u32,
    /// Slots of the floor's rings; the NIC's TX ring has as many bytes.
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

/// Why a combination is left out.
#[derive(Debug, thiserror::Error)]
pub enum Unfit {
    /// No NIC is like that.
    #[error(transparent)]
    Geometry(#[from] GeometryError),
    /// The ring is too small.
    #[error("a batch of {batch} frames of {length} bytes does not fit a ring of {ring} bytes")]
    Ring {
        /// Frames of a batch.
        batch: u32,
        /// Bytes of a frame.
        length: u32,
        /// Bytes of the ring.
        ring: u32,
    },
    /// That much memory is not used here.
    #[error("with lanes that hold a batch, {lane} bytes each, the NIC takes {needed} bytes")]
    Memory {
        /// Bytes of a lane.
        lane: u32,
        /// Bytes in all.
        needed: u64,
    },
}

impl Case {
    /// How many receivers get each frame.
    pub fn copies(self) -> u32 {
        match self.pattern {
            Pattern::Broadcast => self.ports - 1,
            Pattern::Unicast | Pattern::Scatter => 1,
        }
    }

    /// How many receivers there are. Frames of a batch are scattered to no more than there are frames.
    pub fn receivers(self) -> u32 {
        match self.pattern {
            Pattern::Unicast => 1,
            Pattern::Scatter => self.batch.min(self.ports - 1),
            Pattern::Broadcast => self.ports - 1,
        }
    }

    /// Slots that a frame takes, one behind the other.
    pub fn pieces(self) -> u32 {
        self.length.div_ceil(SLOT)
    }

    /// The NIC's sizes: the lanes are those that are chosen where nobody asks, or else the smallest that
    /// hold a batch.
    ///
    /// # Errors
    ///
    /// Where there are none within reason.
    pub fn geometry(self) -> Result<Geometry, Unfit> {
        let Case { batch, length, .. } = self;
        let record = record_size(length) as u32;
        let ring = self.slots * SLOT;
        if batch * self.pieces() > self.slots || ring / record < batch {
            return Err(Unfit::Ring {
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
        if needed > MEMORY {
            return Err(Unfit::Memory { lane, needed });
        }
        Ok(geometry)
    }
}

/// How many ports a NIC has.
pub const PORTS: [u32; 5] = [2, 4, 16, 64, 256];
/// How long frames are, in bytes without FCS.
pub const LENGTHS: [u32; 8] = [64, 128, 256, 512, 1024, 1500, 4096, 9000];
/// How many frames a call takes.
pub const BATCHES: [u32; 6] = [1, 8, 32, 64, 128, 256];
/// How many slots rings have.
pub const SLOTS: [u32; 2] = [128, 1024];

/// Every combination.
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
                        // With one receiver it is unicast.
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

/// Those that a plain run measures: every length and batch between two ports, and what changes with more
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
