//! Network namespaces, veth pairs, raw sockets and a port, for tests of uplinks.
#![allow(clippy::unwrap_used, reason = "a failure is a failed test")]
#![allow(dead_code, reason = "each test uses a part")]

use std::collections::VecDeque;
use std::fs;
use std::io;
use std::mem::{self, size_of};
use std::net::UdpSocket;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use postern_nic_owner::frame_port::FramePort;

#[path = "../confined/mod.rs"]
pub mod confined;

/// How long a test waits for what must happen before it fails.
pub const PATIENCE: Duration = Duration::from_secs(30);
/// IEEE 802 local experimental EtherType: nobody else's frames have it.
pub const KIND: [u8; 2] = [0x88, 0xb5];
pub const TAG: [u8; 2] = [0x81, 0x00];

/// Runs `body` in a new network namespace without IPv6, or prints why that cannot be.
pub fn in_namespace(body: impl FnOnce() -> Result<(), String> + Send) {
    confined::on();
    let result = thread::scope(|scope| {
        let thread = scope.spawn(|| {
            // SAFETY: only this thread moves to the new namespace.
            if unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0 {
                let error = io::Error::last_os_error();
                return Err(format!(
                    "no network namespace can be made ({error}); run as root"
                ));
            }
            let _ = fs::write("/proc/sys/net/ipv6/conf/all/disable_ipv6", "1");
            let _ = fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1");
            body()
        });
        thread.join()
    });
    match result {
        Ok(Ok(())) => {}
        Ok(Err(reason)) => println!("SKIP: {reason}"),
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

/// Runs `ip` with these arguments in this thread's namespace.
pub fn ip(arguments: &str) -> Result<(), String> {
    let output = Command::new("ip")
        .args(arguments.split_whitespace())
        .output()
        .map_err(|error| format!("the command ip cannot be run ({error}); install iproute2"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(format!("`ip {arguments}` failed: {}", said.trim()))
}

/// Makes the veth pair `near`, `far`, both up with this MTU.
pub fn veth(mtu: u32) -> Result<(), String> {
    ip(&format!(
        "link add near mtu {mtu} type veth peer name far mtu {mtu}"
    ))?;
    ip("link set near up")?;
    ip("link set far up")
}

/// A frame of `length` bytes: addresses, [`KIND`], and bytes that follow from `seed`.
pub fn frame(length: usize, seed: u64) -> Vec<u8> {
    let mut bytes = vec![0x02, 0, 0, 0, 0, 1, 0x02, 0, 0, 0, 0, 2];
    bytes.extend(KIND);
    let mut word = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    while bytes.len() < length {
        word ^= word << 13;
        word ^= word >> 7;
        word ^= word << 17;
        bytes.push(word as u8);
    }
    bytes.truncate(length);
    bytes
}

/// The same with a VLAN tag, of `length` bytes with it.
pub fn tagged(length: usize, seed: u64, vlan: u16) -> Vec<u8> {
    let mut bytes = frame(length - 4, seed);
    let [high, low] = vlan.to_be_bytes();
    bytes.splice(12..12, [TAG[0], TAG[1], high, low]);
    bytes
}

/// Whether a frame is one of the test's.
pub fn is_ours(frame: &[u8]) -> bool {
    frame.get(12..14) == Some(&KIND[..]) || frame.get(16..18) == Some(&KIND[..])
}

/// A plain packet socket on an interface: the other end of the wire.
pub struct Wire(OwnedFd);

impl Wire {
    pub fn open(interface: &str) -> Wire {
        let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC;
        // SAFETY: no memory is involved; a new descriptor.
        let socket = unsafe { OwnedFd::from_raw_fd(libc::socket(libc::AF_PACKET, kind, 0)) };
        let name = std::ffi::CString::new(interface).unwrap();
        // SAFETY: the name is a string that ends in zero.
        let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
        for (level, option, value) in [
            (libc::SOL_PACKET, 23, 1), // PACKET_IGNORE_OUTGOING
            (libc::SOL_PACKET, libc::PACKET_AUXDATA, 1),
            (libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, 64 << 20),
            (libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, 64 << 20),
        ] {
            let value: i32 = value;
            // SAFETY: these options take an int.
            let result = unsafe {
                libc::setsockopt(
                    socket.as_raw_fd(),
                    level,
                    option,
                    (&raw const value).cast(),
                    4,
                )
            };
            assert_eq!(result, 0, "{}", io::Error::last_os_error());
        }
        // SAFETY: all zeros is a valid value.
        let mut address: libc::sockaddr_ll = unsafe { mem::zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = (libc::ETH_P_ALL as u16).to_be();
        address.sll_ifindex = index as i32;
        let size = size_of::<libc::sockaddr_ll>() as u32;
        // SAFETY: pointer and size are those of `address`.
        let result = unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), size) };
        assert_eq!(result, 0, "{}", io::Error::last_os_error());
        Wire(socket)
    }

    pub fn send(&self, frame: &[u8]) {
        // SAFETY: pointer and size are those of `frame`.
        let sent = unsafe { libc::send(self.0.as_raw_fd(), frame.as_ptr().cast(), frame.len(), 0) };
        let error = io::Error::last_os_error();
        assert_eq!(
            sent,
            frame.len() as isize,
            "{error} ({} bytes)",
            frame.len()
        );
    }

    /// The next frame of the test's, with its VLAN tag; waits for it.
    pub fn receive(&self) -> Vec<u8> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.try_receive() {
                Some(frame) if is_ours(&frame) => return frame,
                Some(_) => {}
                None => {
                    assert!(Instant::now() < deadline, "no frame comes out of the wire");
                    thread::sleep(Duration::from_micros(200));
                }
            }
        }
    }

    pub fn try_receive(&self) -> Option<Vec<u8>> {
        let mut bytes = vec![0u8; 70_000];
        let mut control = [0u64; 16];
        let mut part = libc::iovec {
            iov_base: bytes.as_mut_ptr().cast(),
            iov_len: bytes.len(),
        };
        // SAFETY: all zeros is a valid value.
        let mut message: libc::msghdr = unsafe { mem::zeroed() };
        message.msg_iov = &raw mut part;
        message.msg_iovlen = 1;
        message.msg_control = control.as_mut_ptr().cast();
        // Of another type with each C library.
        message.msg_controllen = size_of_val(&control) as _;
        // SAFETY: the message points to memory of the sizes given.
        let length =
            unsafe { libc::recvmsg(self.0.as_raw_fd(), &raw mut message, libc::MSG_DONTWAIT) };
        if length < 0 {
            return None;
        }
        bytes.truncate(length as usize);
        // SAFETY: the kernel filled the message.
        let header = unsafe { libc::CMSG_FIRSTHDR(&raw const message) };
        if !header.is_null() {
            // struct tpacket_auxdata: status, len, snaplen (u32), mac, net, tci, tpid (u16)
            // SAFETY: the only control message that was asked for.
            let data = unsafe { libc::CMSG_DATA(header).cast::<[u8; 20]>().read_unaligned() };
            let status = u32::from_ne_bytes(data[..4].try_into().unwrap());
            if status & 0x10 != 0 {
                let tag = [data[19], data[18], data[17], data[16]];
                bytes.splice(12..12, tag);
            }
        }
        Some(bytes)
    }
}

