//! Requests to the NIC: the same numbers whichever path carries them.

/// RAX of the VMCALL that the exit-kernel path uses. RDI, RSI and RDX carry the request as in
/// [`crate::view::CallPage`]; the result comes back in RAX. Any CPL may call.
pub const HYPERCALL: u64 = 0x504f_5354;

/// Request: do nothing, answer 0. What a call costs by itself.
pub const OP_NOP: u64 = 0;

/// Request: move frames from the caller's TX ring to their destinations. First argument: the most
/// frames to take (the core bounds it by the ring). Second: flags, [`TX_HOLD`]. Result: frames taken.
pub const OP_TX: u64 = 1;

/// [`OP_TX`] flag: stop before the first frame whose only destination has no room, rather than drop
/// it. The caller waits for its own sake; nobody else does.
pub const TX_HOLD: u64 = 1;

/// Result of a request that the NIC does not know or a caller that has no port.
pub const ERR_BAD_REQUEST: u64 = u64::MAX;
