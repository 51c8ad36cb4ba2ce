//! `postern stat`: what runs, counted: exits by reason of VMs and vCPUs, traffic and drops of ports.
#![deny(unsafe_code)]

mod prometheus;
mod report;
mod table;

use std::io::IsTerminal;
use std::os::unix::fs::FileTypeExt;
use std::path::{Component, Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use clap::Args as ClapArgs;
use postern_nic_client::request;
use postern_vmm::socket_path::missing_directory;

use crate::error::CommandError;
use crate::ps::Found;
use crate::run_dir::Entry;
use crate::{output, parsers, ps};
use report::Report;

/// Flags of `postern stat`.
#[derive(ClapArgs)]
pub struct Args {
    /// The topology (postern ps) or its file, or the VM, also as TOPOLOGY/VM [default: all that
    /// runs]; or the socket of a NIC, whose counters alone are shown then
    #[arg(value_name = "NAME|FILE|VM|SOCKET")]
    which: Option<PathBuf>,

    /// The NIC's socket, by the flag that names it to postern nic
    #[arg(
        long = "socket",
        value_name = "PATH",
        conflicts_with = "which",
        value_parser = parsers::socket
    )]
    named: Option<PathBuf>,

    /// Print JSON, once
    #[arg(long)]
    json: bool,

    /// Print the text format of Prometheus, once
    #[arg(long, conflicts_with = "json")]
    prometheus: bool,

    /// On a terminal: how often it is shown anew, in seconds; 0 shows it once
    #[arg(long, value_name = "SECONDS", default_value_t = 1)]
    interval: u64,
}

/// What `--help` says about metrics.
pub const HELP: &str = "\
On a terminal the table is shown anew each second until Ctrl-C, with rates; elsewhere once.
--json has all of KVM's statistics by their names; --prometheus has:
  postern_vm_uptime_seconds                       topology, vm
  postern_vcpu_exits_total                        topology, vm, vcpu
  postern_vcpu_exits_by_reason_total              topology, vm, vcpu, reason: irq, io, mmio, halt...
  postern_vcpu_hypercalls_total                   topology, vm, vcpu
  postern_vcpu_view_aborts_total                  topology, vm, vcpu: with the patched KVM
  postern_vm_bells_total                          topology, vm, kind: rings, joined, held
  postern_port_attached                           topology, nic, port: 1 if it has a tenant
  postern_port_stations                           topology, nic, port
  postern_port_calls_total                        topology, nic, port, seat: a tenant's vCPU
  postern_port_frames_total, _bytes_total         topology, nic, port, direction: tx, rx
  postern_port_dropped_frames_total               topology, nic, port, cause
  postern_port_refused_requests_total             topology, nic, port
  postern_port_rung_by_owner_total                topology, nic, port: of guests that slept
tx is what the port's VM sent. Counters of a port begin anew with each tenant. Calls are counted by
the NIC, when it begins to serve a request to send: on elisa and elisa-strict they are no exits, so
KVM does not see them. Aborts are counted by KVM, of all calls in views of a vCPU.

Exit status:
  0   shown
  64  nothing that runs is called so
  66  the NIC cannot be reached";

/// Clears the terminal (ECMA-48: cursor home, erase to the end of the page).
const CLEAR: &str = "\x1b[H\x1b[2J";

/// Prints counters; returns the exit status.
pub fn run(args: Args) -> Result<u8, CommandError> {
    let of_nic = match (&args.named, &args.which) {
        (Some(socket), _) => Some(socket),
        (None, Some(which)) => is_nic(which)?.then_some(which),
        (None, None) => None,
    };
    if let Some(socket) = of_nic {
        parsers::socket(&socket.to_string_lossy()).map_err(CommandError::configuration)?;
        return nic(socket, &args);
    }
    let report = || -> Result<Report, CommandError> {
        let entries = ps::entries()?;
        Ok(match &args.which {
            Some(which) => match ps::find(&entries, which)? {
                Found::Topology(entry) => Report::of([entry]),
                Found::Vm(entry, vm) => Report::of_vm(entry, vm),
            },
            None => Report::of(&entries),
        })
    };
    let first = report()?;
    if args.json {
        output::print(&format!("{:#}\n", serde_json::json!(first)))?;
    } else if args.prometheus {
        output::print(&prometheus::text(&first))?;
    } else if args.interval == 0 || !std::io::stdout().is_terminal() {
        output::print(&table::table(&first, None))?;
    } else {
        let (mut last, mut at) = (first, Instant::now());
        output::print(&format!("{CLEAR}{}", table::table(&last, None)))?;
        loop {
            thread::sleep(Duration::from_secs(args.interval));
            let next = report()?;
            let elapsed = at.elapsed().as_secs_f64();
            at = Instant::now();
            let text = table::table(&next, Some((&last, elapsed)));
            output::print(&format!("{CLEAR}{text}"))?;
            last = next;
        }
    }
    Ok(0)
}

/// Whether this is a NIC's socket: one that is there; or a path whose directory is, but which neither is a
/// file nor begins with the name of something that runs, `TOPOLOGY/VM`.
fn is_nic(which: &Path) -> Result<bool, CommandError> {
    if let Ok(found) = which.metadata() {
        return Ok(found.file_type().is_socket());
    }
    let first = which.components().next();
    let begins = |entry: &Entry| {
        let name = Component::Normal(entry.name.as_ref());
        first == Some(name)
    };
    let is_path = which.components().count() > 1
        && (which.is_absolute() || missing_directory(which).is_none());
    Ok(is_path && !ps::entries()?.iter().any(begins))
}

/// The counters of one NIC, as its owner tells them.
fn nic(socket: &Path, args: &Args) -> Result<u8, CommandError> {
    let counters = request::counters(socket)?;
    output::print(&if args.json {
        format!("{:#}\n", serde_json::json!(counters))
    } else if args.prometheus {
        prometheus::text(&Report::of_nic(socket, counters))
    } else {
        counters.to_string()
    })?;
    Ok(0)
}
