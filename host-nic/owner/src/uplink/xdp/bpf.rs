//! The XDP program: frames of one queue go to one AF_XDP socket, all others to the host as before.
//!
//! Five instructions, written here as numbers, so that no compiler for BPF and no loader library is
//! needed:
//!
//! ```text
//! r2 = *(u32 *)(r1 + 16)                 struct xdp_md: rx_queue_index
//! r1 = map                               (two slots)
//! r3 = XDP_PASS                          what to do where the map has no socket
//! call bpf_redirect_map
//! exit
//! ```
//!
//! The program is attached by a link (`BPF_LINK_CREATE`): the kernel takes it off the interface
//! when this process ends, however it ends.
//!
//! Sources: bpf(2); include/uapi/linux/bpf.h; Linux kernel documentation, "BPF Instruction Set
//! Architecture" and "BPF_MAP_TYPE_XSKMAP".

use std::io;
use std::mem::size_of;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

use super::super::error::{UplinkError, failed};
use super::super::link::Link;

const NEEDS: &str = "CAP_BPF and CAP_NET_ADMIN";

// enum bpf_cmd
const MAP_CREATE: i32 = 0;
const MAP_UPDATE_ELEM: i32 = 2;
const PROG_LOAD: i32 = 5;
const LINK_CREATE: i32 = 28;
// enum bpf_map_type, bpf_prog_type, bpf_attach_type, bpf_func_id
const MAP_TYPE_XSKMAP: u32 = 17;
const PROG_TYPE_XDP: u32 = 6;
const ATTACH_XDP: u32 = 37;
const FUNC_REDIRECT_MAP: i32 = 51;
/// The program handles frames in several buffers.
const PROG_HAS_FRAGS: u32 = 1 << 5;
const XDP_PASS: i32 = 2;
const FLAGS_SKB_MODE: u32 = 1 << 1;
const FLAGS_DRV_MODE: u32 = 1 << 2;
/// Offset of `rx_queue_index` in `struct xdp_md`.
const RX_QUEUE_INDEX: i16 = 16;
const PSEUDO_MAP_FD: u8 = 1;

/// The members of `union bpf_attr` for BPF_MAP_CREATE.
#[repr(C)]
struct MapCreate {
    map_type: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    map_flags: u32,
}

/// For BPF_MAP_UPDATE_ELEM.
#[repr(C)]
struct MapUpdate {
    map: u32,
    padding: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// For BPF_PROG_LOAD.
#[repr(C)]
struct ProgLoad {
    prog_type: u32,
    count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kern_version: u32,
    flags: u32,
    name: [u8; 16],
}

/// For BPF_LINK_CREATE.
#[repr(C)]
struct LinkCreate {
    prog: u32,
    interface: u32,
    attach_type: u32,
    flags: u32,
}

/// `struct bpf_insn`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Instruction {
    code: u8,
    registers: u8,
    offset: i16,
    immediate: i32,
}

const fn instruction(code: u8, dst: u8, src: u8, offset: i16, immediate: i32) -> Instruction {
    Instruction {
        code,
        registers: src << 4 | dst,
        offset,
        immediate,
    }
}

fn program(map: i32) -> [Instruction; 6] {
    const LOAD_WORD: u8 = 0x61; // BPF_LDX | BPF_MEM | BPF_W
    const LOAD_IMMEDIATE: u8 = 0x18; // BPF_LD | BPF_IMM | BPF_DW
    const MOVE: u8 = 0xb7; // BPF_ALU64 | BPF_MOV | BPF_K
    const CALL: u8 = 0x85; // BPF_JMP | BPF_CALL
    const EXIT: u8 = 0x95; // BPF_JMP | BPF_EXIT
    [
        instruction(LOAD_WORD, 2, 1, RX_QUEUE_INDEX, 0),
        instruction(LOAD_IMMEDIATE, 1, PSEUDO_MAP_FD, 0, map),
        instruction(0, 0, 0, 0, 0),
        instruction(MOVE, 3, 0, 0, XDP_PASS),
        instruction(CALL, 0, 0, 0, FUNC_REDIRECT_MAP),
        instruction(EXIT, 0, 0, 0, 0),
    ]
}

/// One bpf(2) call.
///
/// # Safety
///
/// `T` is plain data without padding in the form that the command takes, and what it points to is
/// valid.
unsafe fn bpf<T>(command: i32, attribute: &T) -> io::Result<i32> {
    // SAFETY: the pointer and size are those of `attribute`; the caller vouches for the rest.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            &raw const *attribute,
            size_of::<T>() as u32,
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(result as i32)
}

