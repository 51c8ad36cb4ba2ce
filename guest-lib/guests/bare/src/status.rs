//! How the guest ended: what it writes to [`postern_abi::machine::PORT_EXIT`].

/// It did what its role asks.
pub const OK: u32 = 0;
/// The role failed; the console has a line `error: ...` that says why.
pub const FAILED: u32 = 1;
/// The command line, the initrd or the machine is not what the role needs, likewise.
pub const USAGE: u32 = 2;
/// A fault of the guest itself: a panic, or an exception that nobody expected.
pub const CRASHED: u32 = 3;
