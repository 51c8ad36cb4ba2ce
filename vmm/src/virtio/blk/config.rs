//! A disk, as people describe it.
#![deny(unsafe_code)]

use std::fmt;
use std::num::NonZeroU16;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use virtio_bindings::virtio_blk::VIRTIO_BLK_ID_BYTES;

/// Most bytes of a serial number.
const MAX_SERIAL: usize = VIRTIO_BLK_ID_BYTES as usize;

/// Most queues of a disk.
const MAX_QUEUES: u16 = 64;

/// A disk: on the command line `path=FILE[,readonly][,serial=ID][,direct][,queues=N]`, where a comma
/// in a name is written twice; in a topology the same keys.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DiskConfig {
    /// A raw image or a block device.
    pub path: PathBuf,
    /// Whether the guest cannot write to it; several VMs can then have it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub readonly: bool,
    /// Serial number, of at most 20 bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serial: Option<Serial>,
    /// Whether the host's page cache is left out (O_DIRECT).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub direct: bool,
    /// Queues, each of which has a thread in the host; 1 if not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queues: Option<Queues>,
}

impl DiskConfig {
    /// A disk of that image that the guest can write to.
    pub fn new(path: impl Into<PathBuf>) -> DiskConfig {
        DiskConfig {
            path: path.into(),
            readonly: false,
            serial: None,
            direct: false,
            queues: None,
        }
    }
}

/// Serial number of a disk: 1 to 20 printable ASCII characters.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Serial(String);

impl Serial {
    /// Its characters, filled up with zeros.
    pub(super) fn bytes(&self) -> [u8; MAX_SERIAL] {
        let mut bytes = [0; MAX_SERIAL];
        for (to, from) in bytes.iter_mut().zip(self.0.bytes()) {
            *to = from;
        }
        bytes
    }
}

impl TryFrom<String> for Serial {
    type Error = DiskConfigError;

    fn try_from(text: String) -> Result<Serial, DiskConfigError> {
        let fits = (1..=MAX_SERIAL).contains(&text.len());
        match fits && text.bytes().all(|byte| byte.is_ascii_graphic()) {
            true => Ok(Serial(text)),
            false => Err(DiskConfigError::Serial(text)),
        }
    }
}

impl From<Serial> for String {
    fn from(serial: Serial) -> String {
        serial.0
    }
}

/// Number of queues of a disk: 1 to 64.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "u16", into = "u16")]
pub struct Queues(NonZeroU16);

impl TryFrom<u16> for Queues {
    type Error = DiskConfigError;

    fn try_from(number: u16) -> Result<Queues, DiskConfigError> {
        match NonZeroU16::new(number) {
            Some(count) if number <= MAX_QUEUES => Ok(Queues(count)),
            _ => Err(DiskConfigError::Queues(number.to_string())),
        }
    }
}

impl From<Queues> for u16 {
    fn from(queues: Queues) -> u16 {
        queues.0.get()
    }
}

/// The keys beside `path`.
const OTHERS: &str = "readonly, serial=ID, direct and queues=N";

/// Why a text describes no disk.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DiskConfigError {
    /// There is no image.
    #[error("a disk needs path=FILE, a raw image or a block device")]
    NoPath,
    /// A key that disks do not have.
    #[error(
        "a disk has no key {0:?}: there are path=FILE, {OTHERS} (a comma in a file's name is written \
         twice)"
    )]
    UnknownKey(String),
    /// A word that is no key, but may be a file.
    #[error("a disk has no key {0:?}: did you mean path={0}? Besides path=FILE there are {OTHERS}")]
    NoKey(String),
    /// A key without the value that it needs, or with one that it does not take.
    #[error("the key {key} of a disk is written {form}")]
    Form {
        /// The key.
        key: &'static str,
        /// How it is written.
        form: &'static str,
    },
    /// A key that is there twice.
    #[error("the key {0} of a disk is there twice")]
    Twice(&'static str),
    /// A serial number that no driver could read.
    #[error(
        "{0:?} is no serial number of a disk: it has 1 to {MAX_SERIAL} printable ASCII characters, \
         without spaces"
    )]
    Serial(String),
    /// A number of queues that a disk cannot have.
    #[error("{0:?} is no number of queues of a disk: it has 1 to {MAX_QUEUES}")]
    Queues(String),
}

/// The words of a description: parts between commas, where two commas stand for one.
fn words(text: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut rest = text.chars().peekable();
    while let Some(next) = rest.next() {
        if next == ',' && rest.next_if_eq(&',').is_none() {
            words.push(String::new());
        } else if let Some(word) = words.last_mut() {
            word.push(next);
        }
    }
    words
}

/// Puts a value where none is yet.
fn set<T>(place: &mut Option<T>, key: &'static str, value: T) -> Result<(), DiskConfigError> {
    match place.replace(value) {
        None => Ok(()),
        Some(_) => Err(DiskConfigError::Twice(key)),
    }
}

impl FromStr for DiskConfig {
    type Err = DiskConfigError;

