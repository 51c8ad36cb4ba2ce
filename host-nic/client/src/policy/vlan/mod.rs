//! VLANs of a port as people and programs write them.
#![deny(unsafe_code)]

use std::fmt;
use std::ops::RangeInclusive;

use postern_switch::policy::vlan::{SET_WORDS, TRUNK, Vlan, VlanSet, VlanWords, is_reserved, pvid};
use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
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
        /// The VLANs. They are read as numbers, and as ranges such as `"20-29"`.
        #[serde(deserialize_with = "read_vids")]
        members: Vec<u16>,
        /// Further ones of these that leave untagged; read alike.
        #[serde(
            default,
            skip_serializing_if = "Vec::is_empty",
            deserialize_with = "read_vids"
        )]
        untagged: Vec<u16>,
    },
}

/// Number of VLANs that there are, and so the most in a list of them.
const MAX_VIDS: usize = 4094;

/// A text that is no VLAN and no range of them.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("'{0}' is no VLAN or range of them such as 20-29: give numbers from 1 to 4094")]
pub struct VidRangeError(String);

/// The VLANs of a text: of one number, or of a first and a last one such as `20-29`.
///
/// # Errors
///
/// [`VidRangeError`] if it is none.
pub fn vid_range(text: &str) -> Result<RangeInclusive<u16>, VidRangeError> {
    let wrong = || VidRangeError(text.to_owned());
    let vid = |text: &str| text.parse().ok().filter(|vid| !is_reserved(*vid));
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = vid(first).zip(vid(last)).ok_or_else(wrong)?;
    match first <= last {
        true => Ok(first..=last),
        false => Err(wrong()),
    }
}

/// Reads VLANs, each as a number or as the text of a range.
fn read_vids<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u16>, D::Error> {
    struct Vids(RangeInclusive<u16>);
    struct VidsVisitor;

    impl Visitor<'_> for VidsVisitor {
        type Value = Vids;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a VLAN, or a range of them as text")
        }

        fn visit_u64<E: de::Error>(self, number: u64) -> Result<Vids, E> {
            // One that is reserved is told where the settings are compiled.
            let vid =
                u16::try_from(number).map_err(|_| E::custom(VidRangeError(number.to_string())))?;
            Ok(Vids(vid..=vid))
        }

        fn visit_i64<E: de::Error>(self, number: i64) -> Result<Vids, E> {
            let vid = u64::try_from(number);
            self.visit_u64(vid.map_err(|_| E::custom(VidRangeError(number.to_string())))?)
        }

        fn visit_str<E: de::Error>(self, text: &str) -> Result<Vids, E> {
            vid_range(text).map(Vids).map_err(E::custom)
        }
    }

    impl<'de> Deserialize<'de> for Vids {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Vids, D::Error> {
            deserializer.deserialize_any(VidsVisitor)
        }
    }

    let mut vids = Vec::new();
    for Vids(range) in Vec::<Vids>::deserialize(deserializer)? {
        vids.extend(range);
        if vids.len() > MAX_VIDS {
            return Err(de::Error::custom(format!(
                "more than {MAX_VIDS} VLANs: name each once"
            )));
        }
    }
    Ok(vids)
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
