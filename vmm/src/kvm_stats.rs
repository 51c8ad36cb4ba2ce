//! KVM's own statistics of a VM and its vCPUs: exits by reason, interrupts, halts.
//!
//! They come from the files that `KVM_GET_STATS_FD` returns (Linux: "The Definitive KVM API
//! Documentation", section "KVM_GET_STATS_FD"). The file begins with a header and a list of
//! descriptors, which are read once; a snapshot is then one read of the data block.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::fs::FileExt;

use kvm_bindings::kvm_stats_header;
use serde_json::{Map, Value};
use vmm_sys_util::ioctl::ioctl;

/// The ioctl's number; the crate kvm-ioctls does not have it.
mod number {
    use kvm_bindings::KVMIO;
    use vmm_sys_util::ioctl_io_nr;

    ioctl_io_nr!(KVM_GET_STATS_FD, KVMIO, 0xce);
}

/// Why statistics cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// KVM has no such file.
    #[error("KVM_GET_STATS_FD of {of} failed: KVM's binary statistics need Linux 5.14 or later")]
    Open {
        /// VM or vCPU.
        of: &'static str,
        /// The system's error.
        source: io::Error,
    },
    /// The file cannot be read.
    #[error("cannot read the statistics of {of}")]
    Read {
        /// VM or vCPU.
        of: &'static str,
        /// The system's error.
        source: io::Error,
    },
    /// The file contradicts itself.
    #[error("the statistics of {of} are malformed: {what}")]
    Malformed {
        /// VM or vCPU.
        of: &'static str,
        /// The contradiction, in words.
        what: String,
    },
}

/// One statistic: a name, and where its values are in the data block.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    name: String,
    first: usize,
    count: usize,
}

/// The names of the statistics in a file, and their places.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatsLayout {
    data_offset: u64,
    words: usize,
    entries: Vec<Entry>,
}

/// Bounds of what is believed of a header; KVM has about 70 statistics with names of 48 bytes.
const MAX_DESCRIPTORS: u32 = 4096;
pub(crate) const MAX_NAME: u32 = 256;
const MAX_WORDS: usize = 1 << 16;

/// Bytes of a header.
pub const HEADER_SIZE: usize = size_of::<kvm_stats_header>();

/// Bytes of a descriptor before its name.
const DESCRIPTOR_SIZE: usize = 16;

/// The header of a file of statistics: number, size and place of the descriptors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StatsHeader {
    name_size: usize,
    descriptors: usize,
    descriptors_offset: u64,
    data_offset: u64,
}

impl StatsHeader {
    /// Takes a header apart; nothing if its numbers are beyond all reason.
    pub fn parse(bytes: &[u8; HEADER_SIZE]) -> Option<StatsHeader> {
        let field = |index: usize| u32_at(bytes, index * 4);
        let (name_size, descriptors) = (field(1)?, field(2)?);
        if name_size == 0 || name_size > MAX_NAME || descriptors > MAX_DESCRIPTORS {
            return None;
        }
        Some(StatsHeader {
            name_size: name_size as usize,
            descriptors: descriptors as usize,
            descriptors_offset: u64::from(field(4)?),
            data_offset: u64::from(field(5)?),
        })
    }

    /// Size in bytes of all descriptors.
    pub fn descriptors_size(&self) -> usize {
        self.descriptors * (DESCRIPTOR_SIZE + self.name_size)
    }
}

impl StatsLayout {
    /// Takes the descriptors apart, [`StatsHeader::descriptors_size`] bytes.
    ///
    /// # Errors
    ///
    /// What is malformed, in words.
    pub fn parse(header: &StatsHeader, descriptors: &[u8]) -> Result<StatsLayout, String> {
        let stride = DESCRIPTOR_SIZE + header.name_size;
        if descriptors.len() != header.descriptors_size() {
            return Err(format!(
                "{} bytes of descriptors, not {}",
                descriptors.len(),
                header.descriptors_size()
            ));
        }
        let mut entries = Vec::with_capacity(header.descriptors);
        let mut words = 0;
        for descriptor in descriptors.chunks_exact(stride) {
            let (fixed, name) = descriptor.split_at(DESCRIPTOR_SIZE);
            let count = usize::from(u16::from_ne_bytes([fixed[6], fixed[7]]));
            let offset = u32_at(fixed, 8).map_or(0, |offset| offset as usize);
            let name = name.split(|&byte| byte == 0).next().unwrap_or_default();
            let name = String::from_utf8_lossy(name).into_owned();
            if !offset.is_multiple_of(8) || offset / 8 + count > MAX_WORDS {
                return Err(format!("{name} has {count} values at {offset:#x}"));
            }
            let first = offset / 8;
            words = words.max(first + count);
            entries.push(Entry { name, first, count });
        }
        Ok(StatsLayout {
            data_offset: header.data_offset,
            words,
            entries,
        })
    }

    /// Number of 64-bit words in a snapshot.
    pub fn words(&self) -> usize {
        self.words
    }

    /// A snapshot by names: a number, or a list of numbers where the statistic is a histogram.
    pub fn named(&self, snapshot: &[u64]) -> Map<String, Value> {
        let value = |entry: &Entry| match snapshot.get(entry.first..entry.first + entry.count) {
            Some([one]) => Value::from(*one),
            Some(many) => Value::from(many),
            None => Value::Null,
        };
        self.entries
            .iter()
            .map(|entry| (entry.name.clone(), value(entry)))
            .collect()
    }
}

fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    let field = bytes.get(offset..offset + 4)?;
    Some(u32::from_ne_bytes(field.try_into().ok()?))
}

