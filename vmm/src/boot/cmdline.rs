//! The command line in guest memory.
#![deny(unsafe_code)]

use vm_memory::{Bytes, GuestMemoryMmap};

use super::error::Error;
use crate::layout;

/// Writes the command line, NUL-terminated, to [`layout::CMDLINE`]. The kernel takes at most `max`
/// bytes without the NUL.
///
/// # Errors
///
/// When it has bytes other than printable ASCII, or too many, or RAM does not hold it.
pub fn write_cmdline(ram: &GuestMemoryMmap, cmdline: &str, max: usize) -> Result<(), Error> {
    let printable = |byte: u8| (b' '..=b'~').contains(&byte);
    if !cmdline.bytes().all(printable) {
        return Err(Error::CmdlineByte(cmdline.to_owned()));
    }
    let max = max.min(layout::CMDLINE_SIZE - 1);
    if cmdline.len() > max {
        return Err(Error::CmdlineTooLong {
            length: cmdline.len(),
            max,
        });
    }
    let mut bytes = cmdline.as_bytes().to_vec();
    bytes.push(0);
    ram.write_slice(&bytes, layout::CMDLINE)
        .map_err(|source| Error::Write {
            what: "command line",
            source,
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::reserve_ram;

    #[test]
    fn bad_command_lines() {
        let ram = reserve_ram(layout::MIN_RAM).unwrap();
        let room = layout::CMDLINE_SIZE - 1;
        let write = |cmdline: &str| write_cmdline(&ram, cmdline, usize::MAX);
        assert!(matches!(write("a\0b"), Err(Error::CmdlineByte(_))));
        assert!(matches!(write("a\nb"), Err(Error::CmdlineByte(_))));
        assert!(write(&"x".repeat(room)).is_ok());
        assert!(matches!(
            write(&"x".repeat(room + 1)),
            Err(Error::CmdlineTooLong {
                length: 4096,
                max: 4095
            })
        ));
        let error = write_cmdline(&ram, &"x".repeat(2048), 2047).unwrap_err();
        assert!(error.to_string().contains("at most 2047"), "{error}");
    }

    #[test]
    fn a_shorter_one_replaces_a_longer_one() {
        let ram = reserve_ram(layout::MIN_RAM).unwrap();
        write_cmdline(&ram, "root=/dev/vda quiet", 2047).unwrap();
        write_cmdline(&ram, "quiet", 2047).unwrap();
        let mut found = [0xff; 6];
        ram.read_slice(&mut found, layout::CMDLINE).unwrap();
        assert_eq!(&found, b"quiet\0");
    }
}
