//! What a user of a persistent TAP leaves behind, and that the next one has nothing of it. In network
//! namespaces of their own, where the process may make some.
#![allow(clippy::unwrap_used, reason = "a failure is a failed test")]

use std::ffi::{c_int, c_void};
use std::fs::File;
use std::io::{self, Read};
use std::net::UdpSocket;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::process::Command;
use std::ptr;
use std::thread;
use std::time::{Duration, Instant};

use postern_tap::{Interface, Kind, Tap, TapError, offload};

/// How long a test waits for what must happen.
const PATIENCE: Duration = Duration::from_secs(30);
/// The station behind the TAP.
const STATION: [u8; 6] = [2, 0, 0, 0, 0, 2];
/// Size of the header before each frame, in bytes.
const HEADER: usize = 10;

/// Runs a test in a network namespace of its own, with the host as 10.9.0.1 on the persistent TAP
/// `t0`, or says why that cannot be.
fn on_a_tap(kind: &str, test: impl FnOnce() + Send) {
    let made = || {
        // SAFETY: only this thread moves to the new namespace.
        if unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0 {
            return Err(format!(
                "no network namespace: {}",
                io::Error::last_os_error()
            ));
        }
        ip(&format!("tuntap add mode tap {kind} name t0"))?;
        ip("addr add 10.9.0.1/24 dev t0")?;
        ip("link set t0 up")?;
        ip("neigh add 10.9.0.2 lladdr 02:00:00:00:00:02 dev t0")
    };
    thread::scope(|scope| {
        let run = || match made() {
            Ok(()) => test(),
            Err(reason) => println!("SKIP: {reason}"),
        };
        scope.spawn(run).join().unwrap();
    });
}

fn ip(arguments: &str) -> Result<(), String> {
    let output = Command::new("ip")
        .args(arguments.split_whitespace())
        .output();
    let output = output.map_err(|error| format!("no command ip: {error}"))?;
    match output.status.success() {
        true => Ok(()),
        false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
    }
}

