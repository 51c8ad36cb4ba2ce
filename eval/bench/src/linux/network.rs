//! What joins two guests.

use postern_abi::platform::CallPath;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A network of two guests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Network {
    /// The exit-less NIC on one of its paths, and a bridge to a TAP in each guest.
    Nic(CallPath),
    /// virtio-net, whose packets the host's kernel moves, and a bridge of the host.
    VhostNet,
    /// virtio-net, whose packets a thread of the VMM moves, and a bridge of the host.
    VirtioUser,
}

impl Network {
    /// All that are compared, in the order of tables.
    pub const ALL: [Network; 6] = [
        Network::Nic(CallPath::Elisa),
        Network::Nic(CallPath::ElisaStrict),
        Network::Nic(CallPath::ExitKernel),
        Network::Nic(CallPath::ExitUser),
        Network::VhostNet,
        Network::VirtioUser,
    ];

    /// The name that users see.
    pub const fn name(self) -> &'static str {
        match self {
            Network::Nic(path) => path.name(),
            Network::VhostNet => "vhost-net",
            Network::VirtioUser => "virtio-user",
        }
    }

    /// The network of that [`Network::name`].
    pub fn from_name(name: &str) -> Option<Network> {
        Network::ALL
            .into_iter()
            .find(|network| network.name() == name)
    }
}

impl Serialize for Network {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

impl<'de> Deserialize<'de> for Network {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Network, D::Error> {
        let name = String::deserialize(deserializer)?;
        Network::from_name(&name).ok_or_else(|| {
            let names = Network::ALL.map(Network::name).join(", ");
            de::Error::custom(format!("no network is called {name:?}; there are {names}"))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_of_one_network_each() {
        for network in Network::ALL {
            assert_eq!(Network::from_name(network.name()), Some(network));
        }
        assert_eq!(Network::from_name("direct"), None);
    }
}
