//! ELF files made to order.

#![allow(dead_code, reason = "each test file uses its own part")]

/// One program header and its bytes.
#[derive(Clone, Debug)]
pub struct Segment {
    pub kind: u32,
    /// Guest-physical address.
    pub address: u64,
    /// What is added to it for the guest-virtual address.
    pub offset: u64,
    pub bytes: Vec<u8>,
    /// Bytes in memory; at least the bytes in the file, in a sane file.
    pub memory: u64,
}

/// An ELF64 file made to order.
#[derive(Clone, Debug)]
pub struct Elf {
    pub class: u8,
    pub data: u8,
    pub kind: u16,
    pub machine: u16,
    pub entry: u64,
    pub segments: Vec<Segment>,
}

pub const PT_LOAD: u32 = 1;
pub const PT_INTERP: u32 = 3;
pub const PT_NOTE: u32 = 4;

/// Offset of the first program header.
pub const PHOFF: usize = 64;
/// Size of a program header.
pub const PHSIZE: usize = 56;

impl Elf {
    /// A sane kernel with that code at 1 MiB, entered at its beginning.
    pub fn kernel(code: &[u8]) -> Elf {
        Elf {
            class: 2,
            data: 1,
            kind: 2,
            machine: 62,
            entry: 0x10_0000,
            segments: vec![Segment::load(0x10_0000, code)],
        }
    }

    /// The file's bytes: header, program headers, then the segments' bytes one after the other.
    pub fn bytes(&self) -> Vec<u8> {
        let mut file = vec![0x7f, b'E', b'L', b'F', self.class, self.data, 1];
        file.resize(16, 0);
        file.extend(self.kind.to_le_bytes());
        file.extend(self.machine.to_le_bytes());
        file.extend(1u32.to_le_bytes());
        file.extend(self.entry.to_le_bytes());
        file.extend((PHOFF as u64).to_le_bytes());
        file.extend(0u64.to_le_bytes());
        file.extend(0u32.to_le_bytes());
        for half in [64, PHSIZE as u16, self.segments.len() as u16, 64, 0, 0] {
            file.extend(half.to_le_bytes());
        }
        assert_eq!(file.len(), PHOFF);
        let mut offset = (PHOFF + PHSIZE * self.segments.len()) as u64;
        for segment in &self.segments {
            file.extend(segment.kind.to_le_bytes());
            file.extend(7u32.to_le_bytes());
            let size = segment.bytes.len() as u64;
            for word in [
                offset,
                segment.address.wrapping_add(segment.offset),
                segment.address,
                size,
                segment.memory,
                0,
            ] {
                file.extend(word.to_le_bytes());
            }
            offset += size;
        }
        for segment in &self.segments {
            file.extend(&segment.bytes);
        }
        file
    }
}

impl Segment {
    pub fn load(address: u64, bytes: &[u8]) -> Segment {
        Segment {
            kind: PT_LOAD,
            address,
            offset: 0,
            bytes: bytes.to_vec(),
            memory: bytes.len() as u64,
        }
    }

    /// A note of "Xen" with the PVH entry point.
    pub fn pvh_note(entry: u32) -> Segment {
        let mut bytes = Vec::new();
        for word in [4u32, 4, 18] {
            bytes.extend(word.to_le_bytes());
        }
        bytes.extend(b"Xen\0");
        bytes.extend(entry.to_le_bytes());
        let memory = bytes.len() as u64;
        Segment {
            kind: PT_NOTE,
            address: 0,
            offset: 0,
            bytes,
            memory,
        }
    }
}
