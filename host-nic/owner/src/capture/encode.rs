//! The encoder of a capture: writes records as pcapng or pcap into memory.
#![forbid(unsafe_code)]

use std::borrow::Cow;
use std::time::Duration;

use pcap_file::pcap::PcapHeader;
use pcap_file::pcapng::PcapNgWriter;
use pcap_file::pcapng::blocks::enhanced_packet::{EnhancedPacketBlock, EnhancedPacketOption};
use pcap_file::pcapng::blocks::interface_description::{
    InterfaceDescriptionBlock, InterfaceDescriptionOption,
};
use pcap_file::pcapng::blocks::interface_statistics::{
    InterfaceStatisticsBlock, InterfaceStatisticsOption,
};
use pcap_file::pcapng::blocks::section_header::{SectionHeaderBlock, SectionHeaderOption};
use pcap_file::{DataLink, Endianness, PcapError, TsResolution};

use super::queue::Record;
use postern_nic_client::control::Format;

/// `if_tsresol`: units of 10^-9 seconds.
const NANOSECONDS: u8 = 9;

/// Numbers of frames of an interface, for its statistics block.
#[derive(Clone, Copy, Debug)]
pub(super) struct InterfaceTotals {
    /// Time of the capture's beginning, in nanoseconds since the epoch.
    pub(super) start: u64,
    /// Time of the capture's end, in nanoseconds since the epoch.
    pub(super) end: u64,
    /// Frames that are in the file.
    pub(super) written: u64,
    /// Frames that did not get into the file.
    pub(super) lost: u64,
}

/// Writes records into memory, from where they are taken.
pub(super) enum Encoder {
    PcapNg(PcapNgWriter<Vec<u8>>, u32),
    Pcap(Vec<u8>),
}

impl Encoder {
    /// Begins with the header of the file. At most `snap` bytes of a frame will be in a record.
    pub(super) fn new(format: Format, snap: u32) -> Result<Encoder, PcapError> {
        let application = concat!("Postern ", env!("CARGO_PKG_VERSION"));
        Ok(match format {
            Format::PcapNg => {
                let section = SectionHeaderBlock {
                    endianness: Endianness::Little,
                    options: vec![SectionHeaderOption::UserApplication(application.into())],
                    ..SectionHeaderBlock::default()
                };
                let writer = PcapNgWriter::with_section_header(Vec::new(), section)?;
                Encoder::PcapNg(writer, snap)
            }
            Format::Pcap => {
                let header = PcapHeader {
                    snaplen: snap,
                    datalink: DataLink::ETHERNET,
                    ts_resolution: TsResolution::NanoSecond,
                    endianness: Endianness::Little,
                    ..PcapHeader::default()
                };
                let mut bytes = Vec::new();
                header.write_to(&mut bytes)?;
                Encoder::Pcap(bytes)
            }
        })
    }

    /// The bytes that were written and not yet cleared.
    pub(super) fn bytes(&self) -> &[u8] {
        match self {
            Encoder::PcapNg(writer, _) => writer.get_ref(),
            Encoder::Pcap(bytes) => bytes,
        }
    }

    pub(super) fn clear(&mut self) {
        match self {
            Encoder::PcapNg(writer, _) => writer.get_mut().clear(),
            Encoder::Pcap(bytes) => bytes.clear(),
        }
    }

    /// Describes the next interface. Nothing in pcap, which knows no interfaces.
    pub(super) fn interface(&mut self, name: &str) -> Result<(), PcapError> {
        let Encoder::PcapNg(writer, snap) = self else {
            return Ok(());
        };
        writer.write_pcapng_block(InterfaceDescriptionBlock {
            linktype: DataLink::ETHERNET,
            snaplen: *snap,
            options: vec![
                InterfaceDescriptionOption::IfName(Cow::Borrowed(name)),
                InterfaceDescriptionOption::IfTsResol(NANOSECONDS),
            ],
        })?;
        Ok(())
    }

    pub(super) fn record(&mut self, record: &Record<'_>) -> Result<(), PcapError> {
        match self {
            Encoder::PcapNg(writer, _) => {
                let options = match record.flags {
                    0 => vec![],
                    flags => vec![EnhancedPacketOption::Flags(flags)],
                };
                writer.write_pcapng_block(EnhancedPacketBlock {
                    interface_id: record.interface,
                    timestamp: Duration::from_nanos(record.time),
                    original_len: record.original,
                    data: Cow::Borrowed(record.data),
                    options,
                })?;
            }
            // The crate's writer of this format keeps its output to itself.
            Encoder::Pcap(bytes) => {
                let time = Duration::from_nanos(record.time);
                let seconds = u32::try_from(time.as_secs()).unwrap_or(u32::MAX);
                let captured = record.data.len() as u32;
                for word in [seconds, time.subsec_nanos(), captured, record.original] {
                    bytes.extend(word.to_le_bytes());
                }
                bytes.extend(record.data);
            }
        }
        Ok(())
    }

    /// The statistics of an interface, at the end. Nothing in pcap.
    pub(super) fn statistics(
        &mut self,
        interface: u32,
        seen: &InterfaceTotals,
    ) -> Result<(), PcapError> {
        let Encoder::PcapNg(writer, _) = self else {
            return Ok(());
        };
        writer.write_pcapng_block(InterfaceStatisticsBlock {
            interface_id: interface,
            timestamp: high_word_first(seen.end),
            options: vec![
                InterfaceStatisticsOption::IsbStartTime(high_word_first(seen.start)),
                InterfaceStatisticsOption::IsbEndTime(high_word_first(seen.end)),
                InterfaceStatisticsOption::IsbIfRecv(seen.written.saturating_add(seen.lost)),
                InterfaceStatisticsOption::IsbIfDrop(seen.lost),
                InterfaceStatisticsOption::IsbUsrDeliv(seen.written),
            ],
        })?;
        Ok(())
    }
}

/// The format has the upper half of a time first, in files of either byte order; the crate writes
/// one 64-bit number in the file's order, which in this one is little endian.
fn high_word_first(time: u64) -> u64 {
    time.rotate_left(32)
}
