//! The status of a VM at its end: the value that the guest writes to
//! [`postern_abi::platform::PORT_EXIT`].

/// The guest did what its role asks.
pub const OK: u32 = 0;
/// The role failed; the console has a line `error: ...` that says why.
pub const FAILED: u32 = 1;
/// The command line, the initrd or the VM is not what the role needs; the console has a line
/// `error: ...` that says why.
pub const USAGE: u32 = 2;
/// A fault of the guest itself: a panic, or an exception that nobody expected.
pub const CRASHED: u32 = 3;
