//! A network interface of the host: its name, its state, and its MTU.

use std::ffi::c_short;
use std::io;
use std::mem::size_of;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, netdevice, socket_with};

use postern_abi::window::{MAX_FRAME, MIN_FRAME};

use super::error::{UplinkError, failed};

/// Size of an Ethernet header in bytes: the shortest frame is one.
const HEADER: usize = MIN_FRAME as usize;
/// Size of a VLAN tag in bytes.
const TAG: usize = 4;
/// Largest MTU in bytes with which every frame passes.
pub(super) const MAX_MTU: u32 = MAX_FRAME - (HEADER + TAG) as u32;
/// Number of times that an interface may be renamed while it is looked at.
const RENAMES: u32 = 4;
/// The capability that a process needs to open a packet socket.
const PACKET_NEEDS: &str = "CAP_NET_RAW";

/// Whether an interface carries frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkState {
    /// It does.
    Up,
    /// It is up, and has no carrier, or waits for something else (RFC 2863 `ifOperStatus`): what IEEE
    /// 802.1AC calls not operational.
    NoCarrier,
    /// Somebody has brought it down.
    Down,
}

impl LinkState {
    /// The obstacle to frames of `interface`, if there is one.
    pub fn obstacle(self, interface: &str) -> Option<UplinkError> {
        let interface = interface.to_owned();
        match self {
            LinkState::Up => None,
            LinkState::NoCarrier => Some(UplinkError::NoCarrier { interface }),
            LinkState::Down => Some(UplinkError::Down { interface }),
        }
    }
}

/// One network interface, known by its index (it may be renamed) in the network namespace in which
/// this process found it.
#[derive(Debug)]
pub struct Link {
    socket: OwnedFd,
    index: u32,
    name: String,
    mtu: u32,
}

impl Link {
    /// Finds an Ethernet interface, up or down.
    ///
    /// # Errors
    ///
    /// There is no such interface, or it is not Ethernet.
    pub fn find(name: &str) -> Result<Link, UplinkError> {
        check_name(name)?;
        let socket = control_socket(name)?;
        let index = match netdevice::name_to_index(&socket, name) {
            Ok(index) => index,
            Err(errno) => return Err(failed("find", name, "CAP_NET_ADMIN", errno.into())),
        };
        let mut link = Link {
            socket,
            index,
            name: name.to_owned(),
            mtu: 0,
        };
        let mut request = link.request();
        link.ioctl(
            "read the hardware type of",
            libc::SIOCGIFHWADDR,
            &mut request,
        )?;
        // SAFETY: SIOCGIFHWADDR has filled this member of the union.
        let kind = unsafe { request.ifr_ifru.ifru_hwaddr.sa_family };
        if kind != libc::ARPHRD_ETHER {
            return Err(UplinkError::NotEthernet {
                interface: link.name,
                kind,
            });
        }
        link.read_mtu()?;
        Ok(link)
    }

    /// Finds an Ethernet interface that is up.
    ///
    /// # Errors
    ///
    /// There is no such interface, it is not Ethernet, or it is down.
    pub fn open(name: &str) -> Result<Link, UplinkError> {
        let mut link = Link::find(name)?;
        match link.look()? {
            LinkState::Down => Err(link.down()),
            LinkState::NoCarrier | LinkState::Up => Ok(link),
        }
    }

    /// The index of the interface.
    pub fn index(&self) -> u32 {
        self.index
    }

    /// The name of the interface, when last looked at.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The longest frame in bytes, with or without a VLAN tag, that fits its MTU as last looked at.
    pub fn longest(&self, tagged: bool) -> usize {
        let tag = if tagged { TAG } else { 0 };
        (self.mtu as usize + HEADER + tag).min(MAX_FRAME as usize)
    }

    /// Looks at the interface again.
    ///
    /// # Errors
    ///
    /// The interface is gone, or the kernel refuses.
    pub fn look(&mut self) -> Result<LinkState, UplinkError> {
        for _ in 0..RENAMES {
            self.find_again()?;
            match self.read_state() {
                // Renamed since: the kernel tells the state by name alone.
                Err(UplinkError::Gone { .. }) => {}
                state => return state,
            }
        }
        Err(self.gone())
    }

    /// Reads state and MTU of the interface that has the name now.
    fn read_state(&mut self) -> Result<LinkState, UplinkError> {
        let flags = self.flags()?;
        self.read_mtu()?;
        let has = |flag: i32| flags & flag as c_short != 0;
        Ok(match (has(libc::IFF_UP), has(libc::IFF_RUNNING)) {
            (true, true) => LinkState::Up,
            (true, false) => LinkState::NoCarrier,
            (false, _) => LinkState::Down,
        })
    }

    fn find_again(&mut self) -> Result<(), UplinkError> {
        match netdevice::index_to_name(&self.socket, self.index) {
            Ok(name) => {
                self.name = name;
                Ok(())
            }
            Err(Errno::NODEV) => Err(self.gone()),
            Err(errno) => Err(failed("look at", &self.name, "CAP_NET_ADMIN", errno.into())),
        }
    }

    /// The error for an interface that is no longer there.
    pub(super) fn gone(&self) -> UplinkError {
        UplinkError::Gone {
            interface: self.name.clone(),
        }
    }

    fn down(&self) -> UplinkError {
        UplinkError::Down {
            interface: self.name.clone(),
        }
    }

