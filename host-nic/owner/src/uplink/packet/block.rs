//! The packets of a block of the receive ring.

use std::mem::size_of;
use std::ptr;
use std::slice;

use linux_raw_sys::if_packet::{TP_STATUS_VLAN_TPID_VALID, TP_STATUS_VLAN_VALID, tpacket3_hdr};

use super::super::{MAX_FRAME, MIN_FRAME, checksum};
use super::segment::Segments;
use super::{BLOCK, VNET};

/// `VIRTIO_NET_HDR_F_NEEDS_CSUM`.
const NEEDS_CHECKSUM: u8 = 1;
/// EtherType of a VLAN tag when the kernel gives none (IEEE 802.1Q).
const TAG_TYPE: u16 = 0x8100;
const ADDRESSES: usize = 12;
/// Bytes of a VLAN tag.
pub(super) const TAG: usize = 4;

/// One packet of a block.
pub(super) struct Found<'a> {
    pub(super) content: Result<Content<'a>, Bad>,
    /// Distance to the next packet, 0 for none.
    pub(super) next: usize,
}

/// What a packet is.
#[derive(Debug)]
pub(super) enum Content<'a> {
    /// One frame.
    Whole(&'a [u8]),
    /// Several, each with this VLAN tag.
    Several(Segments<'a>, Option<[u8; TAG]>),
}

/// Why a packet is dropped.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Bad {
    TooLong,
    TooShort,
    Offload,
}

/// The packet at `offset` of a block, its checksum and VLAN tag completed.
///
/// # Safety
/// `block` is the first of [`BLOCK`] bytes that only this process accesses for as long as `'a`, and what
/// an earlier call for this packet returned is no longer used. (Only one that is cut may be met again:
/// the others are changed here.)
pub(super) unsafe fn packet<'a>(block: *mut u8, offset: usize) -> Option<Found<'a>> {
    let end = offset.checked_add(size_of::<tpacket3_hdr>())?;
    if end > BLOCK || !offset.is_multiple_of(align_of::<tpacket3_hdr>()) {
        return None;
    }
    // SAFETY: it lies in the block, aligned.
    let header = unsafe { ptr::read(block.add(offset).cast::<tpacket3_hdr>()) };
    let start = offset.checked_add(usize::from(header.tp_mac))?;
    let length = header.tp_snaplen as usize;
    if start.checked_add(length)? > BLOCK || start < end + VNET {
        return None;
    }
    // SAFETY: header and frame lie in the block, behind the packet's own header and apart from those
    // of other packets.
    let bytes = unsafe { slice::from_raw_parts_mut(block.add(start - VNET), VNET + length) };
    let content = if header.tp_len as usize > length {
        Err(Bad::TooLong)
    } else {
        // SAFETY: all members of the union have this form.
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
        finish(bytes, tag)
    };
    Some(Found {
        content,
        next: header.tp_next_offset as usize,
    })
}

/// The frame behind a `virtio_net_hdr`, as its sender would have sent it without offloads. `tag` is its
/// VLAN tag, if the kernel took it out.
fn finish(bytes: &mut [u8], tag: Option<[u8; TAG]>) -> Result<Content<'_>, Bad> {
    let header = *bytes.first_chunk::<VNET>().ok_or(Bad::TooShort)?;
    let [flags, gso, _, _, s0, s1, c0, c1, o0, o1] = header;
    let start = u16::from_ne_bytes([c0, c1]);
    let size = u16::from_ne_bytes([s0, s1]);
    let checksum = (flags & NEEDS_CHECKSUM != 0).then_some(start);
    if gso != 0 {
        let frame = bytes.get(VNET..).ok_or(Bad::TooShort)?;
        let segments = Segments::new(frame, gso, size, checksum).ok_or(Bad::Offload)?;
        return if segments.longest() + tag.map_or(0, |tag| tag.len()) > MAX_FRAME {
            Err(Bad::TooLong)
        } else {
            Ok(Content::Several(segments, tag))
        };
    }
    let frame = bytes.get_mut(VNET..).ok_or(Bad::TooShort)?;
    if frame.len() < MIN_FRAME {
        return Err(Bad::TooShort);
    }
    if frame.len() + tag.map_or(0, |tag| tag.len()) > MAX_FRAME {
        return Err(Bad::TooLong);
    }
    if let Some(start) = checksum {
        let offset = u16::from_ne_bytes([o0, o1]);
        if !checksum::complete(frame, usize::from(start), usize::from(offset)) {
            return Err(Bad::Offload);
        }
    }
    let frame = match tag {
        None => bytes.get(VNET..),
        Some(tag) => {
            let frame = bytes.get_mut(VNET - TAG..).ok_or(Bad::TooShort)?;
            insert_tag(frame, tag);
            Some(&*frame)
        }
    };
    frame.map(Content::Whole).ok_or(Bad::TooShort)
}

/// Puts a VLAN tag into a frame that lies four bytes behind the beginning of `bytes`.
pub(super) fn insert_tag(bytes: &mut [u8], tag: [u8; TAG]) {
    if bytes.len() >= ADDRESSES + TAG {
        bytes.copy_within(TAG..TAG + ADDRESSES, 0);
        if let Some(place) = bytes.get_mut(ADDRESSES..ADDRESSES + TAG) {
            place.copy_from_slice(&tag);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_header(header: [u8; VNET], frame: &[u8]) -> Vec<u8> {
        [&header[..], frame].concat()
    }

    #[test]
    fn a_stripped_tag_is_put_back() {
        let frame: Vec<u8> = (0..60).collect();
        let mut bytes = with_header([0; VNET], &frame);
        let tag = [0x88, 0xa8, 0xe1, 0x23];
        let Ok(Content::Whole(whole)) = finish(&mut bytes, Some(tag)) else {
            panic!("no whole frame");
        };
        assert_eq!(whole[..12], frame[..12]);
        assert_eq!(whole[12..16], tag);
        assert_eq!(whole[16..], frame[12..]);
    }

    #[test]
    fn lengths_are_bounded_with_the_tag() {
        for (length, tag, expected) in [
            (13, None, "short"),
            (14, None, "ok"),
            (MAX_FRAME, None, "ok"),
            (MAX_FRAME + 1, None, "long"),
            (MAX_FRAME - 4, Some([0x81, 0, 0, 1]), "ok"),
            (MAX_FRAME - 3, Some([0x81, 0, 0, 1]), "long"),
        ] {
            let mut bytes = with_header([0; VNET], &vec![1; length]);
            let found = match finish(&mut bytes, tag) {
                Ok(Content::Whole(_)) => "ok",
                Ok(Content::Several(..)) => "several",
                Err(Bad::TooLong) => "long",
                Err(Bad::TooShort) => "short",
                Err(Bad::Offload) => "offload",
            };
            assert_eq!(found, expected, "{length} {tag:?}");
        }
    }

    #[test]
    fn what_cannot_be_cut_is_dropped() {
        let mut header = [0; VNET];
        header[1] = 1;
        header[4] = 100;
        let mut bytes = with_header(header, &[0; 1000]);
        assert!(matches!(finish(&mut bytes, None), Err(Bad::Offload)));
    }

    #[test]
    fn a_checksum_outside_the_frame_drops_it() {
        let mut header = [0; VNET];
        header[0] = NEEDS_CHECKSUM;
        header[6..8].copy_from_slice(&59u16.to_ne_bytes());
        let mut bytes = with_header(header, &[0; 60]);
        assert!(matches!(finish(&mut bytes, None), Err(Bad::Offload)));
    }
}
