//! VLANs of a port (IEEE 802.1Q).
//!
//! A port has a *port VLAN identifier* (PVID), the VLAN of frames that come without a tag or with a
//! priority tag (VID 0). It is one of
//!
//! * *access*: admits only untagged and priority-tagged frames ("Acceptable Frame Types"), and is in
//!   the untagged set of its PVID and a member of nothing else. A tagged frame is dropped even if it
//!   names the PVID, so that nobody reaches another VLAN through a second tag behind it;
//! * *trunk*: a member of any set of VLANs, each of which leaves tagged or untagged. With a PVID it
//!   admits all frames, without one only tagged ones. Ingress filtering is on: a frame of a VLAN that the
//!   port is no member of is dropped.
//!
//! All zero is an access port of VLAN 1, the standard's default. The host changes settings while callers use
//! them: a port is closed while its sets change, and a caller that has begun before decides each frame by
//! one word of the old or the new set.

use crate::sync::{
    AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
    fence,
};

use super::headers::Tag;

/// VLAN identifiers that there can be; 0 and the highest are reserved.
pub const VIDS: usize = 4096;
/// The PVID of a port that nobody has set.
pub const DEFAULT_PVID: u16 = 1;

/// Words of 64 bits that a set of VLANs takes.
pub const SET_WORDS: usize = VIDS / 64;

/// 12 bits of the control word: the PVID; 0 is none for a trunk and [`DEFAULT_PVID`] for an access port.
pub const PVID: u64 = 0xfff;
/// The port is a trunk.
pub const TRUNK: u64 = 1 << 12;
/// The port is being changed: nothing passes.
pub const CLOSED: u64 = 1 << 13;

/// How a frame leaves through a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Egress {
    /// Not at all: the port is no member of the frame's VLAN.
    Drop,
    /// With a tag that names its VLAN.
    Tagged,
    /// Without a tag.
    Untagged,
}

/// A set of VLANs, one bit each.
#[repr(C)]
struct Set([AtomicU64; SET_WORDS]);

impl Set {
    #[inline]
    fn has(&self, vid: u16) -> bool {
        let word = self.0[(vid >> 6) as usize & (SET_WORDS - 1)].load(Relaxed);
        word >> (vid & 63) & 1 != 0
    }

    fn store(&self, words: &VlanSet) {
        for (place, word) in self.0.iter().zip(words) {
            place.store(*word, Relaxed);
        }
    }

    fn load(&self) -> VlanSet {
        let mut words = [0; SET_WORDS];
        for (word, place) in words.iter_mut().zip(&self.0) {
            *word = place.load(Relaxed);
        }
        words
    }
}

/// A set of VLANs as plain words: bit `vid % 64` of word `vid / 64`.
pub type VlanSet = [u64; SET_WORDS];

/// VLAN settings of a port as plain words, in the order of [`Vlan`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VlanWords {
    /// [`PVID`] and [`TRUNK`].
    pub control: u64,
    /// VLANs that a trunk is a member of.
    pub members: VlanSet,
    /// VLANs whose frames leave a trunk without a tag.
    pub untagged: VlanSet,
}

/// VLAN settings of a port.
#[repr(C)]
pub struct Vlan {
    control: AtomicU64,
    members: Set,
    untagged: Set,
}

impl Vlan {
    /// Changes the settings: the host's side. Nothing passes the port until all is changed. Only one
    /// thread of the host may do this at a time.
    pub fn install(&self, words: &VlanWords) {
        self.control.store(CLOSED, Relaxed);
        // Whoever sees a new set, sees that the port was closed before.
        fence(Release);
        self.members.store(&words.members);
        self.untagged.store(&words.untagged);
        self.control.store(words.control & !CLOSED, Release);
    }

    /// The settings; `None` if whoever changed them last died in between: the port is closed then.
    pub fn words(&self) -> Option<VlanWords> {
        let control = self.control.load(Acquire);
        (control & CLOSED == 0).then(|| VlanWords {
            control,
            members: self.members.load(),
            untagged: self.untagged.load(),
        })
    }

    /// The VLAN of a frame that the port sends, from its tag ([`Headers::vlan_tag`]); 1 to 4094. `None`: the
    /// port may not send it.
    ///
    /// [`Headers::vlan_tag`]: super::headers::Headers::vlan_tag
    #[inline]
    pub fn ingress(&self, tag: Option<Tag>) -> Option<u16> {
        let control = self.control.load(Acquire);
        let vid = tag.map_or(0, Tag::vid);
        if control & CLOSED != 0 {
            return None;
        }
        if vid == 0 {
            return pvid(control);
        }
        if control & TRUNK == 0 || is_reserved(vid) || !self.members.has(vid) {
            return None;
        }
        Some(vid)
    }

    /// How a frame of a VLAN leaves through the port.
    #[inline]
    pub fn egress(&self, vid: u16) -> Egress {
        let control = self.control.load(Acquire);
        if control & CLOSED != 0 || is_reserved(vid) {
            return Egress::Drop;
        }
        if control & TRUNK == 0 {
            return if pvid(control) == Some(vid) {
                Egress::Untagged
            } else {
                Egress::Drop
            };
        }
        if !self.members.has(vid) {
            Egress::Drop
        } else if self.untagged.has(vid) {
            Egress::Untagged
        } else {
            Egress::Tagged
        }
    }
}

/// The VLAN of untagged frames.
#[inline]
pub const fn pvid(control: u64) -> Option<u16> {
    let pvid = (control & PVID) as u16;
    if pvid != 0 {
        Some(pvid)
    } else if control & TRUNK == 0 {
        Some(DEFAULT_PVID)
    } else {
        None
    }
}

/// Whether a number is no VLAN (IEEE 802.1Q "Reserved VID values").
#[inline]
pub const fn is_reserved(vid: u16) -> bool {
    vid == 0 || vid >= VIDS as u16 - 1
}
