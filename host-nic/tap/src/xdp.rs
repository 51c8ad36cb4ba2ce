//! XDP programs of an interface, as far as the kernel tells of them (rtnetlink(7), `rtnl_xdp_fill` in
//! net/core/rtnetlink.c).
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

/// Where the XDP program of the interface `name` is, if it has one, in the words of ip-link(8).
pub(crate) fn attached(name: &str) -> io::Result<Option<&'static str>> {
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
    let program = attributes(all)
        .filter(|(kind, _)| *kind == libc::IFLA_XDP)
        .flat_map(|(_, nested)| attributes(nested))
        .find(|(kind, _)| *kind == ATTACHED);
    Ok(match program.and_then(|(_, value)| value.first()) {
        None | Some(0) => None,
        // XDP_ATTACHED_SKB, XDP_ATTACHED_HW; else in the driver, and perhaps at other places, too.
        Some(2) => Some("xdpgeneric"),
        Some(3) => Some("xdpoffload"),
        Some(_) => Some("xdpdrv"),
    })
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
        assert_eq!(attached("lo").unwrap(), None);
        let error = attached("no-such-one").unwrap_err();
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
