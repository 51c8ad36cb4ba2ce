//! Two network namespaces and the virtual Ethernet link between them.

use std::ffi::c_void;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::AsRawFd;
use std::process::Command;

use rustix::thread::UnshareFlags;

use super::Error;

/// One end of the link.
#[derive(Clone, Copy, Debug)]
pub struct End {
    /// Name of the interface.
    pub name: &'static str,
    /// Its Ethernet address, locally administered.
    mac: &'static str,
    /// Its IP address.
    pub address: Ipv4Addr,
}

/// The end that asks, and is captured.
pub const CLIENT: End = End {
    name: "client0",
    mac: "02:00:00:00:00:01",
    address: Ipv4Addr::new(10, 0, 0, 1),
};

/// The end that answers.
pub const SERVER: End = End {
    name: "server0",
    mac: "02:00:00:00:00:02",
    address: Ipv4Addr::new(10, 0, 0, 2),
};

/// Bits of the network part of both addresses.
const PREFIX: u8 = 24;

/// Commands of SIOCETHTOOL that set one feature on or off (linux/ethtool.h).
const OFFLOADS: [(u32, &str); 5] = [
    (0x17, "switch transmit checksums (ETHTOOL_STXCSUM) off"),
    (0x15, "switch receive checksums (ETHTOOL_SRXCSUM) off"),
    (0x1f, "switch TCP segmentation (ETHTOOL_STSO) off"),
    (0x24, "switch generic segmentation (ETHTOOL_SGSO) off"),
    (0x2c, "switch generic receive offload (ETHTOOL_SGRO) off"),
];

/// Moves the calling thread to a new network namespace, which lives as long as something uses it.
pub fn leave_network() -> Result<(), Error> {
    // SAFETY: of all that threads can stop sharing only the network is named: no memory, file
    // descriptor or thread of the process changes.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }.map_err(|error| {
        Error::Namespace {
            source: error.into(),
        }
    })
}

/// Makes the link, from the calling thread's namespace to that of the thread `peer`.
pub fn create(peer: i32) -> Result<(), Error> {
    ip(&format!(
        "link add {} address {} type veth peer name {} address {} netns {peer}",
        CLIENT.name, CLIENT.mac, SERVER.name, SERVER.mac
    ))
}

/// Gives the end in the calling thread's namespace its address, takes its offloads, and starts it.
pub fn configure(end: End) -> Result<(), Error> {
    for (command, what) in OFFLOADS {
        switch_off(end.name, command).map_err(|source| Error::Capture { what, source })?;
    }
    ip(&format!(
        "address add {}/{PREFIX} dev {}",
        end.address, end.name
    ))?;
    ip(&format!("link set {} up", end.name))
}

/// Runs ip(8) in the calling thread's namespace.
fn ip(arguments: &str) -> Result<(), Error> {
    let command = || format!("ip {arguments}");
    let output = Command::new("ip")
        .args(arguments.split(' '))
        .output()
        .map_err(|source| Error::Start {
            command: command(),
            source,
        })?;
    if output.status.success() {
        return Ok(());
    }
    Err(Error::Command {
        command: command(),
        output: String::from_utf8_lossy(&output.stderr).trim().into(),
    })
}

/// Switches one offload of an interface off.
fn switch_off(interface: &str, command: u32) -> io::Result<()> {
    /// `struct ethtool_value` of linux/ethtool.h.
    #[repr(C)]
    struct EthtoolValue {
        command: u32,
        data: u32,
    }
    let mut value = EthtoolValue { command, data: 0 };
    // SAFETY: all zeros is a valid ifreq: an empty name and a null pointer or number in the union.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // The last byte stays zero.
    let room = request.ifr_name.len() - 1;
    for (to, from) in request.ifr_name[..room].iter_mut().zip(interface.bytes()) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_data = (&raw mut value).cast::<c_void>().cast();
    let socket = std::net::UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    // SAFETY: the request names an interface with a terminated string and points to an
    // ethtool_value, which is what these commands read; both outlive the call.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCETHTOOL as _, &request) };
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
