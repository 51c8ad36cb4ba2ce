//! The NIC port of a VM, as the VMM describes it to the guest: the value of the command-line word
//! [`CMDLINE_NIC`], written by [`Attachment`]'s `Display` and read by
//! [`Attachment::parse`].
#![forbid(unsafe_code)]

use core::fmt;

use crate::machine::{CMDLINE_NIC, Path};
use crate::window::PortId;

/// The NIC port of a VM.
///
/// ```
/// use postern_abi::attachment::Attachment;
/// use postern_abi::machine::Path;
///
/// let attachment = Attachment::parse("elisa,3,0xc0000000,0x100000")?;
/// assert_eq!(attachment.path, Path::Elisa);
/// assert_eq!(attachment.size, 1 << 20);
/// assert_eq!(attachment.to_string(), "elisa,3,0xc0000000,0x100000");
/// # Ok::<(), postern_abi::attachment::AttachmentError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attachment {
    /// The path that requests take to the data plane.
    pub path: Path,
    /// The port.
    pub port: PortId,
    /// Guest-physical address of the port's window or, on [`Path::Direct`], of the NIC's memory.
    pub gpa: u64,
    /// Size of the memory at that address, in bytes.
    pub size: u64,
}

impl Attachment {
    /// Parses `PATH,PORT,GPA,SIZE`, the last two in hexadecimal with 0x.
    ///
    /// # Errors
    ///
    /// The first part that is missing, unknown or not a number.
    pub fn parse(value: &str) -> Result<Attachment, AttachmentError<'_>> {
        let mut parts = value.split(',');
        let mut part = |name| parts.next().ok_or(AttachmentError::Missing(name));
        let (path, port) = (part("path")?, part("port")?);
        let (gpa, size) = (part("address")?, part("size")?);
        if let Some(more) = parts.next() {
            return Err(AttachmentError::More(more));
        }
        Ok(Attachment {
            path: Path::from_name(path).ok_or(AttachmentError::Path(path))?,
            port: decimal(port)
                .and_then(PortId::new)
                .ok_or(AttachmentError::Port(port))?,
            gpa: hexadecimal(gpa).ok_or(AttachmentError::Number(gpa))?,
            size: hexadecimal(size).ok_or(AttachmentError::Number(size))?,
        })
    }
}

impl fmt::Display for Attachment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Attachment {
            path,
            port,
            gpa,
            size,
        } = self;
        write!(f, "{},{port},{gpa:#x},{size:#x}", path.name())
    }
}

/// A number of decimal digits alone: `str::parse` takes a sign, too.
fn decimal(text: &str) -> Option<u32> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten()
}

/// A number of hexadecimal digits behind `0x`, with no sign.
fn hexadecimal(text: &str) -> Option<u64> {
    let text = text.strip_prefix("0x")?;
    let digits = text.bytes().all(|byte| byte.is_ascii_hexdigit());
    digits.then(|| u64::from_str_radix(text, 16).ok()).flatten()
}

/// A description of a port that [`Attachment::parse`] refuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttachmentError<'a> {
    /// The part of this name is missing.
    Missing(&'static str),
    /// This follows the last part.
    More(&'a str),
    /// No [`Path`] has this name.
    Path(&'a str),
    /// This is no decimal number, or no NIC has a port of this number.
    Port(&'a str),
    /// This is no hexadecimal number with 0x.
    Number(&'a str),
}

impl fmt::Display for AttachmentError<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{CMDLINE_NIC}PATH,PORT,ADDRESS,SIZE: ")?;
        match self {
            AttachmentError::Missing(part) => write!(f, "the {part} is missing"),
            AttachmentError::More(text) => write!(f, "'{text}' after the size"),
            AttachmentError::Path(text) => write!(f, "there is no path '{text}'"),
            AttachmentError::Port(text) => write!(f, "there is no port '{text}'"),
            AttachmentError::Number(text) => {
                write!(
                    f,
                    "'{text}' is not a hexadecimal number that begins with 0x"
                )
            }
        }
    }
}

impl core::error::Error for AttachmentError<'_> {}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn each_path_is_known() {
        for path in Path::ALL {
            let word = format!("{},3,0xc0000000,0x100000", path.name());
            assert_eq!(
                Attachment::parse(&word),
                Ok(Attachment {
                    path,
                    port: PortId::new(3).unwrap(),
                    gpa: 0xc000_0000,
                    size: 0x10_0000,
                })
            );
        }
    }

    #[test]
    fn says_what_is_wrong() {
        use AttachmentError::*;
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
            assert_eq!(Attachment::parse(value), Err(error), "{value}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(path in 0..Path::ALL.len(), port: u8, gpa: u64, size: u64) {
            let attachment = Attachment {
                path: Path::ALL[path],
                port: PortId::from_number(port),
                gpa,
                size,
            };
            let word = attachment.to_string();
            prop_assert_eq!(Attachment::parse(&word), Ok(attachment));
        }

        #[test]
        fn any_text_is_parsed_or_refused(value in "[elisadrct,0-9xaf-]{0,40}") {
            if let Ok(attachment) = Attachment::parse(&value) {
                prop_assert!(value.starts_with(attachment.path.name()));
            }
        }
    }
}
