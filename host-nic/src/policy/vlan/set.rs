//! Setting the VLANs of a port: the host's side.

use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::fence;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::{CLOSED, SET_WORDS, Set, TRUNK, Vlan, is_reserved, pvid};

/// Why settings are refused.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum VlanError {
    /// A number that is no VLAN.
    #[error("{0} is no VLAN: 1 to 4094")]
    Vid(u16),
    /// An untagged VLAN that the port does not have.
    #[error(
        "VLAN {0} cannot leave untagged through a port that is no member of it: add it to the trunk"
    )]
    Untagged(u16),
}

/// VLAN settings as people and programs write them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub enum VlanSpec {
    /// Untagged frames of one VLAN.
    Access {
        /// The VLAN.
        pvid: u16,
    },
    /// Tagged frames of several.
    Trunk {
        /// The VLAN of untagged frames, if they are admitted; the port is a member of it, and its
        /// frames leave untagged.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pvid: Option<u16>,
        /// The VLANs.
        members: Vec<u16>,
        /// Further ones of these that leave untagged.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        untagged: Vec<u16>,
    },
}

impl VlanSpec {
    /// Control word, members, untagged.
    ///
    /// # Errors
    /// A [`VlanError`] that names the VLAN.
    fn compile(&self) -> Result<(u64, [u64; SET_WORDS], [u64; SET_WORDS]), VlanError> {
        let (mut all, mut bare) = ([0; SET_WORDS], [0; SET_WORDS]);
        let valid = |vid: u16| match is_reserved(vid) {
            true => Err(VlanError::Vid(vid)),
            false => Ok(vid),
        };
        let add = |set: &mut [u64; SET_WORDS], vid: u16| {
            set[usize::from(vid / 64)] |= 1 << (vid % 64);
        };
        let control = match self {
            VlanSpec::Access { pvid } => u64::from(valid(*pvid)?),
            VlanSpec::Trunk {
                pvid,
                members,
                untagged,
            } => {
                for vid in pvid.iter().chain(members) {
                    add(&mut all, valid(*vid)?);
                }
                for vid in pvid.iter().chain(untagged) {
                    let vid = valid(*vid)?;
                    if all[usize::from(vid / 64)] & 1 << (vid % 64) == 0 {
                        return Err(VlanError::Untagged(vid));
                    }
                    add(&mut bare, vid);
                }
                TRUNK | u64::from(pvid.unwrap_or(0))
            }
        };
        Ok((control, all, bare))
    }

    /// Whether a port would take these settings.
    ///
    /// # Errors
    /// A [`VlanError`] that names the VLAN.
    pub fn check(&self) -> Result<(), VlanError> {
        self.compile().map(|_| ())
    }
}

impl Set {
    fn store(&self, words: &[u64; SET_WORDS]) {
        for (place, word) in self.0.iter().zip(words) {
            place.store(*word, Relaxed);
        }
    }

    fn vids(&self) -> impl Iterator<Item = u16> {
        (1..4095).filter(|vid| self.has(*vid))
    }
}

impl Vlan {
    /// Changes the settings. Nothing passes the port until all is changed. Only one thread of the host may
    /// do this at a time.
    ///
    /// # Errors
    /// A [`VlanError`] that names the VLAN; the old settings stay then.
    pub fn set(&self, spec: &VlanSpec) -> Result<(), VlanError> {
        let (control, members, untagged) = spec.compile()?;
        self.control.store(CLOSED, Relaxed);
        // Whoever sees a new set, sees that the port was closed before.
        fence(Release);
        self.members.store(&members);
        self.untagged.store(&untagged);
        self.control.store(control, Release);
        Ok(())
    }

    /// The settings; `None` if whoever changed them last died in between: the port is closed then.
    pub fn get(&self) -> Option<VlanSpec> {
        let control = self.control.load(Acquire);
        if control & CLOSED != 0 {
            return None;
        }
        let native = pvid(control);
        Some(if control & TRUNK == 0 {
            VlanSpec::Access { pvid: native? }
        } else {
            let bare = self.untagged.vids().filter(|vid| Some(*vid) != native);
            VlanSpec::Trunk {
                pvid: native,
                members: self.members.vids().collect(),
                untagged: bare.collect(),
            }
        })
    }
}