    /// The meaning of an error of the kernel in `step` on a device that was open.
    pub(super) fn broken(&mut self, step: &'static str, source: io::Error) -> UplinkError {
        match self.look() {
            Err(reason) => return reason,
            Ok(LinkState::Down) => return self.down(),
            Ok(LinkState::NoCarrier | LinkState::Up) => {}
        }
        match source.raw_os_error() {
            // Down and up again before this process looked.
            Some(libc::ENETDOWN | libc::EIO) => self.down(),
            Some(libc::ENXIO | libc::ENODEV | libc::EBADFD) => self.gone(),
            _ => failed(step, &self.name, "CAP_NET_ADMIN", source),
        }
    }

    /// Brings the interface up.
    pub(super) fn bring_up(&mut self) -> Result<(), UplinkError> {
        let flags = self.flags()?;
        if flags & libc::IFF_UP as c_short != 0 {
            return Ok(());
        }
        let mut request = self.request();
        request.ifr_ifru.ifru_flags = flags | libc::IFF_UP as c_short;
        self.ioctl("bring up", libc::SIOCSIFFLAGS, &mut request)
    }

    /// Sets the MTU, in bytes.
    pub(super) fn set_mtu(&mut self, mtu: u32) -> Result<(), UplinkError> {
        let mut request = self.request();
        request.ifr_ifru.ifru_mtu = mtu as i32;
        self.ioctl("set the MTU of", libc::SIOCSIFMTU, &mut request)?;
        self.read_mtu()
    }

    fn read_mtu(&mut self) -> Result<(), UplinkError> {
        let mut request = self.request();
        self.ioctl("read the MTU of", libc::SIOCGIFMTU, &mut request)?;
        // SAFETY: SIOCGIFMTU has filled this member of the union.
        self.mtu = unsafe { request.ifr_ifru.ifru_mtu }.max(0) as u32;
        Ok(())
    }

    fn flags(&self) -> Result<c_short, UplinkError> {
        let mut request = self.request();
        self.ioctl("read the state of", libc::SIOCGIFFLAGS, &mut request)?;
        // SAFETY: SIOCGIFFLAGS has filled this member of the union.
        Ok(unsafe { request.ifr_ifru.ifru_flags })
    }

    fn request(&self) -> libc::ifreq {
        postern_tap::request(&self.name)
    }

    fn ioctl(
        &self,
        step: &'static str,
        number: libc::c_ulong,
        request: &mut libc::ifreq,
    ) -> Result<(), UplinkError> {
        // C libraries differ in the type.
        let number = number as libc::Ioctl;
        // SAFETY: all `SIOC?IF*` requests of this module take one `struct ifreq`.
        let result = unsafe { libc::ioctl(self.socket.as_raw_fd(), number, &raw mut *request) };
        if result == 0 {
            return Ok(());
        }
        let source = io::Error::last_os_error();
        match source.raw_os_error() {
            Some(libc::ENODEV) => Err(self.gone()),
            _ => Err(failed(step, &self.name, "CAP_NET_ADMIN", source)),
        }
    }
}

/// Whether the kernel can have an interface of this name.
pub(super) fn check_name(name: &str) -> Result<(), UplinkError> {
    postern_tap::check_name(name).map_err(|reason| UplinkError::Name {
        name: name.into(),
        reason,
    })
}

fn control_socket(name: &str) -> Result<OwnedFd, UplinkError> {
    socket_with(
        AddressFamily::UNIX,
        SocketType::DGRAM,
        SocketFlags::CLOEXEC,
        None,
    )
    .map_err(|errno| failed("find", name, "CAP_NET_ADMIN", errno.into()))
}

/// Sets an option of a socket that `T` is the argument of.
///
/// # Safety
///
/// `T` must be plain data of the layout that this option takes.
pub(super) unsafe fn set_option<T>(
    socket: impl AsFd,
    level: i32,
    name: u32,
    value: &T,
) -> io::Result<()> {
    // SAFETY: the pointer and size are those of `value`; the caller vouches for its type.
    let result = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            level,
            name as i32,
            (&raw const *value).cast(),
            size_of::<T>() as u32,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// A packet socket that receives nothing yet.
pub(super) fn packet_socket(interface: &str) -> Result<OwnedFd, UplinkError> {
    let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: socket(2) takes three numbers, and touches no memory of this process.
    let socket = unsafe { libc::socket(libc::AF_PACKET, kind, 0) };
    if socket < 0 {
        let source = io::Error::last_os_error();
        return Err(failed(
            "open a packet socket for",
            interface,
            PACKET_NEEDS,
            source,
        ));
    }
    // SAFETY: socket(2) has just made this descriptor, which nobody else has.
    Ok(unsafe { OwnedFd::from_raw_fd(socket) })
}

/// Has a packet socket keep an interface in promiscuous mode while the socket exists.
pub(super) fn promiscuous(socket: impl AsFd, index: u32) -> io::Result<()> {
    let request = linux_raw_sys::if_packet::packet_mreq {
        mr_ifindex: index as i32,
        mr_type: linux_raw_sys::if_packet::PACKET_MR_PROMISC as u16,
        mr_alen: 0,
        mr_address: [0; 8],
    };
    let option = linux_raw_sys::if_packet::PACKET_ADD_MEMBERSHIP;
    // SAFETY: the option takes a `struct packet_mreq`.
    unsafe { set_option(socket, libc::SOL_PACKET, option, &request) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_ethernet_interface_is_named() {
        let error = Link::find("no-such-one").unwrap_err().to_string();
        assert!(
            error.contains("no network interface no-such-one"),
            "{error}"
        );
        let error = Link::find("lo").unwrap_err().to_string();
        assert!(error.contains("lo is not Ethernet"), "{error}");
    }
}
