//! VLANs of a port (IEEE 802.1Q).
//!
//! A port has a *port VLAN identifier* (PVID), the VLAN of frames that come without a tag or with a
//! priority tag (VID 0). A port is one of
//!
//! * *access*: it admits only untagged and priority-tagged frames ("Acceptable Frame Types"), and
//!   is in the untagged set of its PVID and a member of no other VLAN. A tagged frame is dropped
//!   even if it names the PVID;
//! * *trunk*: it is a member of any set of VLANs, whose frames leave tagged or untagged. With a
//!   PVID it admits all frames, without one only tagged ones. Ingress filtering is on: a frame of a
//!   VLAN that the port is no member of is dropped.
//!
//! *Second tags.* To the standard, whatever follows the tag that sorts a frame is payload, also
//! where it is another tag (of any EtherType: [`Headers::has_further_tag`]). If the first tag is
//! not there on the other side, the next bridge goes by the second, and a port sends into VLANs
//! that it is no member of (CVE-2021-27853, "VLAN 0 stacking"; double tagging). Therefore a frame
//! that has a second tag is dropped where the PVID would sort it, since it is untagged or
//! priority-tagged, and does not leave untagged. With the first tag, from trunk to trunk, it passes
//! ("QinQ").
//!
//! All zero is an access port of VLAN 1, the standard's default. The host changes settings while
//! calls use them. A port is closed while its sets change, and a call that has begun before decides
//! each frame by one word of the old or the new set.

use crate::sync::{
    AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
    fence,
};

use super::headers::{Headers, Tag};

/// Number of VLAN identifiers; 0 and the highest one are reserved.
pub const VIDS: usize = 4096;
/// The PVID of a port that nobody has set.
pub const DEFAULT_PVID: u16 = 1;

/// Number of words of 64 bits of a set of VLANs.
pub const SET_WORDS: usize = VIDS / 64;

/// 12 bits of the control word, the PVID: 0 is none for a trunk and [`DEFAULT_PVID`] for an access
/// port.
pub const PVID: u64 = 0xfff;
/// Bit of the control word: the port is a trunk.
pub const TRUNK: u64 = 1 << 12;
/// Bit of the control word: the port's settings are being changed, and nothing passes.
pub const CLOSED: u64 = 1 << 13;

/// The form in which frames of a VLAN leave through a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Egress {
    /// They do not leave: the port is no member of the VLAN.
    Drop,
    /// They leave with a tag that names the VLAN.
    Tagged,
    /// They leave without a tag.
    Untagged,
}

/// A set of VLANs, one bit each.
#[repr(C)]
#[derive(Debug)]
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
#[derive(Debug)]
pub struct Vlan {
    control: AtomicU64,
    members: Set,
    untagged: Set,
}

impl Vlan {
    /// Installs settings, on the host's side. Nothing passes the port until all are changed. Only
    /// one thread of the host may do this at a time.
    pub fn install(&self, words: &VlanWords) {
        self.control.store(CLOSED, Relaxed);
        // Release: a call that sees a word of a new set also sees that the port was closed before.
        fence(Release);
        self.members.store(&words.members);
        self.untagged.store(&words.untagged);
        self.control.store(words.control & !CLOSED, Release);
    }

    /// The settings, or `None` if the port is closed: whoever changed them last died in between.
    pub fn words(&self) -> Option<VlanWords> {
        let control = self.control.load(Acquire);
        (control & CLOSED == 0).then(|| VlanWords {
            control,
            members: self.members.load(),
            untagged: self.untagged.load(),
        })
    }

    /// The VLAN of a frame with these headers that the port sends, 1 to 4094. `None` if the port may
    /// not send it.
    #[inline]
    pub fn ingress(&self, headers: &Headers) -> Option<u16> {
        let control = self.control.load(Acquire);
        let vid = headers.vlan_tag().map_or(0, Tag::vid);
        if control & CLOSED != 0 {
            return None;
        }
        if vid == 0 {
            return pvid(control).filter(|_| !headers.has_further_tag());
        }
        if control & TRUNK == 0 || is_reserved(vid) || !self.members.has(vid) {
            return None;
        }
        Some(vid)
    }

    /// Whether the port is a member of a VLAN.
    #[inline]
    pub fn is_member(&self, vid: u16) -> bool {
        self.egress(vid) != Egress::Drop
    }

    /// The form in which frames of a VLAN leave through the port.
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

/// The VLAN of untagged frames that a port with this control word sends, if it may send any.
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

/// Whether a VLAN identifier is reserved (IEEE 802.1Q "Reserved VID values").
#[inline]
pub const fn is_reserved(vid: u16) -> bool {
    vid == 0 || vid >= VIDS as u16 - 1
}