/// The statistics file of a VM or vCPU.
#[derive(Debug)]
pub struct KvmStats {
    of: &'static str,
    file: File,
    layout: StatsLayout,
}

impl KvmStats {
    /// Opens the statistics of a VM or vCPU fd.
    ///
    /// # Errors
    ///
    /// When KVM has none, or they are malformed.
    pub fn open(of: &'static str, fd: &impl AsRawFd) -> Result<KvmStats, Error> {
        // SAFETY: the ioctl takes no argument and returns a new file descriptor.
        let raw = unsafe { ioctl(fd, number::KVM_GET_STATS_FD()) };
        if raw < 0 {
            let source = io::Error::last_os_error();
            return Err(Error::Open { of, source });
        }
        // SAFETY: the kernel has just made this descriptor for us; nobody else has it.
        let file = unsafe { File::from_raw_fd(raw) };
        let read = |source| Error::Read { of, source };
        let malformed = |what| Error::Malformed { of, what };

        let mut header = [0; HEADER_SIZE];
        file.read_exact_at(&mut header, 0).map_err(read)?;
        let header = StatsHeader::parse(&header)
            .ok_or_else(|| malformed(format!("a header with the bytes {header:x?}")))?;
        let mut descriptors = vec![0; header.descriptors_size()];
        file.read_exact_at(&mut descriptors, header.descriptors_offset)
            .map_err(read)?;
        let layout = StatsLayout::parse(&header, &descriptors).map_err(malformed)?;
        Ok(KvmStats { of, file, layout })
    }

    /// Which statistics there are.
    pub fn layout(&self) -> &StatsLayout {
        &self.layout
    }

    /// Takes a snapshot, [`StatsLayout::words`] long, without an allocation: one system call.
    ///
    /// # Errors
    ///
    /// When the file cannot be read.
    pub fn snapshot(&self, words: &mut [u64]) -> Result<(), Error> {
        // SAFETY: any bytes make a u64, and the new slice has the length of the old one in bytes.
        let bytes = unsafe {
            std::slice::from_raw_parts_mut(words.as_mut_ptr().cast::<u8>(), size_of_val(words))
        };
        self.file
            .read_exact_at(bytes, self.layout.data_offset)
            .map_err(|source| Error::Read {
                of: self.of,
                source,
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NAME: usize = 48;

    fn header(count: u32) -> [u8; HEADER_SIZE] {
        let fields = [0, NAME as u32, count, 24, 64, 4096];
        let mut bytes = [0; HEADER_SIZE];
        for (chunk, field) in bytes.chunks_exact_mut(4).zip(fields) {
            chunk.copy_from_slice(&u32::to_ne_bytes(field));
        }
        bytes
    }

    fn descriptor(name: &str, count: u16, offset: u32) -> Vec<u8> {
        let mut bytes = vec![0; DESCRIPTOR_SIZE + NAME];
        bytes[6..8].copy_from_slice(&count.to_ne_bytes());
        bytes[8..12].copy_from_slice(&offset.to_ne_bytes());
        bytes[16..16 + name.len()].copy_from_slice(name.as_bytes());
        bytes
    }

    #[test]
    fn names_and_values_meet() {
        let header = StatsHeader::parse(&header(3)).unwrap();
        let blob: Vec<u8> = [
            descriptor("exits", 1, 0),
            descriptor("halt_poll_hist", 3, 16),
            descriptor("irq_exits", 1, 8),
        ]
        .concat();
        assert_eq!(blob.len(), header.descriptors_size());
        let layout = StatsLayout::parse(&header, &blob).unwrap();
        assert_eq!(layout.words(), 5);
        assert_eq!(layout.data_offset, 4096);
        let named = layout.named(&[100, 7, 1, 2, 3]);
        assert_eq!(named["exits"], 100);
        assert_eq!(named["irq_exits"], 7);
        assert_eq!(named["halt_poll_hist"], serde_json::json!([1, 2, 3]));
    }

    #[test]
    fn nonsense_is_refused() {
        let sane = StatsHeader::parse(&header(1)).unwrap();
        assert!(StatsLayout::parse(&sane, &descriptor("odd", 1, 4)).is_err());
        assert!(StatsLayout::parse(&sane, &descriptor("far", 1, u32::MAX - 7)).is_err());
        assert!(StatsLayout::parse(&sane, &[0; 10]).is_err());
        assert!(StatsHeader::parse(&header(u32::MAX)).is_none());
        let mut nameless = header(1);
        nameless[4..8].fill(0);
        assert!(StatsHeader::parse(&nameless).is_none());
    }

    proptest! {
        #[test]
        fn no_blob_breaks_the_parser(bytes: [u8; HEADER_SIZE], seed: u8) {
            if let Some(header) = StatsHeader::parse(&bytes) {
                let blob = vec![seed; header.descriptors_size()];
                if let Ok(layout) = StatsLayout::parse(&header, &blob) {
                    layout.named(&[]);
                }
            }
        }
    }

    #[test]
    fn statistics_of_a_real_vm() {
        let kvm = match kvm_ioctls::Kvm::new() {
            Ok(kvm) => kvm,
            Err(error) => return println!("SKIP: /dev/kvm cannot be opened: {error}"),
        };
        let vm = kvm.create_vm().unwrap();
        let statistics = match KvmStats::open("VM", &vm) {
            Ok(statistics) => statistics,
            Err(error) => return println!("SKIP: {error}"),
        };
        let mut words = vec![u64::MAX; statistics.layout().words()];
        statistics.snapshot(&mut words).unwrap();
        let named = statistics.layout().named(&words);
        assert!(named.contains_key("remote_tlb_flush"), "{named:?}");
    }
}
