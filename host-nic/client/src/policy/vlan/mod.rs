//! VLANs of a port as people and programs write them.
#![deny(unsafe_code)]

use postern_switch::policy::vlan::{SET_WORDS, TRUNK, Vlan, VlanSet, VlanWords, is_reserved, pvid};
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// VLAN settings that are refused.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum VlanError {
    /// The number is no VLAN.
    #[error("{0} is no VLAN: 1 to 4094")]
    Vid(u16),
    /// The port is no member of an untagged VLAN.
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
    /// The settings as words of the switch.
    ///
    /// # Errors
    ///
    /// A [`VlanError`] that names the VLAN.
    fn compile(&self) -> Result<VlanWords, VlanError> {
        let (mut members_set, mut untagged_set) = ([0; SET_WORDS], [0; SET_WORDS]);
        let valid = |vid: u16| match is_reserved(vid) {
            true => Err(VlanError::Vid(vid)),
            false => Ok(vid),
        };
        let add = |set: &mut VlanSet, vid: u16| {
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
                    add(&mut members_set, valid(*vid)?);
                }
                for vid in pvid.iter().chain(untagged) {
                    let vid = valid(*vid)?;
                    if members_set[usize::from(vid / 64)] & 1 << (vid % 64) == 0 {
                        return Err(VlanError::Untagged(vid));
                    }
                    add(&mut untagged_set, vid);
                }
                TRUNK | u64::from(pvid.unwrap_or(0))
            }
        };
        Ok(VlanWords {
            control,
            members: members_set,
            untagged: untagged_set,
        })
    }

    /// Whether a port would take these settings.
    ///
    /// # Errors
    ///
    /// A [`VlanError`] that names the VLAN.
    pub fn check(&self) -> Result<(), VlanError> {
        self.compile().map(|_| ())
    }

    /// Gives a port these settings. Nothing passes the port until all is changed. Only one thread
    /// of the host may do this at a time.
    ///
    /// # Errors
    ///
    /// A [`VlanError`] that names the VLAN; the old settings stay then.
    pub fn install(&self, vlan: &Vlan) -> Result<(), VlanError> {
        vlan.install(&self.compile()?);
        Ok(())
    }

    /// The settings that a port has; `None` if whoever changed them last died in between: the port
    /// is closed then.
    pub fn of(vlan: &Vlan) -> Option<VlanSpec> {
        let words = vlan.words()?;
        let native = pvid(words.control);
        Some(if words.control & TRUNK == 0 {
            VlanSpec::Access { pvid: native? }
        } else {
            let bare = vids(&words.untagged).filter(|vid| Some(*vid) != native);
            VlanSpec::Trunk {
                pvid: native,
                members: vids(&words.members).collect(),
                untagged: bare.collect(),
            }
        })
    }
}

/// The VLANs of a set.
fn vids(set: &VlanSet) -> impl Iterator<Item = u16> {
    (1..4095).filter(|vid: &u16| set[usize::from(vid / 64)] >> (vid % 64) & 1 != 0)
}

#[cfg(test)]
#[expect(
    unsafe_code,
    reason = "words of the switch are made and looked at directly"
)]
mod tests;
