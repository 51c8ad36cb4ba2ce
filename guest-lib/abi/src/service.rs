//! Requests to the NIC: their numbers, arguments and results, which are the same on each path.
//!
//! A request is a number and two 64-bit arguments; its result is one 64-bit number.
#![forbid(unsafe_code)]

/// RAX of the VMCALL that the exit-kernel path uses. RDI, RSI and RDX carry the request as in
/// [`crate::view::CallPage`]; the result comes back in RAX. Any CPL may call.
pub const HYPERCALL: u64 = 0x504f_5354;

/// Request: do nothing. Result: 0. It costs what a call costs by itself.
pub const OP_NOP: u64 = 0;

/// Request: move frames from one of the caller's TX rings to their destinations. First argument:
/// the most frames to take (the switch takes at most [`MAX_TX_FRAMES`] and as many as are in the ring).
/// Second argument: [`tx_flags`]. Result: the number of frames taken.
pub const OP_TX: u64 = 1;

/// Request: agree on features. First argument: the features of the caller's guest, `FEATURE_*` of
/// [`crate::window`]. Second argument: 0. Result: the features that are agreed on. Frames that need
/// others are completed or cut by the NIC before they reach the guest. A new tenant begins with
/// none.
pub const OP_FEATURES: u64 = 2;

/// [`OP_TX`] flag: stop before the first frame whose only destination has no room, rather than drop
/// it. Only the caller waits for that room.
pub const TX_HOLD: u64 = 1;

/// Position in bits of the TX queue's number in the second argument of [`OP_TX`].
pub const TX_QUEUE_SHIFT: u32 = 1;

/// Most frames that one request takes. A guest with more makes another request: its own interrupts
/// wait until a request ends.
pub const MAX_TX_FRAMES: u32 = 256;

/// Bytes copied after which a request takes no more frames, so that the guest's interrupts do not
/// wait longer.
pub const MAX_TX_BYTES: u64 = 1 << 20;

/// The second argument of [`OP_TX`]: the TX queue, and whether to hold back frames ([`TX_HOLD`]).
pub const fn tx_flags(queue: u32, hold: bool) -> u64 {
    (queue as u64) << TX_QUEUE_SHIFT | if hold { TX_HOLD } else { 0 }
}

/// Result of a request that the NIC does not know, of a caller that has no port, and of a vCPU
/// whose number is not below the number of queues of its port.
pub const ERR_BAD_REQUEST: u64 = u64::MAX;
