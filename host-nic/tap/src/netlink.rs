//! What the kernel says of an interface (rtnetlink(7), `rtnl_fill_ifinfo` in net/core/rtnetlink.c).
#![forbid(unsafe_code)]

use std::io;

use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};
use rustix::net::{recv, send, socket_with};

/// Sizes of `struct nlmsghdr` and `struct ifinfomsg`, in bytes.
const HEADER: usize = 16;
const INFO: usize = 16;
/// Size of the header of an attribute (`struct rtattr`), in bytes.
const ATTRIBUTE: usize = 4;
/// Larger than the answer for one interface.
const ANSWER: usize = 64 << 10;
/// `IFLA_XDP_ATTACHED` (linux/if_link.h): one byte, 0 for no program.
const ATTACHED: u16 = 2;
/// Bits of an attribute's type that are no flags (`NLA_TYPE_MASK`).
const TYPE_MASK: u16 = 0x3fff;

/// An answer of the kernel about an interface.
pub(crate) struct Link(Vec<u8>);

/// Asks about the interface `name`.
///
/// # Errors
///
/// There is no such interface, or the kernel does not say.
pub(crate) fn look(name: &str) -> io::Result<Link> {
    let (family, kind) = (AddressFamily::NETLINK, SocketType::RAW);
    let socket = socket_with(family, kind, SocketFlags::CLOEXEC, None)?;
    send(&socket, &request(name), SendFlags::empty())?;
    let mut answer = vec![0; ANSWER];
    let (length, _) = recv(&socket, answer.as_mut_slice(), RecvFlags::empty())?;
    let answer = answer.get(..length).unwrap_or_default();
    let kind = u16_at(answer, 4).ok_or(io::ErrorKind::UnexpectedEof)?;
    if kind == libc::NLMSG_ERROR as u16 {
        let error = answer.get(HEADER..).and_then(|rest| rest.first_chunk());
        let error = error.map_or(libc::EIO, |error| -i32::from_ne_bytes(*error));
        return Err(io::Error::from_raw_os_error(error));
    }
    let all = answer.get(HEADER + INFO..).unwrap_or_default();
    Ok(Link(all.to_vec()))
}

impl Link {
    fn attribute(&self, wanted: u16) -> Option<&[u8]> {
        let found = attributes(&self.0).find(|(kind, _)| *kind == wanted);
        found.map(|(_, value)| value)
    }

    /// Where the interface's XDP program is, if it has one, in the words of ip-link(8).
    pub(crate) fn xdp(&self) -> Option<&'static str> {
        let nested = self.attribute(libc::IFLA_XDP)?;
        let (_, value) = attributes(nested).find(|(kind, _)| *kind == ATTACHED)?;
        match value.first()? {
            0 => None,
            // XDP_ATTACHED_SKB, XDP_ATTACHED_HW; else in the driver, and perhaps at other places, too.
            2 => Some("xdpgeneric"),
            3 => Some("xdpoffload"),
            _ => Some("xdpdrv"),
        }
    }

    /// Whether the interface has a carrier, also while it is down.
    pub(crate) fn carrier(&self) -> bool {
        let value = self.attribute(libc::IFLA_CARRIER).and_then(<[u8]>::first);
        value.is_some_and(|&value| value != 0)
    }

    /// Whether the interface is a TUN or TAP, by the name of its kind.
    pub(crate) fn is_tun(&self) -> bool {
        let nested = self.attribute(libc::IFLA_LINKINFO).unwrap_or_default();
        let kind = attributes(nested).find(|(kind, _)| *kind == libc::IFLA_INFO_KIND);
        kind.is_some_and(|(_, name)| name == b"tun\0")
    }

    /// The number of the bridge that the interface is a member of, or of what else joins interfaces.
    pub(crate) fn master(&self) -> Option<u32> {
        let value = self.attribute(libc::IFLA_MASTER)?.first_chunk()?;
        Some(u32::from_ne_bytes(*value))
    }
}

/// Asks for the interface of this name.
fn request(name: &str) -> Vec<u8> {
    let value = name.len() + 1;
    let attribute = (ATTRIBUTE + value).next_multiple_of(4);
    let mut bytes = Vec::new();
    bytes.extend(((HEADER + INFO + attribute) as u32).to_ne_bytes());
    bytes.extend(libc::RTM_GETLINK.to_ne_bytes());
    bytes.extend((libc::NLM_F_REQUEST as u16).to_ne_bytes());
    // Sequence and port: there is one answer, and it is for this socket.
    bytes.resize(HEADER + INFO, 0);
    bytes.extend(((ATTRIBUTE + value) as u16).to_ne_bytes());
    bytes.extend(libc::IFLA_IFNAME.to_ne_bytes());
    bytes.extend(name.bytes());
    bytes.resize(HEADER + INFO + attribute, 0);
    bytes
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    let bytes = bytes.get(at..)?.first_chunk()?;
    Some(u16::from_ne_bytes(*bytes))
}

/// The types and values of attributes that lie one behind the other.
fn attributes(mut rest: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16_at(rest, 0)?);
        let kind = u16_at(rest, 2)? & TYPE_MASK;
        let value = rest.get(ATTRIBUTE..length)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_answers_for_an_interface_and_for_none() {
        let link = look("lo").unwrap();
        assert_eq!((link.xdp(), link.master()), (None, None));
        assert!(!link.is_tun());
        let Err(error) = look("no-such-one") else {
            panic!("there is none");
        };
        assert_eq!(error.raw_os_error(), Some(libc::ENODEV));
    }

    #[test]
    fn attributes_end_where_the_bytes_do() {
        let bytes = [5, 0, 2, 0, 7, 0, 0, 0, 4, 0, 3, 0x80, 9, 0, 1];
        let found: Vec<_> = attributes(&bytes).collect();
        assert_eq!(found, [(2, &[7][..]), (3, &[])]);
        assert_eq!(attributes(&[0; 8]).count(), 0, "of no length");
    }
}
