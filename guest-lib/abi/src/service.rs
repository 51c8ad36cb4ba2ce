//! Requests to the NIC: the same numbers whichever path carries them.

/// RAX of the VMCALL that the exit-kernel path uses. RDI, RSI and RDX carry the request as in
/// [`crate::view::CallPage`]; the result comes back in RAX. Any CPL may call.
pub const HYPERCALL: u64 = 0x504f_5354;

/// Request: do nothing, answer 0. What a call costs by itself.
pub const OP_NOP: u64 = 0;

/// Request: move frames from one of the caller's TX rings to their destinations. First argument: the most
/// frames to take (the core bounds it by the ring and by what a call may take, see [`TX_MOST`]). Second:
/// [`TX_HOLD`] or not, and the TX queue ([`tx_flags`]). Result: frames taken.
pub const OP_TX: u64 = 1;

/// Request: agree on features. First argument: what the caller's guest can do, `FEATURE_*` of
/// [`crate::window`]; the rest zero. Result: what is agreed on; frames that need more than that are
/// completed or cut by the NIC before they reach the guest. A new tenant begins with none.
pub const OP_FEATURES: u64 = 2;

/// [`OP_TX`] flag: stop before the first frame whose only destination has no room, rather than drop
/// it. The caller waits for its own sake; nobody else does.
pub const TX_HOLD: u64 = 1;

/// Position of the TX queue's number in the second argument of [`OP_TX`].
pub const TX_QUEUE_SHIFT: u32 = 1;

/// Most frames that one request takes. A guest with more makes another request: what happens inside
/// of one delays its own interrupts.
pub const TX_MOST: u32 = 256;

/// Bytes of copies after which a request takes no more frames, for the same reason.
pub const TX_BYTES: u64 = 1 << 20;

/// The second argument of [`OP_TX`].
pub const fn tx_flags(queue: u32, hold: bool) -> u64 {
    (queue as u64) << TX_QUEUE_SHIFT | if hold { TX_HOLD } else { 0 }
}

/// Result of a request that the NIC does not know, of a caller that has no port, and of a vCPU whose
/// number is not below the number of the port's queues.
pub const ERR_BAD_REQUEST: u64 = u64::MAX;
