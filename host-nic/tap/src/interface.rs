//! A network interface of the host, by its name.

use std::ffi::{c_char, c_short};
use std::io;
use std::mem;
use std::os::fd::{AsRawFd, OwnedFd};

use rustix::net::{AddressFamily, SocketFlags, SocketType, netdevice, socket_with};

use crate::error::TapError;
use crate::netlink;

/// Adds an interface to a bridge (linux/sockios.h).
const SIOCBRADDIF: libc::c_ulong = 0x89a2;

/// A network interface, by its name in the network namespace in which this process found it.
#[derive(Debug)]
pub struct Interface {
    socket: OwnedFd,
    name: String,
}

impl Interface {
    /// The interface `name`; whether there is one is seen when it is looked at.
    ///
    /// # Errors
    ///
    /// No interface can have this name, or the process has no descriptor left.
    pub fn new(name: &str) -> Result<Interface, TapError> {
        check(name)?;
        let (family, kind) = (AddressFamily::UNIX, SocketType::DGRAM);
        let socket = socket_with(family, kind, SocketFlags::CLOEXEC, None)
            .map_err(|errno| TapError::new("look at interface", name, errno.into()))?;
        Ok(Interface {
            socket,
            name: name.to_owned(),
        })
    }

    /// Whether this is a TAP that somebody has open: its carrier is on then (`tun_set_iff`,
    /// `__tun_detach`), be it up or down.
    pub fn carrier(&self) -> bool {
        netlink::look(&self.name).is_ok_and(|link| link.is_tun() && link.carrier())
    }

    /// What to tell people if an XDP program is attached to the interface: it sees the frames first,
    /// and stays when who attached it has ended, so that nothing else says why none arrive. `None`
    /// without one, and where the kernel does not say.
    pub fn xdp_notice(&self) -> Option<String> {
        let name = &self.name;
        let place = netlink::look(name).ok()?.xdp()?;
        Some(format!(
            "an XDP program on {name} sees the frames first, and may keep them; if nobody needs it, \
             remove it with `ip link set {name} {place} off`"
        ))
    }

    /// Brings the interface up, if it is not.
    ///
    /// # Errors
    ///
    /// The kernel refuses.
    pub fn bring_up(&self) -> Result<(), TapError> {
        let mut request = request(&self.name);
        self.ioctl(
            "read the state of interface",
            libc::SIOCGIFFLAGS,
            &mut request,
        )?;
        // SAFETY: SIOCGIFFLAGS has filled this member of the union.
        let flags = unsafe { request.ifr_ifru.ifru_flags };
        if flags & libc::IFF_UP as c_short != 0 {
            return Ok(());
        }
        request.ifr_ifru.ifru_flags = flags | libc::IFF_UP as c_short;
        self.ioctl("bring up interface", libc::SIOCSIFFLAGS, &mut request)
    }

    /// The MTU, in bytes.
    ///
    /// # Errors
    ///
    /// The interface is gone.
    pub fn mtu(&self) -> Result<u32, TapError> {
        let mut request = request(&self.name);
        self.ioctl("read the MTU of interface", libc::SIOCGIFMTU, &mut request)?;
        // SAFETY: SIOCGIFMTU has filled this member of the union.
        Ok(unsafe { request.ifr_ifru.ifru_mtu }.max(0) as u32)
    }

    /// Sets the MTU, in bytes, if it is another.
    ///
    /// # Errors
    ///
    /// The kernel refuses.
    pub fn set_mtu(&self, mtu: u32) -> Result<(), TapError> {
        if self.mtu()? == mtu {
            return Ok(());
        }
        let mut request = request(&self.name);
        request.ifr_ifru.ifru_mtu = mtu as i32;
        self.ioctl("set the MTU of interface", libc::SIOCSIFMTU, &mut request)
    }