/// Makes a call of [`bpf`] for a command that returns a descriptor.
///
/// # Safety
///
/// The attribute is what the command takes, as for [`bpf`].
unsafe fn bpf_fd<T>(command: i32, attribute: &T) -> io::Result<OwnedFd> {
    // SAFETY: the caller vouches for the attribute, as `bpf` demands.
    let fd = unsafe { bpf(command, attribute) }?;
    // SAFETY: the command has just made this descriptor, which nobody else has.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Frames of one queue redirected to one socket, until dropped.
#[derive(Debug)]
pub(super) struct Redirect {
    /// Holds the program on the interface, and the program holds the map.
    _link: OwnedFd,
    native: bool,
}

impl Redirect {
    /// Redirects frames that `link` receives in `queue` to `socket`: in the driver where it can do
    /// that, else in the network stack (generic XDP).
    pub(super) fn attach(
        link: &mut Link,
        queue: u32,
        socket: impl AsFd,
    ) -> Result<Redirect, UplinkError> {
        let name = link.name().to_owned();
        let map = create_map(queue, socket)
            .map_err(|source| failed("make the socket map of", &name, NEEDS, source))?;
        let mut refusal = None;
        // A driver may know programs, but not those for several buffers.
        for (mode, prog) in [
            (FLAGS_DRV_MODE, PROG_HAS_FRAGS),
            (FLAGS_DRV_MODE, 0),
            (FLAGS_SKB_MODE, PROG_HAS_FRAGS),
            (FLAGS_SKB_MODE, 0),
        ] {
            let program = load(&map, prog)
                .map_err(|source| failed("load the XDP program for", &name, NEEDS, source))?;
            match attach(&program, link.index(), mode) {
                Ok(attached) => {
                    return Ok(Redirect {
                        _link: attached,
                        native: mode == FLAGS_DRV_MODE,
                    });
                }
                Err(source)
                    if matches!(source.raw_os_error(), Some(libc::EBUSY | libc::EEXIST)) =>
                {
                    return Err(UplinkError::Busy {
                        step: "attach an XDP program to",
                        interface: name,
                        remedy: "another XDP program is there; end its owner or remove it with \
                                 `ip link set INTERFACE xdpdrv off` or `xdpgeneric off`",
                    });
                }
                Err(source) => refusal = Some(source),
            }
        }
        let source = refusal.unwrap_or_else(|| io::ErrorKind::Unsupported.into());
        Err(match source.raw_os_error() {
            Some(libc::EOPNOTSUPP | libc::EINVAL | libc::ERANGE) => UplinkError::Unsupported {
                step: "attach an XDP program to",
                interface: name,
                remedy: "the driver refuses it; a smaller MTU or fewer offloads may help \
                         (ethtool -K INTERFACE lro off gro off), or use packet:INTERFACE",
                source,
            },
            _ => link.broken("attach an XDP program to", source),
        })
    }

    /// Whether the driver runs the program, not the network stack.
    pub(super) fn is_native(&self) -> bool {
        self.native
    }
}

fn create_map(queue: u32, socket: impl AsFd) -> io::Result<OwnedFd> {
    let attribute = MapCreate {
        map_type: MAP_TYPE_XSKMAP,
        key_size: 4,
        value_size: 4,
        max_entries: queue.saturating_add(1),
        map_flags: 0,
    };
    // SAFETY: `MapCreate` is the attribute of BPF_MAP_CREATE, and has no pointers.
    let map = unsafe { bpf_fd(MAP_CREATE, &attribute) }?;
    let value = socket.as_fd().as_raw_fd();
    let attribute = MapUpdate {
        map: map.as_raw_fd() as u32,
        padding: 0,
        key: (&raw const queue) as u64,
        value: (&raw const value) as u64,
        flags: 0,
    };
    // SAFETY: `MapUpdate` is the attribute of BPF_MAP_UPDATE_ELEM; key and value outlive the call
    // and have the sizes that the map was made with.
    unsafe { bpf(MAP_UPDATE_ELEM, &attribute) }?;
    Ok(map)
}

fn load(map: &OwnedFd, flags: u32) -> io::Result<OwnedFd> {
    let instructions = program(map.as_raw_fd());
    // The string that the kernel wants; it calls no function reserved to other licences.
    let license = c"Dual MIT/GPL";
    let attribute = ProgLoad {
        prog_type: PROG_TYPE_XDP,
        count: instructions.len() as u32,
        instructions: instructions.as_ptr() as u64,
        license: license.as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log: 0,
        kern_version: 0,
        flags,
        name: *b"postern_uplink\0\0",
    };
    // SAFETY: `ProgLoad` is the attribute of BPF_PROG_LOAD; instructions and licence outlive the
    // call.
    unsafe { bpf_fd(PROG_LOAD, &attribute) }
}

fn attach(program: &OwnedFd, interface: u32, flags: u32) -> io::Result<OwnedFd> {
    let attribute = LinkCreate {
        prog: program.as_raw_fd() as u32,
        interface,
        attach_type: ATTACH_XDP,
        flags,
    };
    // SAFETY: `LinkCreate` is the attribute of BPF_LINK_CREATE for XDP, and has no pointers.
    unsafe { bpf_fd(LINK_CREATE, &attribute) }
}