#[derive(Default)]
struct State {
    taken: VecDeque<Vec<u8>>,
    waiting: VecDeque<Vec<u8>>,
    /// Frames taken of one request, `None` for all.
    limit: Option<usize>,
    /// How often the stations behind it were to be forgotten.
    forgotten: usize,
}

/// A port with nothing behind it but two lists.
#[derive(Clone, Default)]
pub struct Lists(Arc<Mutex<State>>);

impl Lists {
    /// Of each request only so many are taken.
    pub fn limit(&self, limit: usize) {
        self.0.lock().unwrap().limit = Some(limit);
    }

    /// Adds a frame that the uplink will receive.
    pub fn give(&self, frame: Vec<u8>) {
        self.0.lock().unwrap().waiting.push_back(frame);
    }

    /// How often the stations behind it were to be forgotten.
    pub fn forgotten(&self) -> usize {
        self.0.lock().unwrap().forgotten
    }

    /// Frames that the uplink has not yet received.
    pub fn waiting(&self) -> usize {
        self.0.lock().unwrap().waiting.len()
    }

    pub fn try_take(&self) -> Option<Vec<u8>> {
        self.0.lock().unwrap().taken.pop_front()
    }

    /// The next frame of the test's that the uplink has sent; waits for it.
    pub fn take(&self) -> Vec<u8> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.try_take() {
                Some(frame) if is_ours(&frame) => return frame,
                Some(_) => {}
                None => {
                    assert!(Instant::now() < deadline, "no frame comes to the port");
                    thread::sleep(Duration::from_micros(200));
                }
            }
        }
    }
}

impl FramePort for Lists {
    fn send(&mut self, frames: &[&[u8]]) -> usize {
        let mut state = self.0.lock().unwrap();
        let count = frames.len().min(state.limit.unwrap_or(usize::MAX));
        state
            .taken
            .extend(frames[..count].iter().map(|frame| frame.to_vec()));
        count
    }

    fn receive(&mut self, most: usize, sink: &mut dyn FnMut(&[u8])) -> usize {
        let frames: Vec<_> = {
            let mut state = self.0.lock().unwrap();
            let count = most.min(state.waiting.len());
            state.waiting.drain(..count).collect()
        };
        frames.iter().for_each(|frame| sink(frame));
        frames.len()
    }

    fn forget_stations(&mut self) {
        self.0.lock().unwrap().forgotten += 1;
    }
}

/// Has the kernel take several datagrams of `size` bytes at once.
pub fn set_segment(socket: &UdpSocket, size: libc::c_int) -> Result<(), String> {
    let value = (&raw const size).cast();
    let (level, option) = (libc::SOL_UDP, libc::UDP_SEGMENT);
    // SAFETY: the option takes an int.
    match unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, value, 4) } {
        0 => Ok(()),
        _ => Err("this kernel has no UDP_SEGMENT".into()),
    }
}

/// Waits until `done`, or fails.
pub fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < deadline, "{what} does not happen");
        thread::sleep(Duration::from_micros(500));
    }
}