    /// Sets the address of the interface, if it is another.
    ///
    /// # Errors
    ///
    /// The kernel refuses.
    pub fn set_mac(&self, mac: [u8; 6]) -> Result<(), TapError> {
        let mut request = request(&self.name);
        let step = "read the address of interface";
        self.ioctl(step, libc::SIOCGIFHWADDR, &mut request)?;
        // SAFETY: SIOCGIFHWADDR has filled this member of the union.
        let mut address = unsafe { request.ifr_ifru.ifru_hwaddr };
        let wanted = mac.map(|byte| byte as c_char);
        if address.sa_data.starts_with(&wanted) {
            return Ok(());
        }
        for (to, byte) in address.sa_data.iter_mut().zip(wanted) {
            *to = byte;
        }
        request.ifr_ifru.ifru_hwaddr = address;
        let step = "set the address of interface";
        self.ioctl(step, libc::SIOCSIFHWADDR, &mut request)
    }

    /// The number of the interface.
    ///
    /// # Errors
    ///
    /// There is no such interface.
    pub fn index(&self) -> Result<u32, TapError> {
        netdevice::name_to_index(&self.socket, &self.name)
            .map_err(|errno| TapError::new("find interface", &self.name, errno.into()))
    }

    /// Makes the interface `member` one of this one, a bridge; nothing is done where it is.
    ///
    /// # Errors
    ///
    /// This is no bridge, the other one is a member of another, or the kernel refuses.
    pub fn add_member(&self, member: &Interface) -> Result<(), TapError> {
        let master = netlink::look(&member.name)
            .ok()
            .and_then(|link| link.master());
        if master == Some(self.index()?) {
            return Ok(());
        }
        let mut request = request(&self.name);
        request.ifr_ifru.ifru_ifindex = member.index()? as i32;
        self.ioctl("add an interface to bridge", SIOCBRADDIF, &mut request)
    }

    fn ioctl(
        &self,
        step: &'static str,
        number: libc::c_ulong,
        request: &mut libc::ifreq,
    ) -> Result<(), TapError> {
        // C libraries differ in the type.
        let number = number as libc::Ioctl;
        // SAFETY: the requests of this module take one `struct ifreq`; what its pointer, if it has
        // one, points to lives in the caller.
        match unsafe { libc::ioctl(self.socket.as_raw_fd(), number, &raw mut *request) } {
            0 => Ok(()),
            _ => Err(TapError::new(step, &self.name, io::Error::last_os_error())),
        }
    }
}

/// A `struct ifreq` for the interface `name`, whose length was checked.
pub fn request(name: &str) -> libc::ifreq {
    // SAFETY: all zeros is a valid value of this plain structure.
    let mut request: libc::ifreq = unsafe { mem::zeroed() };
    let room = libc::IFNAMSIZ - 1;
    for (to, &byte) in request.ifr_name.iter_mut().zip(name.as_bytes()).take(room) {
        *to = byte as c_char;
    }
    request
}

/// Whether the kernel can have an interface of this name (`dev_valid_name`, `dev_alloc_name`).
///
/// # Errors
///
/// What is wrong with it.
pub fn check_name(name: &str) -> Result<(), &'static str> {
    Err(if name.is_empty() {
        "it is empty"
    } else if name.len() >= libc::IFNAMSIZ {
        "it is longer than 15 bytes"
    } else if name == "." || name == ".." {
        "it is a directory"
    } else if name.contains(['/', ':', '%', '\0']) {
        "it contains a slash, a colon, a percent sign or a zero byte"
    } else if name.contains(char::is_whitespace) {
        "it contains white space"
    } else {
        return Ok(());
    })
}

/// The same, with the error of a TAP.
pub(crate) fn check(name: &str) -> Result<(), TapError> {
    check_name(name).map_err(|reason| TapError::Name {
        name: name.into(),
        reason,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn impossible_names_are_refused() {
        for name in [
            "",
            ".",
            "..",
            "a/b",
            "a b",
            "tap%d",
            "x\0",
            "a:1",
            "sixteen-bytes-xx",
        ] {
            assert!(check_name(name).is_err(), "{name:?}");
        }
        for name in ["eth0", "fifteen-bytes-x", "br-12ab", "µ"] {
            assert!(check_name(name).is_ok(), "{name:?}");
        }
    }

    #[test]
    fn an_interface_that_is_not_there_is_named() {
        let interface = Interface::new("no-such-one").unwrap();
        let error = interface.mtu().unwrap_err().to_string();
        assert!(error.contains("no-such-one"), "{error}");
        assert!(!interface.carrier());
    }
}
