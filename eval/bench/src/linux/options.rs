//! Options of the demo with Linux guests.

use std::path::PathBuf;

use clap::Args;

use super::network::Network;

/// Flags of `cargo demo --linux`.
#[derive(Args, Clone, Debug, Default)]
pub struct LinuxOptions {
    /// Run programs of Debian in two Linux guests instead, on each path and over both backends of
    /// virtio-net, in the emulated machine
    #[arg(long, conflicts_with_all = ["pcap", "batch", "frames", "seccomp"])]
    pub linux: bool,

    /// With --linux: only these networks (elisa, elisa-strict, exit-kernel, exit-user, vhost-net,
    /// virtio-user)
    #[arg(long, value_name = "NAME", requires = "linux", value_delimiter = ',',
          value_parser = parse_network)]
    pub network: Vec<Network>,

    /// File of the results, as that of the demo without Linux.
    #[arg(skip)]
    pub json: Option<PathBuf>,
}

impl LinuxOptions {
    /// The networks to measure, each once.
    pub fn networks(&self) -> Vec<Network> {
        let all = Network::ALL.into_iter();
        all.filter(|network| self.network.is_empty() || self.network.contains(network))
            .collect()
    }
}

/// Round trips, bytes and requests of a short run and of a long one: so many that what a run has of
/// its own, such as a timer that comes once, is no part of the figures.
pub const SIZES: &str = "short_ping=100 long_ping=1100
short_tcp=1000000 long_tcp=33000000
short_get=400 long_get=2400";

fn parse_network(text: &str) -> Result<Network, String> {
    Network::from_name(text).ok_or_else(|| {
        let names = Network::ALL.map(Network::name).join(", ");
        format!("give one of {names}")
    })
}
