//! Exit statuses of `postern run`: they tell how the VM ended.
#![deny(unsafe_code)]

/// The largest status that a guest can end its VM with; 0 to this are the guest's own.
pub const MAX_GUEST: u8 = 63;

/// The guest switched itself off.
pub const POWER_OFF: u8 = 0;

/// Flags, configuration or a file (kernel, initrd) cannot be used.
pub const CONFIGURATION: u8 = 64;

/// KVM is missing, lacks something, or refused a call.
pub const KVM: u8 = 65;

/// The NIC cannot be reached, or does not give the port.
pub const NIC: u8 = 66;

/// The guest shut down without a status: a triple fault.
pub const SHUTDOWN: u8 = 67;

/// A call in a view was aborted, and the VM was to end then.
pub const ABORTED_CALL: u8 = 68;

/// KVM cannot run the guest on: VM entry failed, or an instruction cannot be emulated.
pub const STUCK: u8 = 69;

/// The VMM itself failed: an output file cannot be written, or a defect.
pub const INTERNAL: u8 = 70;

/// The guest's kernel panicked, and said so to the panic device.
pub const PANIC: u8 = 71;

/// The guest reset itself, and the VM was to end then.
pub const RESET: u8 = 72;

/// A thread of the VMM made a system call that it never makes: somebody else has taken it over, or a
/// defect.
pub const REFUSED_CALL: u8 = 73;

/// The VMM was ended by a signal: this and the signal's number, as shells count.
pub const SIGNAL_BASE: u8 = 128;

/// What `--help` and the documentation say about statuses.
pub const HELP: &str = "\
Exit status:
  0-63  the guest's own, written to its exit port; 0 if it switched itself off
  64    flags, configuration, kernel or initrd cannot be used
  65    KVM is missing, lacks something, or refused a call
  66    the NIC cannot be reached, or does not give the port
  67    the guest shut down without a status (triple fault)
  68    a call in a view was aborted (with --exit-on-abort)
  69    KVM cannot run the guest on (failed VM entry, emulation)
  70    internal error, or an output file cannot be written
  71    the guest's kernel panicked (pvpanic)
  72    the guest reset itself
  73    a thread of the VMM made a system call that it may not (see --seccomp)
  128+N ended by signal N";
