//! Requests to the NIC: their numbers, arguments and results, which are the same on each path.
//!
//! A request is a word and two 64-bit arguments; its result is one 64-bit number. The word is the
//! request's number plus the [`Secret`] of the tenancy, so that only those programs of a guest speak
//! for its port that can read its window. [`OP_NOP`] alone is also served without the secret.
#![forbid(unsafe_code)]

use core::fmt;

/// RAX of the VMCALL that the exit-kernel path uses, to the service attached at this slot. RDI, RSI
/// and RDX carry the request as in [`crate::view::CallPage`]; the result comes back in RAX. Any CPL
/// may call.
pub const fn hypercall(slot: u32) -> u64 {
    0x504f_5354 + slot as u64
}

/// Request: do nothing. Result: 0. It costs what a call costs by itself.
///
/// As a word of its own, without the secret, it tells that a service is there, which whoever can
/// call sees anyway, and nothing else; it changes nothing. With the secret ([`Secret::request`]) it
/// tells that the secret is right.
pub const OP_NOP: u64 = 0;

/// Request: move frames from one of the caller's TX rings to their destinations. First argument:
/// the most frames to take; the switch takes at most [`MAX_TX_FRAMES`], fewer where they are many
/// copies ([`MAX_TX_COPIES`], [`MAX_TX_BYTES`]), and as many as are in the ring.
/// Second argument: [`tx_flags`], and [`TX_AVX`]. Result: the number of frames taken, perhaps with
/// [`TX_MORE`] and [`TX_BELL`].
pub const OP_TX: u64 = 1;

/// Request: agree on features. First argument: the features of the caller's guest, `FEATURE_*` of
/// [`crate::window`]. Second argument: 0. Result: the features that are agreed on. Frames that need
/// others are completed or cut by the NIC before they reach the guest. A new tenant begins with
/// none.
pub const OP_FEATURES: u64 = 2;

/// [`OP_TX`] flag: stop before the first frame whose only destination has no room, rather than drop
/// it. Only the caller waits for that room. A frame with several destinations is never held: it goes
/// to those that have room, and counts as dropped for the others. If it waited, one receiver that
/// never reads would keep the sender from everybody.
pub const TX_HOLD: u64 = 1;

/// [`OP_TX`] flag: the caller lends the call its vector registers, with which a NIC in a view copies
/// longer frames (of 96 bytes and more) faster. On all other paths it has no effect.
///
/// Only a caller whose operating system has AVX on (CR4.OSXSAVE, and XCR0 with SSE and AVX) may set
/// it: elsewhere the first such copy raises an exception in the view (#UD, or #NM where CR0.TS is
/// set), which aborts the call. It is the caller's word alone, as nothing in a view can ask the
/// processor without a VM exit. When the call has returned, the registers 0 to 3 may be zero, and all
/// others may have lost their bits from 128 on, as behind a function of the System V ABI. They are
/// left alone where the flag is not set.
pub const TX_AVX: u64 = 2;

/// Position in bits of the TX queue's number in the second argument of [`OP_TX`].
pub const TX_QUEUE_SHIFT: u32 = 2;

/// Most frames that one request takes. What one request does is bounded by this number, by
/// [`MAX_TX_COPIES`] and by [`MAX_TX_BYTES`], since interrupts of the guest, and on the path
/// exit-kernel other threads of the host, wait until it ends. The rest stays in the ring for the
/// next request.
pub const MAX_TX_FRAMES: u32 = 256;

/// Number of copies after which a request takes no more frames. A frame that may go to several ports
/// counts once for each of them, whether it gets there or not, and once for each mirror; a large
/// segment counts once more for each frame that it is cut into. A frame to one port counts as none:
/// [`MAX_TX_FRAMES`] bounds these.
///
/// A request goes beyond this number, and beyond [`MAX_TX_BYTES`], by the rest of one frame at most:
/// by all other destinations of an ordinary frame, or by one destination of a frame of the slow path
/// (where policies, VLANs, several RX queues or offloads count), whose other destinations are served
/// by the next request.
pub const MAX_TX_COPIES: u32 = 1024;

