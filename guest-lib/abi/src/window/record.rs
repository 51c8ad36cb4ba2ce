//! Records: the units that rings hold, and the words that say how far a lane is filled.

/// Size of a [`RecordHeader`] and alignment of records, in bytes.
pub const RECORD_ALIGN: u32 = 16;

/// [`RecordHeader::kind`]: a frame.
pub const KIND_FRAME: u16 = 0;
/// [`RecordHeader::kind`]: padding; the next record is at the beginning of the ring. The other
/// fields of the header mean nothing.
pub const KIND_PAD: u16 = 1;

/// [`RecordHeader::flags`]: the checksum is to be completed at `csum_start + csum_offset`
/// (virtio 1.2, "Device Types: Network Device", VIRTIO_NET_HDR_F_NEEDS_CSUM).
pub const FLAG_NEEDS_CSUM: u8 = 1;
/// [`RecordHeader::gso_type`]: an ordinary frame.
pub const GSO_NONE: u8 = 0;
/// [`RecordHeader::gso_type`]: a large segment of TCP over IPv4.
pub const GSO_TCPV4: u8 = 1;
/// [`RecordHeader::gso_type`]: a large segment of TCP over IPv6.
pub const GSO_TCPV6: u8 = 4;
/// [`RecordHeader::gso_type`]: several UDP datagrams.
pub const GSO_UDP_L4: u8 = 5;
/// [`RecordHeader::gso_type`], added to one of TCP: the segment has CWR set.
pub const GSO_ECN: u8 = 0x80;

/// Feature of a port: its guest accepts frames whose checksum is not complete.
pub const FEATURE_CSUM: u32 = 1 << 0;
/// Feature of a port: its guest accepts large segments of TCP over IPv4.
pub const FEATURE_TSO4: u32 = 1 << 1;
/// Feature of a port: its guest accepts large segments of TCP over IPv6.
pub const FEATURE_TSO6: u32 = 1 << 2;
/// Feature of a port: its guest accepts large segments of UDP.
pub const FEATURE_USO: u32 = 1 << 3;
/// All features. Each of the large segments includes [`FEATURE_CSUM`].
pub const FEATURES: u32 = FEATURE_CSUM | FEATURE_TSO4 | FEATURE_TSO6 | FEATURE_USO;

/// The header of a record. All fields but `length` are zero for an ordinary frame; otherwise they
/// mean what they mean in `struct virtio_net_hdr`.
#[repr(C, align(16))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RecordHeader {
    /// Length of the frame, in bytes.
    pub length: u32,
    /// [`FLAG_NEEDS_CSUM`] or none.
    pub flags: u8,
    /// [`GSO_NONE`], or the kind of large segment: another `GSO_` constant.
    pub gso_type: u8,
    /// Length of all headers of a large segment, in bytes; a hint.
    pub hdr_len: u16,
    /// Payload of each segment that a large segment is cut into, in bytes.
    pub gso_size: u16,
    /// Offset in the frame of the part that the checksum covers, in bytes.
    pub csum_start: u16,
    /// Offset of the checksum in that part, in bytes.
    pub csum_offset: u16,
    /// [`KIND_FRAME`] or [`KIND_PAD`].
    pub kind: u16,
}

const _: () = assert!(size_of::<RecordHeader>() == RECORD_ALIGN as usize);

impl RecordHeader {
    /// The header of an ordinary frame.
    pub const fn plain(length: u32) -> RecordHeader {
        RecordHeader::from_words(length as u64, 0)
    }

    /// The two 64-bit words that a ring holds for this header.
    pub const fn words(self) -> (u64, u64) {
        (
            self.length as u64
                | (self.flags as u64) << 32
                | (self.gso_type as u64) << 40
                | (self.hdr_len as u64) << 48,
            self.gso_size as u64
                | (self.csum_start as u64) << 16
                | (self.csum_offset as u64) << 32
                | (self.kind as u64) << 48,
        )
    }

    /// The header that two 64-bit words of a ring hold.
    pub const fn from_words(first: u64, second: u64) -> RecordHeader {
        RecordHeader {
            length: first as u32,
            flags: (first >> 32) as u8,
            gso_type: (first >> 40) as u8,
            hdr_len: (first >> 48) as u16,
            gso_size: second as u16,
            csum_start: (second >> 16) as u16,
            csum_offset: (second >> 32) as u16,
            kind: (second >> 48) as u16,
        }
    }
}

/// Second word of the header of a [`KIND_PAD`] record, whose first is zero.
pub const PAD_WORD: u64 = (KIND_PAD as u64) << 48;

/// Size of the record of a frame of `length` bytes, in bytes.
pub const fn record_size(length: u32) -> u64 {
    let align = RECORD_ALIGN as u64;
    (length as u64 + 2 * align - 1) & !(align - 1)
}

/// The NIC adds this to the word `latest` of an RX queue to have the guest look at its lanes again,
/// whichever was published last: behind the number of the lane and its position, nothing but such sums.
pub const LOOK_AGAIN: u64 = 1 << 40;

/// Bit of the word `latest` of an RX queue: its guest sleeps. The NIC takes the bit away when it stores
/// or adds anything there, and then has the queue's bell rung.
pub const ARMED: u64 = 1 << 63;

/// A lane's element of `published`: how far the NIC has filled the lane, and for whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Published {
    /// The position below which the lane may be read.
    pub position: u32,
    /// The tenancy whose guest may read it.
    pub tenancy: u32,
}

impl Published {
    /// The 64-bit word that the window holds for this element.
    pub const fn word(self) -> u64 {
        self.position as u64 | (self.tenancy as u64) << 32
    }

    /// The element that a 64-bit word of the window holds.
    pub const fn from_word(word: u64) -> Published {
        Published {
            position: word as u32,
            tenancy: (word >> 32) as u32,
        }
    }

    /// The word `latest` of an RX queue whose lane of this number was published last, without what
    /// was added to it since then ([`LOOK_AGAIN`]).
    pub const fn latest(self, lane: u32) -> u64 {
        self.position as u64 | (lane as u64) << 32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(unsafe_code, reason = "the layout in memory is what is tested")]
    fn headers_of_records_survive_a_round_trip() {
        let header = RecordHeader {
            length: 0x0102_0304,
            flags: 5,
            gso_type: 6,
            hdr_len: 0x0708,
            gso_size: 0x090a,
            csum_start: 0x0b0c,
            csum_offset: 0x0d0e,
            kind: 0x0f10,
        };
        let (first, second) = header.words();
        assert_eq!(RecordHeader::from_words(first, second), header);
        // SAFETY: both types have 16 bytes, and any content is valid.
        let memory: [u64; 2] = unsafe { core::mem::transmute(header) };
        assert_eq!(memory, [first, second]);
        assert_eq!(RecordHeader::from_words(0, PAD_WORD).kind, KIND_PAD);
        let sizes = [0, 1, 16, 60, 64, 65, 1514].map(record_size);
        assert_eq!(sizes, [16, 32, 32, 80, 80, 96, 1536]);
    }
}