/// A request to a TAP whose argument is a number or an address.
fn ioctl(tap: &impl AsFd, request: libc::Ioctl, argument: *const c_void) -> io::Result<()> {
    // SAFETY: the requests of these tests read what their arguments point to, which lives.
    match unsafe { libc::ioctl(tap.as_fd().as_raw_fd(), request, argument) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

fn number(value: &c_int) -> *const c_void {
    (&raw const *value).cast()
}

/// Whether a TAP that was just closed is one that a child of another test still has, between fork and
/// exec.
fn busy(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::EBUSY)
}

/// Opens the TAP as another program does.
fn former_user(flags: c_int) -> File {
    let file = File::options()
        .read(true)
        .write(true)
        .open("/dev/net/tun")
        .unwrap();
    let mut request = postern_tap::request("t0");
    request.ifr_ifru.ifru_flags = (libc::IFF_TAP | libc::IFF_NO_PI | flags) as libc::c_short;
    let until = Instant::now() + PATIENCE;
    loop {
        match ioctl(&file, libc::TUNSETIFF, (&raw const request).cast()) {
            Err(error) if busy(&error) && Instant::now() < until => {
                thread::sleep(Duration::from_millis(1));
            }
            opened => break opened.unwrap(),
        }
    }
    file
}

/// Types of eBPF programs (`enum bpf_prog_type`).
const SOCKET_FILTER: u64 = 1;
const XDP: u64 = 6;

/// An eBPF program of this type that returns this number.
fn program(kind: u64, value: u32) -> io::Result<OwnedFd> {
    // r0 = value; exit
    let code = [0xb7 | u64::from(value) << 32, 0x95];
    let license = c"GPL";
    let mut attribute = [0u64; 16];
    // The type, and the number of instructions.
    attribute[0] = kind | (code.len() as u64) << 32;
    attribute[1] = code.as_ptr() as u64;
    attribute[2] = license.as_ptr() as u64;
    const PROG_LOAD: c_int = 5;
    let size = size_of_val(&attribute) as u32;
    // SAFETY: the attribute is that of BPF_PROG_LOAD, and what it points to lives.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, PROG_LOAD, attribute.as_ptr(), size) };
    match fd {
        -1 => Err(io::Error::last_os_error()),
        // SAFETY: the call has just made this descriptor.
        fd => Ok(unsafe { OwnedFd::from_raw_fd(fd as c_int) }),
    }
}

/// The header and the frame of a datagram that the host sends to the station: of one of several, some
/// of which may be lost before the TAP is ready.
fn datagram(tap: &Tap) -> Option<(Vec<u8>, Vec<u8>)> {
    let until = Instant::now() + PATIENCE;
    let mut file = File::from(tap.as_fd().try_clone_to_owned().unwrap());
    while Instant::now() < until {
        // Each from another port, of another flow.
        let socket = UdpSocket::bind("10.9.0.1:0").unwrap();
        socket.send_to(&[0x5a; 100], "10.9.0.2:9").unwrap();
        let mut bytes = [0; 4096];
        while let Ok(length) = file.read(&mut bytes) {
            let (header, frame) = bytes[..length].split_at(HEADER);
            // IPv4, UDP.
            if frame.get(12..14) == Some(&[8, 0]) && frame.get(23) == Some(&17) {
                return Some((header.to_vec(), frame.to_vec()));
            }
        }
        thread::sleep(Duration::from_millis(1));
    }
    None
}

/// Opens a TAP that was just closed, as [`busy`] says.
fn when_free<T>(open: impl Fn() -> Result<T, TapError>) -> T {
    let until = Instant::now() + PATIENCE;
    loop {
        match open() {
            Err(TapError::Busy { .. }) if Instant::now() < until => {
                thread::sleep(Duration::from_millis(1));
            }
            opened => return opened.unwrap_or_else(|error| panic!("{error}")),
        }
    }
}

/// What a former user does to the TAP; an error is a kernel that cannot.
type Leave = fn(&File) -> io::Result<()>;

/// A socket filter that takes nothing: BPF_RET of 0.
static NOTHING: libc::sock_filter = libc::sock_filter {
    code: 6,
    jt: 0,
    jf: 0,
    k: 0,
};

const LEFT: [(&str, Leave); 6] = [
    ("offloads", |tap| {
        let flags = offload::CSUM | offload::TSO4 | offload::TSO6;
        let flags = ptr::without_provenance(flags as usize);
        ioctl(tap, libc::TUNSETOFFLOAD, flags)
    }),
    ("an address filter", |tap| {
        // `struct tun_filter`: flags, number of addresses, another station's.
        let filter = [0u8, 0, 1, 0, 2, 0, 0, 0, 0, 0x99];
        ioctl(tap, libc::TUNSETTXFILTER, filter.as_ptr().cast())
    }),
    ("a socket filter", |tap| {
        // Of the next user the kernel would read it at the same address: here it is there.
        let filter = (&raw const NOTHING).cast_mut();
        let filter = libc::sock_fprog { len: 1, filter };
        ioctl(tap, libc::TUNATTACHFILTER, (&raw const filter).cast())
    }),
    ("an eBPF filter", |tap| {
        let program = program(SOCKET_FILTER, 0)?;
        ioctl(tap, libc::TUNSETFILTEREBPF, number(&program.as_raw_fd()))
    }),
    ("a longer header", |tap| {
        ioctl(tap, libc::TUNSETVNETHDRSZ, number(&24))
    }),
    ("the other byte order", |tap| {
        ioctl(tap, libc::TUNSETVNETBE, number(&1))
    }),
];

#[test]
fn nothing_of_a_former_user_is_left() {
    for (what, leave) in LEFT {
        on_a_tap("", || {
            let former = former_user(libc::IFF_VNET_HDR);
            if let Err(error) = leave(&former) {
                println!("SKIP: {what}: {error}");
                return;
            }
            drop(former);
            let tap = when_free(|| Tap::open("t0", Kind::OneQueue));
            tap.reset(HEADER).unwrap();
            let (header, frame) = datagram(&tap).unwrap_or_else(|| panic!("{what} is left"));
            assert_eq!(header, [0; HEADER], "{what}: nothing is left to do");
            assert_eq!(frame[..6], STATION, "{what}");
            // Where the checksum begins, in this host's byte order.
            tap.set_offloads(offload::CSUM).unwrap();
            let (header, _) = datagram(&tap).unwrap();
            assert_eq!(header[6..8], 34u16.to_ne_bytes(), "{what}");
            // Nor is it left to the user after that.
            drop(tap);
            let next = former_user(libc::IFF_VNET_HDR);
            ioctl(&next, libc::TUNSETOFFLOAD, ptr::null()).unwrap();
        });
    }
}

/// By it a former user has put all flows into one queue.
#[test]
fn no_program_chooses_queues() {
    on_a_tap("multi_queue", || {
        let former = former_user(libc::IFF_VNET_HDR | libc::IFF_MULTI_QUEUE);
        let steering = program(SOCKET_FILTER, 1).and_then(|program| {
            ioctl(
                &former,
                libc::TUNSETSTEERINGEBPF,
                number(&program.as_raw_fd()),
            )
        });
        if let Err(error) = steering {
            println!("SKIP: no steering program: {error}");
            return;
        }
        drop(former);
        let taps = when_free(|| Tap::open_queues("t0", 2));
        taps.iter().for_each(|tap| tap.reset(HEADER).unwrap());
        assert!(datagram(&taps[0]).is_some(), "all goes to the other queue");
    });
}

#[test]
fn an_xdp_program_is_told() {
    on_a_tap("", || {
        let interface = Interface::new("t0").unwrap();
        assert_eq!(interface.xdp_notice(), None);
        // XDP_PASS. It stays when who attached it has ended.
        let attached = program(XDP, 2)
            .map_err(|error| error.to_string())
            .and_then(|program| attach_xdp(&program));
        if let Err(error) = attached {
            println!("SKIP: no XDP program can be attached: {error}");
            return;
        }
        let notice = interface.xdp_notice().unwrap();
        let remedy = "link set t0 xdpgeneric off";
        assert!(notice.contains(remedy), "{notice}");
        ip(remedy).unwrap();
        assert_eq!(interface.xdp_notice(), None);
    });
}

/// Attaches a program to `t0` by rtnetlink, as `ip link set t0 xdp` does.
fn attach_xdp(program: &OwnedFd) -> Result<(), String> {
    let mut bytes = Vec::new();
    // struct nlmsghdr: length (below), RTM_SETLINK, NLM_F_REQUEST | NLM_F_ACK.
    bytes.extend(0u32.to_ne_bytes());
    bytes.extend(19u16.to_ne_bytes());
    bytes.extend(5u16.to_ne_bytes());
    bytes.extend([0; 8]);
    // struct ifinfomsg with the index, then IFLA_XDP with IFLA_XDP_FD and IFLA_XDP_FLAGS.
    // SAFETY: the name is a string that ends in zero.
    let index = unsafe { libc::if_nametoindex(c"t0".as_ptr()) };
    for word in [0, index, 0, 0] {
        bytes.extend(u32::to_ne_bytes(word));
    }
    const SKB_MODE: u32 = 2;
    for (length, kind) in [(20u16, 43u16 | 0x8000), (8, 1)] {
        bytes.extend(length.to_ne_bytes());
        bytes.extend(kind.to_ne_bytes());
    }
    bytes.extend(program.as_raw_fd().to_ne_bytes());
    bytes.extend(8u16.to_ne_bytes());
    bytes.extend(3u16.to_ne_bytes());
    bytes.extend(SKB_MODE.to_ne_bytes());
    let length = bytes.len() as u32;
    bytes[..4].copy_from_slice(&length.to_ne_bytes());
    let mut answer = [0u8; 1024];
    // SAFETY: three numbers; then memory of the sizes given.
    let received = unsafe {
        let socket = libc::socket(libc::AF_NETLINK, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0);
        libc::send(socket, bytes.as_ptr().cast(), bytes.len(), 0);
        let received = libc::recv(socket, answer.as_mut_ptr().cast(), answer.len(), 0);
        libc::close(socket);
        received
    };
    // struct nlmsgerr.
    let error = i32::from_ne_bytes(answer[16..20].try_into().unwrap());
    match (received >= 20, error) {
        (true, 0) => Ok(()),
        _ => Err(io::Error::from_raw_os_error(-error).to_string()),
    }
}
