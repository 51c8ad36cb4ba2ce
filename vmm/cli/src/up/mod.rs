//! `postern up`: NICs and several VMs, one process each.

mod check;
mod console;
mod detach;
mod event;
mod nic;
mod process;
mod vms;

use std::path::{Path, PathBuf};
use std::sync::mpsc;

use anyhow::anyhow;
use clap::Args as ClapArgs;
use postern_vmm::topology::{self, Topology, TopologyFile, VmConfig};
use postern_vmm::{signals, status};

use crate::error::CommandError;
use crate::output;
use crate::run_dir::{self, NicInfo, Place, VmInfo};
use detach::Detached;
use event::Event;
use nic::NicProcess;
use vms::VmProcesses;

/// Flags of `postern up`.
#[derive(ClapArgs)]
#[command(group(clap::ArgGroup::new("background").args(["detach", "detached"])))]
pub struct Args {
    /// The file that describes NICs and VMs (see below)
    topology: PathBuf,

    /// Say all that is wrong with it, and start nothing
    #[arg(long)]
    check: bool,

    /// Return as soon as all VMs run; then postern ps, console and down have them. What fails before
    /// is told, and gives the status
    #[arg(long, conflicts_with = "check")]
    detach: bool,

    /// With --detach: what VMs without a serial key and postern itself print afterwards goes to the
    /// end of this file; without it nowhere
    #[arg(long, value_name = "FILE", requires = "background")]
    log: Option<PathBuf>,

    /// As postern up --detach starts it
    #[arg(long, hide = true, conflicts_with_all = ["check", "detach"])]
    detached: bool,
}