    fn from_str(text: &str) -> Result<DiskConfig, DiskConfigError> {
        let (mut path, mut serial, mut queues) = (None, None, None);
        let (mut readonly, mut direct) = (None, None);
        for word in words(text) {
            let (key, value) = match word.split_once('=') {
                Some((key, value)) => (key, Some(value)),
                None => (word.as_str(), None),
            };
            match (key, value) {
                ("path", Some(value)) if !value.is_empty() => {
                    set(&mut path, "path", PathBuf::from(value))?;
                }
                ("path", _) => return Err(DiskConfigError::NoPath),
                ("serial", Some(value)) => {
                    set(&mut serial, "serial", Serial::try_from(value.to_owned())?)?;
                }
                ("serial", None) => return Err(form("serial", "serial=ID")),
                ("queues", Some(value)) => {
                    let number: u16 = value
                        .parse()
                        .map_err(|_| DiskConfigError::Queues(value.to_owned()))?;
                    set(&mut queues, "queues", Queues::try_from(number)?)?;
                }
                ("queues", None) => return Err(form("queues", "queues=N")),
                ("readonly", None) => set(&mut readonly, "readonly", ())?,
                ("readonly", Some(_)) => return Err(form("readonly", "without a value")),
                ("direct", None) => set(&mut direct, "direct", ())?,
                ("direct", Some(_)) => return Err(form("direct", "without a value")),
                ("", None) if text.is_empty() => return Err(DiskConfigError::NoPath),
                (_, None) if path.is_none() && key.contains(['.', '/']) => {
                    return Err(DiskConfigError::NoKey(key.to_owned()));
                }
                _ => return Err(DiskConfigError::UnknownKey(key.to_owned())),
            }
        }
        Ok(DiskConfig {
            path: path.ok_or(DiskConfigError::NoPath)?,
            readonly: readonly.is_some(),
            serial,
            direct: direct.is_some(),
            queues,
        })
    }
}

fn form(key: &'static str, form: &'static str) -> DiskConfigError {
    DiskConfigError::Form { key, form }
}

impl fmt::Display for DiskConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path.display().to_string();
        write!(f, "path={}", path.replace(',', ",,"))?;
        if self.readonly {
            f.write_str(",readonly")?;
        }
        if let Some(Serial(serial)) = &self.serial {
            write!(f, ",serial={}", serial.replace(',', ",,"))?;
        }
        if self.direct {
            f.write_str(",direct")?;
        }
        if let Some(Queues(queues)) = self.queues {
            write!(f, ",queues={queues}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn disks_are_read() {
        let plain: DiskConfig = "path=a.img".parse().unwrap();
        assert_eq!(plain, DiskConfig::new("a.img"));
        let all: DiskConfig = "readonly,queues=2,serial=s1,direct,path=a,,b=c"
            .parse()
            .unwrap();
        assert_eq!(all.path, PathBuf::from("a,b=c"));
        assert!(all.readonly && all.direct);
        assert_eq!(all.queues.map(u16::from), Some(2));
        assert_eq!(&all.serial.unwrap().bytes()[..3], b"s1\0");
    }

    #[test]
    fn what_is_no_disk_is_said_with_the_remedy() {
        for (text, said) in [
            ("", "needs path=FILE"),
            ("path=", "needs path=FILE"),
            ("readonly", "needs path=FILE"),
            ("a.img", "no key \"a.img\": did you mean path=a.img?"),
            ("path=a,b.img", "no key \"b.img\": there are path=FILE"),
            ("path=a,readonyl", "no key \"readonyl\""),
            (
                "path=a,readonly=on",
                "readonly of a disk is written without a value",
            ),
            ("path=a,serial", "serial=ID"),
            ("path=a,serial=123456789012345678901", "1 to 20 printable"),
            ("path=a,queues=0", "1 to 64"),
            ("path=a,queues=x", "\"x\" is no number of queues"),
            ("path=a,path=b", "path of a disk is there twice"),
            ("path=a,", "no key \"\""),
        ] {
            let error = text.parse::<DiskConfig>().unwrap_err().to_string();
            assert!(error.contains(said), "{text}: {error}");
        }
    }

    #[test]
    fn a_topology_says_the_same() {
        let disk: DiskConfig =
            toml::from_str("path = \"a\"\nreadonly = true\nserial = \"x\"").unwrap();
        assert_eq!(disk, "path=a,readonly,serial=x".parse().unwrap());
        assert!(toml::from_str::<DiskConfig>("path = \"a\"\nqueues = 65").is_err());
        assert!(toml::from_str::<DiskConfig>("path = \"a\"\nro = true").is_err());
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(
            path in "[a-z,=/ ]{1,20}",
            serial in proptest::option::of("[!-~]{1,20}"),
            queues in proptest::option::of(1..=MAX_QUEUES),
            readonly: bool,
            direct: bool,
        ) {
            let disk = DiskConfig {
                path: path.into(),
                readonly,
                serial: serial.map(|text| Serial::try_from(text).unwrap()),
                direct,
                queues: queues.map(|number| Queues::try_from(number).unwrap()),
            };
            prop_assert_eq!(&disk.to_string().parse::<DiskConfig>().unwrap(), &disk);
            let toml = toml::to_string(&disk).unwrap();
            prop_assert_eq!(toml::from_str::<DiskConfig>(&toml).unwrap(), disk);
        }

        #[test]
        fn no_text_panics(text: String) {
            let _ = text.parse::<DiskConfig>();
        }
    }
}
