//! What the kernel's command line asks of the first process.

use std::net::Ipv4Addr;

/// All that is asked.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// The root file system.
    pub root: Option<Root>,
    /// Interfaces to set up.
    pub networks: Vec<Network>,
    /// Script for the shell.
    pub run: Option<String>,
}

/// A root file system.
#[derive(Debug, PartialEq, Eq)]
pub struct Root {
    /// Path of its block device.
    pub device: String,
    /// Its type.
    pub kind: String,
}

/// An interface and its address.
#[derive(Debug, PartialEq, Eq)]
pub struct Network {
    /// Name of the interface.
    pub interface: String,
    /// Its address.
    pub address: Address,
    /// Its MTU, if not the driver's.
    pub mtu: Option<u32>,
}

/// Address of an interface.
#[derive(Debug, PartialEq, Eq)]
pub enum Address {
    /// None: the interface is only switched on.
    None,
    /// From a server.
    Dhcp,
    /// As written.
    Static {
        /// The address.
        address: Ipv4Addr,
        /// Length of its network's prefix, in bits.
        prefix: u8,
        /// Router for everything else.
        gateway: Option<Ipv4Addr>,
    },
}

/// A word that cannot be understood.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum CmdlineError {
    /// `ip=` has a part that is none.
    #[error(
        "ip={value}: {part:?} is no {what}; write ip=dhcp, or \
         ip=CLIENT::GATEWAY:NETMASK:HOST:INTERFACE:none:MTU"
    )]
    Ip {
        /// What follows `ip=`.
        value: String,
        /// The part.
        part: String,
        /// What it should be.
        what: &'static str,
    },
}

/// The interface that is meant where none is named.
const FIRST_INTERFACE: &str = "eth0";

impl Request {
    /// Reads a command line. Words that are not for the first process are passed over.
    ///
    /// # Errors
    ///
    /// [`CmdlineError`].
    pub fn parse(line: &str) -> Result<Self, CmdlineError> {
        let mut request = Self::default();
        let (mut device, mut kind) = (None, "erofs".to_owned());
        for word in words(line) {
            let Some((name, value)) = word.split_once('=') else {
                continue;
            };
            match name {
                "root" => device = Some(value.to_owned()),
                "rootfstype" => value.clone_into(&mut kind),
                "ip" => request.networks.push(network(value)?),
                "postern.run" => request.run = Some(value.to_owned()),
                _ => {}
            }
        }
        request.root = device.map(|device| Root { device, kind });
        Ok(request)
    }
}

/// The words of a command line. As for the kernel, blanks between double quotes are part of a word,
/// and the quotes are not (Linux: `next_arg`).
fn words(line: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut quoted = false;
    for c in line.chars() {
        match c {
            '"' => quoted = !quoted,
            c if c.is_ascii_whitespace() && !quoted => words.push(String::new()),
            c => words.last_mut().into_iter().for_each(|word| word.push(c)),
        }
    }
    words.retain(|word| !word.is_empty());
    words
}

fn network(value: &str) -> Result<Network, CmdlineError> {
    let error = |part: &str, what| CmdlineError::Ip {
        value: value.to_owned(),
        part: part.to_owned(),
        what,
    };
    let address = |part: &str, what| part.parse::<Ipv4Addr>().map_err(|_| error(part, what));
    let parts: Vec<&str> = value.split(':').collect();
    // INTERFACE:dhcp[:MTU], dhcp, or all of them.
    let (interface, kind, mtu) = match parts[..] {
        ["dhcp"] => ("", Address::Dhcp, ""),
        [interface, "dhcp"] => (interface, Address::Dhcp, ""),
        [interface, "dhcp", mtu] => (interface, Address::Dhcp, mtu),
        [interface, "none"] => (interface, Address::None, ""),
        [interface, "none", mtu] => (interface, Address::None, mtu),
        _ => {
            let part = |index: usize| parts.get(index).copied().unwrap_or_default();
            let netmask = match part(3) {
                "" => Ipv4Addr::new(255, 255, 255, 0),
                netmask => address(netmask, "netmask")?,
            };
            let bits = u32::from(netmask);
            if bits.leading_ones() + bits.trailing_zeros() < 32 {
                return Err(error(part(3), "netmask"));
            }
            let gateway = match part(2) {
                "" => None,
                gateway => Some(address(gateway, "gateway")?),
            };
            let kind = match (part(6), part(0)) {
                ("dhcp", _) => Address::Dhcp,
                ("none" | "off" | "", "") => Address::None,
                ("none" | "off" | "", client) => Address::Static {
                    address: address(client, "address")?,
                    prefix: bits.leading_ones() as u8,
                    gateway,
                },
                (other, _) => return Err(error(other, "way to get an address")),
            };
            (part(5), kind, part(7))
        }
    };
    let mtu = match mtu {
        "" => None,
        mtu => Some(mtu.parse().map_err(|_| error(mtu, "MTU"))?),
    };
    let interface = match interface {
        "" => FIRST_INTERFACE,
        interface => interface,
    };
    Ok(Network {
        interface: interface.to_owned(),
        address: kind,
        mtu,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fixed(last: u8, gateway: Option<u8>) -> Address {
        Address::Static {
            address: Ipv4Addr::new(10, 0, 0, last),
            prefix: 24,
            gateway: gateway.map(|last| Ipv4Addr::new(10, 0, 0, last)),
        }
    }

    #[test]
    fn a_line_says_root_networks_and_program() {
        let line = "console=ttyS0 root=/dev/vda ip=10.0.0.2::10.0.0.1:255.255.255.0::eth1:none:9000 \
                    ip=dhcp postern.run=\"echo a b; exit 3\" quiet";
        let request = Request::parse(line).unwrap();
        let root = request.root.unwrap();
        assert_eq!((&*root.device, &*root.kind), ("/dev/vda", "erofs"));
        assert_eq!(request.run.as_deref(), Some("echo a b; exit 3"));
        let network = |interface: &str, address, mtu| Network {
            interface: interface.to_owned(),
            address,
            mtu,
        };
        let expected = [
            network("eth1", fixed(2, Some(1)), Some(9000)),
            network("eth0", Address::Dhcp, None),
        ];
        assert_eq!(request.networks, expected);
    }

    #[test]
    fn quotes_may_be_around_a_whole_word() {
        let request = Request::parse("\"postern.run=a  b\" x").unwrap();
        assert_eq!(request.run.as_deref(), Some("a  b"));
        assert_eq!(Request::parse("").unwrap(), Request::default());
    }

    #[test]
    fn short_forms_name_what_differs() {
        for (value, interface, address, mtu) in [
            ("10.0.0.7", "eth0", fixed(7, None), None),
            ("eth2:dhcp:1400", "eth2", Address::Dhcp, Some(1400)),
            ("eth1:none", "eth1", Address::None, None),
            (":::::eth3:none:9000", "eth3", Address::None, Some(9000)),
        ] {
            let interface = interface.to_owned();
            let expected = Network {
                interface,
                address,
                mtu,
            };
            assert_eq!(network(value), Ok(expected), "{value}");
        }
    }

    #[test]
    fn what_is_no_address_is_named() {
        for (value, part) in [
            ("10.0.0", "10.0.0"),
            ("10.0.0.1::x", "x"),
            ("10.0.0.1:::255.0.255.0", "255.0.255.0"),
            ("10.0.0.1:::::eth0:maybe", "maybe"),
            ("eth0:dhcp:large", "large"),
        ] {
            match network(value) {
                Err(CmdlineError::Ip { part: found, .. }) => assert_eq!(found, part),
                other => panic!("{value}: {other:?}"),
            }
        }
    }
}