/// What `--help` says about the file and the exit status.
pub const HELP: &str = concat!(
    "\
The file, in TOML (relative names are relative to its directory), for example:

",
    include_str!("../../../examples/two-vms.toml"),
    "
These keys are optional:
  name = \"lab\"             # by which postern ps, down and others know it, once at a time;
                           # without it the file's, with -2, -3 ... if that runs already

  [nic]                    # several are [[nic]], each with a name = \"...\"
  queues = 1               # of each port; as many as a VM with a port has processors
  ring = \"256K\"            # size of each TX ring
  lane = \"256K\"            # size of each lane (see postern nic --help)
  image = \"nic-image\"      # needed for elisa, elisa-strict and exit-kernel
  socket = \"nic.socket\"    # where the NIC is found by postern stat and postern nic;
                           # without it, the NIC gets a private name, which is printed
  paths = [\"elisa\"]        # what it offers [default: all]
  ageing = 300             # seconds for which silent stations are known; 0 for ever
  no_learning = [0]        # ports whose guests replay captures
  stats = \"nic.json\"       # counters of all ports, at the end
  seccomp = true           # false: its owner is not confined (see postern nic --help)

  [[nic.port]]             # what postern nic set, mac, uplink and port do
  number = 1
  mac = \"02:00:00:00:00:01\" # of the VM that has the port
  stations = [\"02:00:00:00:00:05\", \"02:00:00:00:00:06@12\"]
  policy = { source = \"own\", acl = { rules = [\"deny in ipv4 tcp dport 25\"] } }
  [[nic.port]]
  number = 2
  uplink = \"tap:tap0\"      # or packet:INTERFACE, xdp:INTERFACE
  busy = false
  enabled = true

  [[nic.capture]]          # what postern nic capture does
  file = \"trace.pcapng\"
  port = 0                 # [default: all]
  via = 3                  # a port that nobody has [default: the last one]
  format = \"pcapng\"        # or pcap
  snap = 128               # bytes of each frame [default: all]

  [[vm]]
  initrd = \"traffic.pcap\"
  cmdline = \"role=send\"    # the VMM adds the word that describes the port
  memory = \"64M\"
  vcpus = 1
  port = 0                 # together with path, which is elisa, elisa-strict, exit-kernel,
  path = \"elisa\"           # exit-user or direct
  nic_plain = false        # as postern run --nic-plain
  exit_on_abort = false
  serial = \"sender.log\"    # as postern run --serial; by default each line is printed with the
                           # VM's name
  outbox = \"frames.pcap\"
  stats = \"sender.json\"
  counters = \"none\"        # none, emulated, perf
  on_reboot = \"restart\"   # restart or exit
  cpu = \"host\"             # host or view-compatible; by default what the path allows
  rng = true               # an entropy device
  seccomp = true           # false: its threads are not confined (see postern run --help)
  vsock = { cid = 3 }      # sockets to the host
  [[vm.disk]]              # as postern run --disk
  path = \"root.img\"
  readonly = true
  [[vm.net]]               # as postern run --net
  tap = \"tap1\"

The first VM that ends with another status than 0, or a signal, takes all down, also with --detach.

Exit status:
  0      all VMs ended with status 0
  1-73   that of the first VM that did not (see postern run --help)
  64     the file cannot be used, or --check found something wrong
  66     the NIC cannot be made, or cannot go on
  128+N  ended by signal N"
);

/// Runs all VMs to their end; returns the exit status.
pub fn run(args: Args) -> Result<u8, CommandError> {
    if args.detach {
        return detach::start(&args.topology, args.log.as_deref());
    }
    let (file, of_text) =
        Topology::read_with_faults(&args.topology).map_err(CommandError::configuration)?;
    let topology = &file.topology;
    // What keeps it from being read is told when this takes a place there.
    let running = run_dir::entries().unwrap_or_default();
    let faults = match args.check {
        true => check::all(&file, of_text, &running),
        false => check::cheap(&file, of_text, &running),
    };
    if !faults.is_empty() {
        let error = anyhow!(faults.join("\n"));
        return Err(CommandError::configuration(error));
    }
    if args.check {
        output::print(&check::summary(&file))?;
        return Ok(0);
    }
    let detached = match args.detached {
        true => Some(Detached::new(args.log.as_deref())?),
        false => None,
    };
    let (sender, events) = mpsc::channel();
    let signal_sender = sender.clone();
    signals::on_ending_signal(move |signal| {
        // If nobody listens any more, all has ended.
        let _ = signal_sender.send(Event::Signal(signal));
    })
    .map_err(CommandError::internal)?;

    let place = match &topology.name {
        Some(name) => Place::take(name, true),
        None => Place::take(&default_name(&file.file), false),
    };
    let place = place.map_err(CommandError::configuration)?;
    if topology.name.is_none()
        && let default = default_name(&file.file)
        && place.name() != default
    {
        output::tell(format_args!(
            "{default} runs already; this one is {}",
            place.name()
        ));
    }
    let mut nics = Vec::new();
    if let Err(error) = start_nics(&file, &place, &sender, &mut nics) {
        let _ = finish(nics);
        return Err(error);
    }
    let socket_of = |vm: &VmConfig| {
        let (index, _) = topology.nic_of(vm.port.as_ref()?)?;
        nics.get(index).map(NicProcess::socket)
    };
    output::tell(format_args!(
        "{name} begins; postern ps, stat, console and down {name} see it",
        name = place.name()
    ));
    if let Err(error) = publish(&place, &file, &nics) {
        let _ = finish(nics);
        return Err(CommandError::internal(error));
    }
    let mut vms = VmProcesses::default();
    for (index, vm) in topology.vms.iter().enumerate() {
        if let Err(error) = vms.start(index, vm, socket_of(vm), &place.control(&vm.name), &sender) {
            vms.take_down(status::INTERNAL);
            vms.wait(&events);
            return Err(CommandError::internal(error));
        }
    }
    if let Some(detached) = detached
        && vms.until_all_run(&events)
    {
        output::tell(format_args!("all VMs of {} run", place.name()));
        if let Err(error) = detached.leave() {
            output::tell(format_args!("{error:#}"));
            vms.take_down(status::INTERNAL);
        }
    }
    let status = vms.wait(&events);
    finish(nics)?;
    Ok(status)
}

/// The name of a topology whose file says none: that of the file.
fn default_name(file: &Path) -> String {
    let stem = file.file_stem().unwrap_or_default().to_string_lossy();
    match topology::is_name(&stem) {
        true => stem.into_owned(),
        false => "topology".to_owned(),
    }
}

/// Tells others what runs.
fn publish(place: &Place, file: &TopologyFile, nics: &[NicProcess]) -> anyhow::Result<()> {
    let topology = &file.topology;
    let nics = topology.nics.iter().zip(nics);
    let nics = nics.map(|(nic, process)| NicInfo {
        name: nic.name.clone(),
        socket: std::path::absolute(process.socket()).unwrap_or(process.socket().to_owned()),
        image: nic
            .image
            .as_deref()
            .and_then(|image| image.canonicalize().ok()),
    });
    let vms = topology.vms.iter().map(|vm| VmInfo {
        name: vm.name.clone(),
        vcpus: vm.vcpus,
        memory: vm.memory.0,
        port: vm
            .port
            .as_ref()
            .map(|port| (port.nic.clone(), port.number, port.path.name().to_owned())),
        nic: None,
    });
    let name = file.file.canonicalize().ok();
    place.publish(name, nics.collect(), vms.collect())
}

/// Makes the NICs, and sets what the topology says of them.
fn start_nics(
    file: &TopologyFile,
    place: &Place,
    events: &mpsc::Sender<Event>,
    nics: &mut Vec<NicProcess>,
) -> Result<(), CommandError> {
    for (index, nic) in file.topology.nics.iter().enumerate() {
        let process = NicProcess::start(nic, place, events)?;
        let set = process.set_up(nic);
        nics.push(process);
        set.map_err(|(key, error)| {
            let told = file.fault(
                &format!("nic.{index}.{key}"),
                format!("{:#}", anyhow!(error)),
            );
            CommandError::configuration(anyhow!(told))
        })?;
    }
    Ok(())
}

/// Ends the NICs, in order; the first error counts.
fn finish(nics: Vec<NicProcess>) -> Result<(), CommandError> {
    let ends: Vec<_> = nics.into_iter().map(NicProcess::finish).collect();
    ends.into_iter().collect()
}
