//! `postern up`: a NIC and several VMs, one process each.

mod console;
mod event;
mod nic;
mod process;
mod vms;

use std::path::PathBuf;
use std::sync::mpsc;

use clap::Args as ClapArgs;
use postern_vmm::topology::Topology;
use postern_vmm::{signals, status};

use crate::error::CommandError;
use event::Event;
use nic::NicThread;
use vms::VmProcesses;

/// Flags of `postern up`.
#[derive(ClapArgs)]
pub struct Args {
    /// The file that describes NIC and VMs (see below)
    topology: PathBuf,
}

/// What `--help` says about the file and the exit status.
pub const HELP: &str = concat!(
    "\
The file, in TOML (relative names are relative to its directory), for example:

",
    include_str!("../../../examples/two-vms.toml"),
    "
These keys are optional:
  [nic]
  queues = 1               # of each port; as many as a VM with a port has processors
  ring = \"256K\"            # size of each TX ring
  lane = \"256K\"            # size of each lane (see postern nic --help)
  image = \"nic-image\"      # needed for elisa, elisa-strict and exit-kernel
  socket = \"nic.socket\"    # where the NIC is found by postern stat and postern nic;
                           # without it, the NIC gets a private name, which is printed
  no_learning = [0]        # ports whose guests replay captures
  stats = \"nic.json\"       # counters of all ports, at the end

  [[vm]]
  initrd = \"traffic.pcap\"
  cmdline = \"role=send\"    # the VMM adds the word that describes the port
  memory = \"64M\"
  vcpus = 1
  port = 0                 # together with path, which is elisa, elisa-strict, exit-kernel,
  path = \"elisa\"           # exit-user or direct
  exit_on_abort = false
  serial = \"sender.log\"    # by default each line is printed with the VM's name
  outbox = \"frames.pcap\"
  stats = \"sender.json\"
  counters = \"none\"        # none, emulated, perf

The first VM that ends with another status than 0, or a signal, takes all down.

Exit status:
  0      all VMs ended with status 0
  1-70   that of the first VM that did not (see postern run --help)
  64     the file cannot be used
  66     the NIC cannot be made, or cannot go on
  128+N  ended by signal N"
);

/// Runs all VMs to their end; returns the exit status.
pub fn run(args: Args) -> Result<u8, CommandError> {
    let topology = Topology::read(&args.topology).map_err(CommandError::configuration)?;
    let (sender, events) = mpsc::channel();
    let signal_sender = sender.clone();
    signals::on_ending_signal(move |signal| {
        // If nobody listens any more, all has ended.
        let _ = signal_sender.send(Event::Signal(signal));
    })
    .map_err(CommandError::internal)?;

    let nic = match &topology.nic {
        Some(nic) => Some(NicThread::start(nic, &sender)?),
        None => None,
    };
    let socket = nic.as_ref().map(|nic| nic.socket());
    let mut vms = VmProcesses::default();
    for (index, vm) in topology.vms.iter().enumerate() {
        if let Err(error) = vms.start(index, vm, socket, &sender) {
            vms.take_down(status::INTERNAL);
            vms.wait(&events);
            return Err(CommandError::internal(error));
        }
    }
    let status = vms.wait(&events);
    if let Some(nic) = nic {
        nic.finish()?;
    }
    Ok(status)
}