/// Number of bytes of frames, counted once for each copy, after which a request takes no more
/// frames. Those of a short burst, which is at most eight frames, are not among them where another vCPU adds
/// frames behind it during the request.
pub const MAX_TX_BYTES: u64 = 1 << 20;

/// Bit of the result of [`OP_TX`], besides the number of frames taken: the request ended because of
/// [`MAX_TX_COPIES`] or [`MAX_TX_BYTES`], and another one goes on. It may end so and take no frame:
/// it has then delivered one to some of its ports.
pub const TX_MORE: u64 = 1 << 32;

/// Bit of the result of [`OP_TX`], besides the number of frames taken: receivers sleep that got frames.
/// The NIC has noted the numbers of their RX queues among the TX queue's `bells`
/// ([`crate::window`]), and relies on the caller to ring them.
pub const TX_BELL: u64 = 1 << 33;

/// The second argument of [`OP_TX`]: the TX queue, and whether to hold back frames ([`TX_HOLD`]).
pub const fn tx_flags(queue: u32, hold: bool) -> u64 {
    (queue as u64) << TX_QUEUE_SHIFT | if hold { TX_HOLD } else { 0 }
}

/// Result of a request whose arguments are not valid, of a caller that has no port or no longer has
/// it, and of a vCPU whose number is not below the number of queues of its port.
pub const ERR_BAD_REQUEST: u64 = u64::MAX;

/// Result of a request whose word is not that of any request with the tenancy's [`Secret`]. It is
/// counted, and changes nothing else.
pub const ERR_NO_SECRET: u64 = u64::MAX - 1;

/// The secret of a tenancy: 64 random bits. The owner of the NIC draws it; the window's header has
/// it for the guest, and the caller's words, which no guest reaches, for the NIC.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Secret(u64);

impl Secret {
    /// Number of words from 0 on, and as many at the upper end, that are no secret. So the words
    /// of requests with a secret are never small numbers, as those without one are.
    const RESERVED: u64 = 1 << 16;

    /// The secret that is this word, whatever it is: what a window says.
    pub const fn from_word(word: u64) -> Secret {
        Secret(word)
    }

    /// The secret that is this random word, or nothing for the few words that are none.
    pub const fn drawn(word: u64) -> Option<Secret> {
        let secret = Secret(word);
        match secret.is_valid() {
            true => Some(secret),
            false => None,
        }
    }

    /// Whether an owner can have drawn it.
    pub const fn is_valid(self) -> bool {
        self.0 >= Secret::RESERVED && self.0 <= u64::MAX - Secret::RESERVED
    }

    /// The secret as a word.
    pub const fn word(self) -> u64 {
        self.0
    }

    /// The word of a request with this number.
    #[inline(always)]
    pub const fn request(self, op: u64) -> u64 {
        self.0.wrapping_add(op)
    }

    /// The number of the request whose word this is. Without the secret it is a number of no
    /// request.
    #[inline(always)]
    pub const fn op(self, request: u64) -> u64 {
        request.wrapping_sub(self.0)
    }
}

/// Does not show the secret.
impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_words_are_neither_secrets_nor_words_of_requests() {
        for word in [
            0,
            1,
            2,
            255,
            65_535,
            u64::MAX,
            u64::MAX - 1,
            u64::MAX - 65_535,
        ] {
            assert_eq!(Secret::drawn(word), None, "{word:#x}");
        }
        for word in [65_536, 1 << 63, u64::MAX - 65_536] {
            let secret = Secret::drawn(word).expect("a secret");
            assert_eq!(secret.word(), word);
            for op in [OP_NOP, OP_TX, OP_FEATURES, 255] {
                assert_eq!(secret.op(secret.request(op)), op);
                assert!(secret.request(op) > 65_535, "{word:#x} + {op}");
            }
        }
        assert_eq!(format!("{:?}", Secret::from_word(77)), "Secret(..)");
    }
}
