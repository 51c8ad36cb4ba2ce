//! The word on a guest's kernel command line that describes the VM's NIC port:
//! `postern.nic=PATH,PORT,GPA,SIZE`.
//!
//! | part | what it is | written as |
//! | --- | --- | --- |
//! | `PATH` | how requests reach the data plane | name of a [`Path`] |
//! | `PORT` | number of the port | decimal |
//! | `GPA` | guest-physical address of what the guest sees of the NIC's memory | hexadecimal, 0x |
//! | `SIZE` | bytes there | hexadecimal, 0x |
//!
//! The VMM writes the word ([`PortWord`] as text), and the guest reads it ([`PortWord::parse`]).
#![deny(unsafe_code)]

use core::fmt;

use crate::machine::{CMDLINE_NIC, Path};
use crate::window::PortId;

/// One NIC port of a VM, as the command line describes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortWord {
    /// How requests reach the data plane.
    pub path: Path,
    /// The port.
    pub port: PortId,
    /// Guest-physical address of the port's window or, on [`Path::Direct`], of the NIC's memory.
    pub gpa: u64,
    /// Bytes there.
    pub size: u64,
}

impl fmt::Display for PortWord {
    /// Writes the word as it is on the command line, the key included.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (path, port) = (self.path.name(), self.port.number());
        let PortWord { gpa, size, .. } = self;
        write!(f, "{CMDLINE_NIC}{path},{port},{gpa:#x},{size:#x}")
    }
}

impl PortWord {
    /// Reads the word as it is on the command line, the key included.
    ///
    /// # Errors
    ///
    /// The first part that is not as it should be.
    pub fn parse(word: &str) -> Result<PortWord, PortWordError<'_>> {
        let value = word
            .strip_prefix(CMDLINE_NIC)
            .ok_or(PortWordError::Key(word))?;
        let mut parts = value.split(',');
        let mut part = |name| parts.next().ok_or(PortWordError::Missing(name));
        let (path, port) = (part("path")?, part("port")?);
        let (gpa, size) = (part("address")?, part("size")?);
        if let Some(more) = parts.next() {
            return Err(PortWordError::More(more));
        }
        Ok(PortWord {
            path: Path::from_name(path).ok_or(PortWordError::Path(path))?,
            port: decimal(port)
                .and_then(PortId::new)
                .ok_or(PortWordError::Port(port))?,
            gpa: hexadecimal(gpa).ok_or(PortWordError::Number(gpa))?,
            size: hexadecimal(size).ok_or(PortWordError::Number(size))?,
        })
    }
}

/// Digits alone: `from_str_radix` takes a sign, too.
fn decimal(text: &str) -> Option<u32> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten()
}

fn hexadecimal(text: &str) -> Option<u64> {
    let text = text.strip_prefix("0x")?;
    let digits = text.bytes().all(|byte| byte.is_ascii_hexdigit());
    digits.then(|| u64::from_str_radix(text, 16).ok()).flatten()
}

/// Why a word does not describe a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PortWordError<'a> {
    /// The word begins with another key.
    Key(&'a str),
    /// This part is missing.
    Missing(&'static str),
    /// Something follows the last part.
    More(&'a str),
    /// No such path.
    Path(&'a str),
    /// No NIC has that port.
    Port(&'a str),
    /// No hexadecimal number with 0x.
    Number(&'a str),
}

impl fmt::Display for PortWordError<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{CMDLINE_NIC}PATH,PORT,ADDRESS,SIZE: ")?;
        match self {
            PortWordError::Key(word) => write!(f, "'{word}' begins with another key"),
            PortWordError::Missing(part) => write!(f, "the {part} is missing"),
            PortWordError::More(text) => write!(f, "'{text}' after the size"),
            PortWordError::Path(text) => write!(f, "there is no path '{text}'"),
            PortWordError::Port(text) => write!(f, "there is no port '{text}'"),
            PortWordError::Number(text) => {
                write!(
                    f,
                    "'{text}' is not a hexadecimal number that begins with 0x"
                )
            }
        }
    }
}

impl core::error::Error for PortWordError<'_> {}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn each_path_is_known() {
        for path in Path::ALL {
            let word = format!("postern.nic={},3,0xc0000000,0x100000", path.name());
            let port = PortWord {
                path,
                port: PortId::new(3).unwrap(),
                gpa: 0xc000_0000,
                size: 0x10_0000,
            };
            assert_eq!(PortWord::parse(&word), Ok(port));
            assert_eq!(port.to_string(), word);
        }
    }

    #[test]
    fn says_what_is_wrong() {
        use PortWordError::*;
        for (value, error) in [
            ("", Missing("port")),
            ("elisa,1,0x0", Missing("size")),
            ("elisa,1,0x0,0x1,", More("")),
            ("Elisa,1,0x0,0x1", Path("Elisa")),
            ("elisa,+1,0x0,0x1", Port("+1")),
            ("elisa,256,0x0,0x1", Port("256")),
            ("elisa,,0x0,0x1", Port("")),
            ("elisa,1,0,0x1", Number("0")),
            ("elisa,1,0x,0x1", Number("0x")),
            ("elisa,1,0x0,0x-1", Number("0x-1")),
            (
                "elisa,1,0x0,0x10000000000000000",
                Number("0x10000000000000000"),
            ),
        ] {
            let word = format!("{CMDLINE_NIC}{value}");
            assert_eq!(PortWord::parse(&word), Err(error), "{word}");
        }
        for word in ["", "elisa,1,0x0,0x1", "postern.nic", "nic=elisa,1,0x0,0x1"] {
            assert_eq!(PortWord::parse(word), Err(Key(word)));
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(path in 0..Path::ALL.len(), port: u8, gpa: u64, size: u64) {
            let port = PortWord {
                path: Path::ALL[path],
                port: PortId::from_number(port),
                gpa,
                size,
            };
            let word = port.to_string();
            prop_assert_eq!(PortWord::parse(&word), Ok(port));
        }

        #[test]
        fn any_text_is_parsed_or_refused(value in "[elisadrct,0-9xaf-]{0,40}") {
            let word = format!("{CMDLINE_NIC}{value}");
            if let Ok(port) = PortWord::parse(&word) {
                prop_assert!(value.starts_with(port.path.name()));
            }
        }
    }
}
