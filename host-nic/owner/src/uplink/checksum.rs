//! The Internet checksum (RFC 1071), for frames whose sender left it to hardware.

/// Completes the checksum of `frame`: the sum over all from `start` goes to `offset` behind it, where
/// the sum of the pseudo-header already is (`struct virtio_net_hdr`). `false` when that lies
/// outside the frame, or is no Internet checksum (SCTP's CRC32c lies at 8).
pub(super) fn complete(frame: &mut [u8], start: usize, offset: usize) -> bool {
    const SCTP: usize = 8;
    let Some(part) = frame.get_mut(start..) else {
        return false;
    };
    let value = checksum(sum(part));
    let Some(field) = offset
        .checked_add(2)
        .and_then(|end| part.get_mut(offset..end))
    else {
        return false;
    };
    if offset == SCTP {
        return false;
    }
    field.copy_from_slice(&value.to_be_bytes());
    true
}

/// The sum of big-endian words, the last one padded with zero. Sums can be added.
pub(super) fn sum(bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<2>();
    let whole: u64 = words
        .iter()
        .map(|&word| u64::from(u16::from_be_bytes(word)))
        .sum();
    match rest {
        [last] => whole + u64::from(u16::from_be_bytes([*last, 0])),
        _ => whole,
    }
}

/// The checksum for a sum. Never zero, which means "no checksum" in UDP: its other form is as good
/// everywhere.
pub(super) fn checksum(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    match !(sum as u16) {
        0 => 0xffff,
        value => value,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// UDP over IPv4, with the pseudo-header 10.0.0.1, 10.0.0.2, 17, 12.
    #[test]
    fn a_completed_checksum_sums_to_all_ones() {
        let pseudo = [10u8, 0, 0, 1, 10, 0, 0, 2, 0, 17, 0, 12];
        let mut frame = vec![0xee; 34];
        frame.extend([0x12, 0x34, 0x56, 0x78, 0, 12]);
        frame.extend((sum(&pseudo) as u16).to_be_bytes());
        frame.extend([1, 2, 3, 4]);
        assert!(complete(&mut frame, 34, 6));
        // 0x1234 + 0x5678 + 12 + 0x0102 + 0x0304 + 0x0a00 + 1 + 0x0a00 + 2 + 17 + 12 = 0x80de
        assert_eq!(frame[40..42], (!0x80de_u16).to_be_bytes());
        assert_eq!(frame[..34], [0xee; 34], "nothing else is touched");
    }

    #[test]
    fn zero_is_sent_as_its_other_form() {
        let mut frame = vec![0xff, 0xff, 0, 0];
        assert!(complete(&mut frame, 0, 2));
        assert_eq!(frame, [0xff, 0xff, 0xff, 0xff]);
    }

    #[test]
    fn what_lies_outside_is_refused() {
        let mut frame = vec![0; 60];
        assert!(!complete(&mut frame, 61, 0));
        assert!(!complete(&mut frame, 60, 0));
        assert!(!complete(&mut frame, 50, 9));
        assert!(!complete(&mut frame, 0, usize::MAX));
        assert!(!complete(&mut frame, 34, 8), "SCTP");
        assert_eq!(frame, [0; 60]);
        assert!(complete(&mut frame, 51, 7), "odd offset inside");
    }
}
