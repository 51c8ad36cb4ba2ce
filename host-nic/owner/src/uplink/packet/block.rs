//! The packets of a block of the receive ring.

use std::mem::size_of;
use std::ptr;
use std::slice;

use linux_raw_sys::if_packet::{TP_STATUS_VLAN_TPID_VALID, TP_STATUS_VLAN_VALID, tpacket3_hdr};
use postern_tap::{Unusable, virtio_net, work};

use crate::frame_port::Frame;

/// Size of a block in bytes.
pub(super) const BLOCK: usize = 256 << 10;

/// EtherType of a VLAN tag when the kernel gives none (IEEE 802.1Q).
const TAG_TYPE: u16 = 0x8100;
/// Size of the two addresses at the beginning of a frame, in bytes.
const ADDRESSES: usize = 12;
/// Size of a VLAN tag in bytes.
const TAG: usize = 4;

/// One packet of a block.
pub(super) struct Found<'a> {
    /// The frame, or why it is dropped.
    pub(super) frame: Result<Frame<'a>, Unusable>,
    /// Distance to the next packet in bytes, 0 for none.
    pub(super) next: usize,
}

/// The packet at `offset` of a block, with its VLAN tag put back.
///
/// # Safety
///
/// `block` is the first of [`BLOCK`] bytes that only this process accesses for as long as `'a`, and
/// no earlier call was for this packet.
pub(super) unsafe fn packet<'a>(block: *mut u8, offset: usize) -> Option<Found<'a>> {
    let end = offset.checked_add(size_of::<tpacket3_hdr>())?;
    if end > BLOCK || !offset.is_multiple_of(align_of::<tpacket3_hdr>()) {
        return None;
    }
    // SAFETY: it lies in the block, aligned.
    let header = unsafe { ptr::read(block.add(offset).cast::<tpacket3_hdr>()) };
    let start = offset.checked_add(usize::from(header.tp_mac))?;
    let length = header.tp_snaplen as usize;
    if start.checked_add(length)? > BLOCK || start < end + virtio_net::SIZE {
        return None;
    }
    let (start, length) = (start - virtio_net::SIZE, virtio_net::SIZE + length);
    // SAFETY: header and frame lie in the block, behind the packet's own header and apart from
    // those of other packets.
    let bytes = unsafe { slice::from_raw_parts_mut(block.add(start), length) };
    let frame = if header.tp_len > header.tp_snaplen {
        Err(Unusable::TooLong)
    } else {
        // SAFETY: the union has this one member, plain integers of which every value is valid.
        let variant = unsafe { header.__bindgen_anon_1.hv1 };
        let tag = (header.tp_status & TP_STATUS_VLAN_VALID != 0).then(|| {
            let given = header.tp_status & TP_STATUS_VLAN_TPID_VALID != 0;
            let kind = if given {
                variant.tp_vlan_tpid
            } else {
                TAG_TYPE
            };
            let [k0, k1] = kind.to_be_bytes();
            let [c0, c1] = (variant.tp_vlan_tci as u16).to_be_bytes();
            [k0, k1, c0, c1]
        });
        frame(bytes, tag)
    };
    Some(Found {
        frame,
        next: header.tp_next_offset as usize,
    })
}

/// The frame behind a `virtio_net_hdr`. `tag` is its VLAN tag, if the kernel took it out.
fn frame(bytes: &mut [u8], tag: Option<[u8; TAG]>) -> Result<Frame<'_>, Unusable> {
    let header = bytes.first_chunk().ok_or(Unusable::TooShort)?;
    let mut header = virtio_net::decode(*header);
    let mut start = virtio_net::SIZE;
    if let (Some(tag), true) = (tag, bytes.len() >= start + ADDRESSES) {
        // Into the place of the header, which has been read.
        bytes.copy_within(start..start + ADDRESSES, start - TAG);
        start -= TAG;
        if let Some(gap) = bytes.get_mut(start + ADDRESSES..start + ADDRESSES + TAG) {
            gap.copy_from_slice(&tag);
        }
        if header.flags != 0 {
            header.csum_start = header.csum_start.saturating_add(TAG as u16);
        }
    }
    let bytes = bytes.get_mut(start..).unwrap_or_default();
    // A frame without its tag is as short as one.
    let header = match tag {
        Some(_) if bytes.len() < postern_abi::window::MIN_FRAME as usize + TAG => {
            return Err(Unusable::TooShort);
        }
        _ => work::check(header, bytes)?,
    };
    Ok(Frame { header, bytes })
}

#[cfg(test)]
mod tests {
    use super::*;
    use postern_abi::window::{FLAG_NEEDS_CSUM, GSO_TCPV4, MAX_FRAME};

    fn with_header(header: [u8; virtio_net::SIZE], frame: &[u8]) -> Vec<u8> {
        [&header[..], frame].concat()
    }

    #[test]
    fn a_stripped_tag_is_put_back() {
        let original: Vec<u8> = (0..60).collect();
        let mut header = [0; virtio_net::SIZE];
        header[0] = FLAG_NEEDS_CSUM;
        header[6..8].copy_from_slice(&34u16.to_ne_bytes());
        header[8..].copy_from_slice(&6u16.to_ne_bytes());
        let tag = [0x88, 0xa8, 0xe1, 0x23];
        let mut bytes = with_header(header, &original);
        let found = frame(&mut bytes, Some(tag)).unwrap();
        assert_eq!(found.bytes[..12], original[..12]);
        assert_eq!(found.bytes[12..16], tag);
        assert_eq!(found.bytes[16..], original[12..]);
        let header = found.header;
        assert_eq!((header.csum_start, header.csum_offset), (38, 6));
    }

    #[test]
    fn lengths_are_bounded_with_the_tag() {
        const LONGEST: usize = MAX_FRAME as usize;
        for (length, tag, expected) in [
            (13, None, "short"),
            (14, None, "ok"),
            (13, Some([0x81, 0, 0, 1]), "short"),
            (14, Some([0x81, 0, 0, 1]), "ok"),
            (LONGEST, None, "ok"),
            (LONGEST + 1, None, "long"),
            (LONGEST - 4, Some([0x81, 0, 0, 1]), "ok"),
            (LONGEST - 3, Some([0x81, 0, 0, 1]), "long"),
        ] {
            let mut bytes = with_header([0; virtio_net::SIZE], &vec![1; length]);
            let found = match frame(&mut bytes, tag) {
                Ok(frame) if frame.header.gso_type == 0 => "ok",
                Ok(_) => "several",
                Err(Unusable::TooLong) => "long",
                Err(Unusable::TooShort) => "short",
                Err(Unusable::Offload) => "offload",
            };
            assert_eq!(found, expected, "{length} {tag:?}");
        }
    }

    #[test]
    fn what_cannot_be_cut_is_dropped() {
        let mut header = [0; virtio_net::SIZE];
        header[1] = GSO_TCPV4;
        header[4] = 100;
        let mut bytes = with_header(header, &[0; 1000]);
        assert_eq!(frame(&mut bytes, None), Err(Unusable::Offload));
    }

    #[test]
    fn a_checksum_outside_the_frame_drops_it() {
        let mut header = [0; virtio_net::SIZE];
        header[0] = FLAG_NEEDS_CSUM;
        header[6..8].copy_from_slice(&59u16.to_ne_bytes());
        let mut bytes = with_header(header, &[0; 60]);
        assert_eq!(frame(&mut bytes, None), Err(Unusable::Offload));
    }
}
