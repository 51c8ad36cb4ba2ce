//! What a test VM looks like to its guest: guest-physical layout, port I/O devices, command line.

/// Where the VMM puts what a guest sees of the NIC's memory: on the `direct` path the whole of it,
/// otherwise the port's own window. Below 4 GiB, above any RAM of the low part.
pub const NIC_GPA: u64 = 0xc000_0000;

/// First byte of RAM above the hole that starts at [`NIC_GPA`].
pub const HIGH_RAM_GPA: u64 = 1 << 32;

/// COM1.
pub const PORT_SERIAL: u16 = 0x3f8;
/// Interrupt line of COM1.
pub const IRQ_SERIAL: u8 = 4;

/// 32-bit write: end the VM with this status (0 to 63).
pub const PORT_EXIT: u16 = 0xce0;
/// 32-bit write: take a snapshot of all counters under this label.
pub const PORT_MARK: u16 = 0xce4;
/// 32-bit write: an exit-user request, [`user_request`]; its effect is seen in the rings.
pub const PORT_REQUEST: u16 = 0xce8;
/// 32-bit write: guest-physical address of an [`Outbox`]; its bytes are appended to the VM's output
/// file.
pub const PORT_OUTBOX: u16 = 0xcec;

/// Packs an exit-user request into the 32 bits that one OUT carries: request number (8 bits), flags
/// (8 bits, of which [`crate::service::tx_flags`] needs 4), count (16 bits, of which
/// [`crate::service::TX_MOST`] needs 9 and [`crate::window::FEATURES`] 4). A larger count is 65535.
pub const fn user_request(op: u64, count: u64, flags: u64) -> u32 {
    let count = if count > 0xffff { 0xffff } else { count };
    ((op as u32 & 0xff) << 24) | ((flags as u32 & 0xff) << 16) | count as u32
}

const _: () = assert!(crate::service::tx_flags(crate::window::MAX_QUEUES - 1, true) <= 0xff);
const _: () = assert!(crate::service::TX_MOST <= 0xffff && crate::window::FEATURES <= 0xffff);

/// The reverse of [`user_request`]: request number, count, flags.
pub const fn parse_user_request(word: u32) -> (u64, u64, u64) {
    (
        (word >> 24) as u64,
        (word & 0xffff) as u64,
        ((word >> 16) & 0xff) as u64,
    )
}

/// Argument of [`PORT_OUTBOX`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outbox {
    /// Guest-physical address of the bytes.
    pub gpa: u64,
    /// How many.
    pub len: u64,
}

/// Labels that the test guest writes to [`PORT_MARK`]. Counters are compared between the two marks
/// of a pair; what a mark itself costs is known from [`mark::NOTHING_BEGIN`] and its end.
pub mod mark {
    /// Begin of a pair with nothing in between.
    pub const NOTHING_BEGIN: u32 = 1;
    /// End of the pair with nothing in between.
    pub const NOTHING_END: u32 = 2;
    /// Begin of the loop that [`CALLS_BEGIN`] starts, run as often, with no call in it.
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

/// Key of the word that the VMM appends to the command line of a VM with a NIC port; the whole word
/// is a [`crate::port_word::PortWord`].
pub const CMDLINE_NIC: &str = "postern.nic=";

/// How a request reaches the data plane.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Path {
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

impl Path {
    /// All paths, in the order of the tables.
    pub const ALL: [Path; 5] = [
        Path::Elisa,
        Path::ElisaStrict,
        Path::ExitKernel,
        Path::ExitUser,
        Path::Direct,
    ];

    /// The name users see.
    pub const fn name(self) -> &'static str {
        match self {
            Path::Elisa => "elisa",
            Path::ElisaStrict => "elisa-strict",
            Path::ExitKernel => "exit-kernel",
            Path::ExitUser => "exit-user",
            Path::Direct => "direct",
        }
    }

    /// Whether the NIC gives a VM on this path a view, made of the NIC's image by the patched KVM.
    pub const fn needs_view(self) -> bool {
        match self {
            Path::Elisa | Path::ElisaStrict | Path::ExitKernel => true,
            Path::ExitUser | Path::Direct => false,
        }
    }

    /// The path of that name.
    pub fn from_name(name: &str) -> Option<Path> {
        Path::ALL.into_iter().find(|path| path.name() == name)
    }
}
