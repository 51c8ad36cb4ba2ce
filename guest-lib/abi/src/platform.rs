//! A VM as its guest sees it: guest-physical layout, port I/O devices, paths of a request.
#![forbid(unsafe_code)]

/// Guest-physical address of the part of the NIC's memory that a guest sees: the whole of it on the
/// `direct` path, otherwise the port's own window. Below 4 GiB, above any RAM of the low part.
pub const NIC_GPA: u64 = 0xc000_0000;

/// Slot at which the VMM attaches the NIC to each vCPU, and the guest calls it.
pub const NIC_SLOT: u32 = 0;

/// Guest-physical address of the first byte of RAM above the hole that starts at [`NIC_GPA`].
pub const HIGH_RAM_GPA: u64 = 1 << 32;

/// First I/O port of the serial console, COM1.
pub const PORT_SERIAL: u16 = 0x3f8;
/// Interrupt line of the serial console.
pub const IRQ_SERIAL: u8 = 4;

/// I/O port; a 32-bit write ends the VM with this status (0 to 63).
pub const PORT_EXIT: u16 = 0xce0;
/// I/O port; a 32-bit write takes a snapshot of all counters under this label ([`label`]).
pub const PORT_SNAPSHOT: u16 = 0xce4;
/// I/O port; a 32-bit write is an exit-user request, whose effect is seen in the rings. RDI holds the
/// request's word and RSI its first argument, as on the other paths; what is written is the second
/// argument ([`crate::service::tx_flags`]).
pub const PORT_REQUEST: u16 = 0xce8;
/// I/O port; a 32-bit write is the guest-physical address of an [`Outbox`], whose bytes are
/// appended to the VM's output file.
pub const PORT_OUTBOX: u16 = 0xcec;

/// A piece of guest memory for the host: the argument of [`PORT_OUTBOX`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outbox {
    /// Guest-physical address of the bytes.
    pub gpa: u64,
    /// Number of the bytes.
    pub len: u64,
}

/// Labels of the snapshots that a guest has the VMM take ([`PORT_SNAPSHOT`]). Counters are compared
/// between the two snapshots of a pair. The cost of a snapshot itself is the difference between
/// [`label::NOTHING_BEGIN`] and [`label::NOTHING_END`].
pub mod label {
    /// Begin of a pair with nothing in between.
    pub const NOTHING_BEGIN: u32 = 1;
    /// End of the pair with nothing in between.
    pub const NOTHING_END: u32 = 2;
    /// Begin of a loop like that of [`CALLS_BEGIN`], run as often, with no call in it.
    pub const LOOP_BEGIN: u32 = 3;
    /// End of the loop with no call in it.
    pub const LOOP_END: u32 = 4;
    /// Begin of a loop of empty calls.
    pub const CALLS_BEGIN: u32 = 5;
    /// End of the loop of empty calls.
    pub const CALLS_END: u32 = 6;
    /// Before the first frame is sent, or before the first that has arrived is taken.
    pub const TRAFFIC_BEGIN: u32 = 7;
    /// After the last frame.
    pub const TRAFFIC_END: u32 = 8;
}

/// Key, with the equals sign, of the word that the VMM appends to the command line of a VM with a
/// NIC port. Its value is a [`PortWord`](crate::port_word::PortWord).
pub const CMDLINE_NIC: &str = "postern.nic=";

/// The path of a request: how it reaches the data plane.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CallPath {
    /// VMFUNC into the NIC view, three VMFUNCs a call.
    Elisa,
    /// VMFUNC into the NIC view, four VMFUNCs a call.
    ElisaStrict,
    /// VMCALL, served by the kernel module.
    ExitKernel,
    /// OUT, served by the VMM process.
    ExitUser,
    /// A plain call in the guest, with everything mapped: no isolation.
    Direct,
}

impl CallPath {
    /// All paths, in the order in which tables list them.
    pub const ALL: [CallPath; 5] = [
        CallPath::Elisa,
        CallPath::ElisaStrict,
        CallPath::ExitKernel,
        CallPath::ExitUser,
        CallPath::Direct,
    ];

    /// The name users see.
    pub const fn name(self) -> &'static str {
        match self {
            CallPath::Elisa => "elisa",
            CallPath::ElisaStrict => "elisa-strict",
            CallPath::ExitKernel => "exit-kernel",
            CallPath::ExitUser => "exit-user",
            CallPath::Direct => "direct",
        }
    }

    /// Whether the NIC gives a VM on this path a view, made of the NIC's image by the patched KVM.
    pub const fn needs_view(self) -> bool {
        match self {
            CallPath::Elisa | CallPath::ElisaStrict | CallPath::ExitKernel => true,
            CallPath::ExitUser | CallPath::Direct => false,
        }
    }

    /// The path of that [`CallPath::name`].
    pub fn from_name(name: &str) -> Option<CallPath> {
        CallPath::ALL.into_iter().find(|path| path.name() == name)
    }
}
