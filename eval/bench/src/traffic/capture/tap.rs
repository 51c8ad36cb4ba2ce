//! A packet socket (packet(7)) that sees every frame of one interface, both directions.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{self, AddressFamily, Protocol, RecvFlags, SocketType};

use super::Error;

/// Room for frames that wait to be read, in bytes: all of a capture, and several times over.
const BUFFER: libc::c_int = 32 << 20;

/// `ETH_P_ALL` as the kernel wants it: big endian.
const ALL_PROTOCOLS: u16 = (libc::ETH_P_ALL as u16).to_be();

/// SIOCGSTAMPNS: time at which the kernel took the frame that was last read (socket(7)).
const SIOCGSTAMPNS: u64 = 0x8907;

/// An open capture. Frames wait in the kernel until [`Tap::drain`].
#[derive(Debug)]
pub struct Tap {
    socket: OwnedFd,
}

impl Tap {
    /// Begins to capture on `interface` of the calling thread's namespace.
    pub fn open(interface: &str) -> Result<Tap, Error> {
        let failed = |what| move |source: io::Error| Error::Capture { what, source };
        let protocol = std::num::NonZeroU32::new(u32::from(ALL_PROTOCOLS)).map(Protocol::from_raw);
        let socket = net::socket(AddressFamily::PACKET, SocketType::RAW, protocol)
            .map_err(io::Error::from)
            .map_err(failed("open a packet socket (CAP_NET_RAW)"))?;
        let tap = Tap { socket };
        set_option(&tap.socket, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, &BUFFER)
            .map_err(failed("enlarge the buffer of a packet socket"))?;
        tap.bind(interface)
            .map_err(failed("bind a packet socket"))?;
        // The first question about time switches time stamps on; there is no frame yet to answer
        // for.
        let _ = tap.time();
        Ok(tap)
    }

    fn bind(&self, interface: &str) -> io::Result<()> {
        let index = net::netdevice::name_to_index(&self.socket, interface)?;
        // SAFETY: all zeros is a valid sockaddr_ll.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = ALL_PROTOCOLS;
        address.sll_ifindex = index as i32;
        // SAFETY: the address is a sockaddr_ll and the length is its size; the kernel copies it.
        let result = unsafe {
            libc::bind(
                self.socket.as_raw_fd(),
                (&raw const address).cast(),
                size_of_val(&address) as u32,
            )
        };
        check(result)
    }

    /// Reads all frames captured so far, and ends the capture.
    pub fn drain(self) -> Result<Vec<(Duration, Vec<u8>)>, Error> {
        let failed = |what| move |source: io::Error| Error::Capture { what, source };
        let mut frames = Vec::new();
        let mut buffer = vec![0_u8; 1 << 16];
        loop {
            let flags = RecvFlags::DONTWAIT | RecvFlags::TRUNC;
            match net::recv(self.socket.as_fd(), &mut buffer[..], flags) {
                Ok((_, length)) => {
                    let frame = buffer.get(..length).ok_or(Error::TooLong { length })?;
                    let time = self.time().map_err(failed("read the time of a frame"))?;
                    frames.push((time, frame.to_vec()));
                }
                Err(Errno::AGAIN) => break,
                Err(Errno::INTR) => {}
                Err(error) => return Err(failed("read a frame")(error.into())),
            }
        }
        match self
            .dropped()
            .map_err(failed("read the packet socket's counters"))?
        {
            0 => Ok(frames),
            count => Err(Error::Dropped { count }),
        }
    }

    /// Since the epoch, when the frame read last was captured.
    fn time(&self) -> io::Result<Duration> {
        let mut time = libc::timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        // SAFETY: SIOCGSTAMPNS writes one timespec.
        check(unsafe { libc::ioctl(self.socket.as_raw_fd(), SIOCGSTAMPNS as _, &raw mut time) })?;
        Ok(Duration::new(time.tv_sec as u64, time.tv_nsec as u32))
    }

    /// Number of frames that found the buffer full.
    fn dropped(&self) -> io::Result<u32> {
        /// `struct tpacket_stats` of linux/if_packet.h.
        #[repr(C)]
        #[derive(Default)]
        struct Stats {
            packets: u32,
            drops: u32,
        }
        let mut stats = Stats::default();
        let mut size = size_of::<Stats>() as libc::socklen_t;
        // SAFETY: PACKET_STATISTICS writes one tpacket_stats, at most `size` bytes.
        check(unsafe {
            libc::getsockopt(
                self.socket.as_raw_fd(),
                libc::SOL_PACKET,
                libc::PACKET_STATISTICS,
                (&raw mut stats).cast(),
                &raw mut size,
            )
        })?;
        Ok(stats.drops)
    }
}

fn set_option(socket: &OwnedFd, level: i32, name: i32, value: &libc::c_int) -> io::Result<()> {
    // SAFETY: the option takes an int, which the pointer and the length describe.
    check(unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            name,
            std::ptr::from_ref(value).cast(),
            size_of_val(value) as u32,
        )
    })
}

fn check(result: libc::c_int) -> io::Result<()> {
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
