//! The port by which a guest writes bytes to a file of the host.
#![deny(unsafe_code)]

use std::fmt;
use std::io::{self, Write};

use postern_abi::platform;
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap};

use super::bus::{DeviceError, Effect, PioDevice, word};

/// [`platform::PORT_OUTBOX`]: a 32-bit write names a [`platform::Outbox`] in RAM; the bytes that it
/// names, in RAM too, are appended to the file.
///
/// All of it is the guest's: the descriptor is read once, the range checked, and the bytes go to
/// the file as they are when they are copied. A request that names anything but RAM, or comes
/// without a file, is refused and counted.
pub struct Outbox {
    ram: GuestMemoryMmap,
    file: Option<Box<dyn Write + Send>>,
    refused: u64,
}

/// Most bytes that are copied at once.
const CHUNK: usize = 64 << 10;

impl fmt::Debug for Outbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outbox")
            .field("refused", &self.refused)
            .finish_non_exhaustive()
    }
}

impl Outbox {
    /// An outbox of a VM with this RAM; without a file it refuses everything.
    pub fn new(ram: GuestMemoryMmap, file: Option<Box<dyn Write + Send>>) -> Outbox {
        Outbox {
            ram,
            file,
            refused: 0,
        }
    }

    /// How many requests were refused.
    pub fn refused(&self) -> u64 {
        self.refused
    }

    fn descriptor(&self, address: u32) -> Option<platform::Outbox> {
        let read = |offset: u64| {
            self.ram
                .read_obj::<u64>(GuestAddress(u64::from(address) + offset))
                .ok()
        };
        Some(platform::Outbox {
            gpa: read(std::mem::offset_of!(platform::Outbox, gpa) as u64)?,
            len: read(std::mem::offset_of!(platform::Outbox, len) as u64)?,
        })
    }

    fn append(&mut self, address: u32) -> Option<io::Result<()>> {
        let found = self.descriptor(address)?;
        let start = GuestAddress(found.gpa);
        let length = usize::try_from(found.len).ok()?;
        if !self.ram.check_range(start, length) {
            return None;
        }
        let file = self.file.as_mut()?;
        Some(copy(&self.ram, start, length, file))
    }
}

/// Appends a range of RAM to a file.
fn copy(
    ram: &GuestMemoryMmap,
    start: GuestAddress,
    length: usize,
    file: &mut dyn Write,
) -> io::Result<()> {
    let mut bytes = vec![0; length.min(CHUNK)];
    let mut done = 0;
    while done < length {
        let part = &mut bytes[..CHUNK.min(length - done)];
        let from = GuestAddress(start.0 + done as u64);
        ram.read_slice(part, from).map_err(io::Error::other)?;
        file.write_all(part)?;
        done += part.len();
    }
    Ok(())
}

impl PioDevice for Outbox {
    fn write(&mut self, offset: u16, data: &[u8]) -> Effect {
        match word(offset, data).and_then(|address| self.append(address)) {
            Some(Ok(())) => Effect::Continue,
            Some(Err(source)) => Effect::Fail(DeviceError {
                what: "write the VM's outbox file",
                source,
            }),
            None => {
                self.refused += 1;
                Effect::Continue
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::reserve_ram;
    use std::fs::File;
    use std::io::{Read, Seek};

    const RAM: u64 = 4 << 20;
    const DESCRIPTOR: u64 = 0x20_0000;

    fn outbox() -> (Outbox, GuestMemoryMmap, File) {
        let ram = reserve_ram(RAM).unwrap();
        let file = tempfile::tempfile().unwrap();
        let copy = file.try_clone().unwrap();
        (Outbox::new(ram.clone(), Some(Box::new(file))), ram, copy)
    }

    fn describe(ram: &GuestMemoryMmap, gpa: u64, len: u64) {
        ram.write_obj(gpa, GuestAddress(DESCRIPTOR)).unwrap();
        ram.write_obj(len, GuestAddress(DESCRIPTOR + 8)).unwrap();
    }

    #[test]
    fn bytes_are_appended() {
        let (mut outbox, ram, mut file) = outbox();
        ram.write_slice(b"first second", GuestAddress(0x30_0000))
            .unwrap();
        for (gpa, len) in [(0x30_0000, 6), (0x30_0006, 6), (0, 0)] {
            describe(&ram, gpa, len);
            let effect = outbox.write(0, &(DESCRIPTOR as u32).to_le_bytes());
            assert!(matches!(effect, Effect::Continue));
        }
        let mut text = String::new();
        file.rewind().unwrap();
        file.read_to_string(&mut text).unwrap();
        assert_eq!((text.as_str(), outbox.refused()), ("first second", 0));
    }

    #[test]
    fn anything_but_ram_is_refused() {
        let (mut outbox, ram, file) = outbox();
        let hostile = [
            (0, RAM + 1),
            (RAM - 1, 2),
            (u64::MAX, 1),
            (1, u64::MAX),
            (platform::NIC_GPA, 64),
        ];
        for (gpa, len) in hostile {
            describe(&ram, gpa, len);
            outbox.write(0, &(DESCRIPTOR as u32).to_le_bytes());
        }
        outbox.write(0, &(RAM as u32 - 8).to_le_bytes());
        outbox.write(0, &u32::MAX.to_le_bytes());
        outbox.write(0, &[1, 2]);
        assert_eq!(outbox.refused(), hostile.len() as u64 + 3);
        assert_eq!(file.metadata().unwrap().len(), 0);
    }

    #[test]
    fn without_a_file_everything_is_refused() {
        let ram = reserve_ram(RAM).unwrap();
        let mut outbox = Outbox::new(ram.clone(), None);
        describe(&ram, 0x30_0000, 1);
        outbox.write(0, &(DESCRIPTOR as u32).to_le_bytes());
        assert_eq!(outbox.refused(), 1);
    }
}
