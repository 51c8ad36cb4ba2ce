//! The program's arguments.

use std::time::Duration;

use clap::{Args, Parser};

/// Joins the VM's NIC port to an interface of its guest, so that all programs use it.
///
/// Without options it makes the TAP postern0 with the port's MAC address, brings it up, and moves
/// frames between both until SIGTERM or SIGINT. Every queue of the port has a thread, which sleeps
/// while there is nothing to do. Status: 0 after a signal, 1 for what could not be begun or went
/// wrong, 2 for arguments, 75 if the host took the port away: start it again.
#[derive(Debug, Parser)]
#[command(name = "postern-bridge", version)]
pub struct Options {
    /// PCI address of the NIC port; without it the VM's only one.
    #[arg(long, value_name = "ADDRESS")]
    pub device: Option<String>,
    #[command(flatten)]
    pub interface: InterfaceOptions,
    /// Threads: one for each queue of the port (`all`), `1` for all of them, or `auto`: 1 in a VM of one
    /// vCPU, and with a TAP that was made for one queue.
    #[arg(long, value_name = "auto|all|1", default_value = "auto", value_parser = queues)]
    pub queues: Queues,
    /// Offer the port no offloads: checksums and segments are then finished before frames reach it.
    #[arg(long)]
    pub no_offloads: bool,
    /// Look for frames so long before sleeping, in microseconds. It saves sleeps, and takes the vCPU
    /// for that time whenever frames stay away.
    #[arg(long, value_name = "MICROSECONDS", default_value = "0", value_parser = microseconds)]
    pub poll: Duration,
    /// Look for frames so often, in microseconds (0: all the time), instead of sleeping until the
    /// doorbell rings. For VMs whose device has none.
    #[arg(long, value_name = "MICROSECONDS", value_parser = microseconds, conflicts_with = "poll")]
    pub interval: Option<Duration>,
    /// Let frames wait so long for room at their receiver, in milliseconds, before they are dropped.
    #[arg(long, value_name = "MILLISECONDS", default_value = "200", value_parser = milliseconds)]
    pub hold: Duration,
    /// User to run as once all is open; without it only the capabilities go.
    #[arg(long, value_name = "NAME")]
    pub user: Option<String>,
    /// Print the counters of the bridge that runs with this interface, as JSON, and end.
    #[arg(long)]
    pub stats: bool,
}

/// The guest's interface.
#[derive(Debug, Args)]
pub struct InterfaceOptions {
    /// Name of the TAP, which is made unless it exists.
    #[arg(long, value_name = "NAME", default_value = "postern0")]
    pub tap: String,
    /// Use this macvtap, which exists, instead of a TAP.
    #[arg(long, value_name = "NAME", conflicts_with_all = ["tap", "bridge", "persist"])]
    pub macvtap: Option<String>,
    /// Make the TAP a member of this bridge, which exists.
    #[arg(long, value_name = "NAME")]
    pub bridge: Option<String>,
    /// MTU of the interface in bytes; without it that which it has, 1500 if it is new.
    #[arg(long, value_name = "BYTES")]
    pub mtu: Option<u32>,
    /// Leave the TAP there at the end, without a carrier, with its addresses and routes.
    #[arg(long)]
    pub persist: bool,
}

impl InterfaceOptions {
    /// The interface's name.
    pub fn name(&self) -> &str {
        self.macvtap.as_deref().unwrap_or(&self.tap)
    }
}

/// How the port's queues are shared among threads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Queues {
    /// As the VM has vCPUs.
    Auto,
    /// A thread for each.
    All,
    /// One thread for all.
    One,
}

impl Queues {
    /// Whether each queue has a thread. All threads wake at each interrupt of the port, so that one vCPU
    /// would run them in vain.
    pub fn is_all(self) -> bool {
        let cpus = || std::thread::available_parallelism().map_or(1, |cpus| cpus.get());
        match self {
            Queues::Auto => cpus() > 1,
            Queues::All => true,
            Queues::One => false,
        }
    }
}

fn queues(text: &str) -> Result<Queues, String> {
    match text {
        "auto" => Ok(Queues::Auto),
        "all" => Ok(Queues::All),
        "1" => Ok(Queues::One),
        _ => Err("it is `auto`, `all` or `1`".into()),
    }
}

fn microseconds(text: &str) -> Result<Duration, String> {
    time(text, Duration::from_micros)
}

fn milliseconds(text: &str) -> Result<Duration, String> {
    time(text, Duration::from_millis)
}

/// A time of a minute at most.
fn time(text: &str, unit: fn(u64) -> Duration) -> Result<Duration, String> {
    let time = text.parse().map(unit).map_err(|_| "not a whole number")?;
    match time > Duration::from_secs(60) {
        true => Err("more than a minute".into()),
        false => Ok(time),
    }
}
