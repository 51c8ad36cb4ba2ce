//! `postern run`: one VM.
#![deny(unsafe_code)]

use std::path::{self, Path, PathBuf};
use std::sync::{Arc, OnceLock};

use anyhow::Context;
use clap::Args as ClapArgs;
use postern_abi::platform;
use postern_vmm::console::{Action, Console, Destination, Escape, Terminal, TerminalHandle};
use postern_vmm::control::ControlSocket;
use postern_vmm::cpuid::CpuModel;
use postern_vmm::size::Bytes;
use postern_vmm::virtio::blk::DiskConfig;
use postern_vmm::virtio::net::NetConfig;
use postern_vmm::virtio::rng::Rng;
use postern_vmm::virtio::vsock::VsockConfig;
use postern_vmm::vm::{BuildConfig, Builder, OnReboot, Outputs};
use postern_vmm::{event_counters, signals, status};

use crate::confine::{self, Seccomp};
use crate::error::CommandError;
use crate::remover::Remover;
use crate::run_dir::{Place, VmInfo};
use crate::{output, parsers};

/// Flags of `postern run`.
#[derive(ClapArgs)]
pub struct Args {
    /// The guest's kernel: a bzImage (a distribution's vmlinuz), or a static ELF64 executable for
    /// x86-64, entered by the PVH boot protocol if it has the note for it, otherwise in 64-bit mode
    #[arg(long, value_name = "FILE")]
    kernel: PathBuf,

    /// The guest's initrd
    #[arg(long, value_name = "FILE")]
    initrd: Option<PathBuf>,

    /// The guest's command line
    #[arg(long, value_name = "STRING", default_value = "")]
    cmdline: String,

    /// The guest's memory, in bytes or with K, M or G
    #[arg(long, value_name = "SIZE", default_value = "64M")]
    memory: Bytes,

    /// The guest's processors; with a port, at most as many as the NIC has queues (on all paths but
    /// direct)
    #[arg(long, value_name = "N", default_value_t = 1)]
    vcpus: usize,

    /// The features of the guest's processors: host, or view-compatible, which leaves out what views
    /// forbid, so that VMs with and without a view can be compared; by default host, and
    /// view-compatible with a port on elisa, elisa-strict or exit-kernel
    #[arg(long, value_name = "MODEL")]
    cpu: Option<CpuModel>,

    /// When the guest resets itself: restart it, or exit with status 72
    #[arg(long, value_name = "ACTION", default_value_t)]
    on_reboot: OnReboot,

    /// The guest's serial console (COM1): a file, - for standard output and input, pty for a new
    /// pseudo-terminal, unix:PATH for a socket that postern console joins, or none
    #[arg(long, value_name = "WHERE", default_value = "-", value_parser = parsers::console())]
    serial: Destination,

    /// Give the guest a disk (virtio-blk): path=FILE, a raw image or a block device, and behind
    /// commas readonly, serial=ID, direct (without the page cache) and queues=N; once for each disk
    #[arg(long, value_name = "path=FILE[,...]")]
    disk: Vec<DiskConfig>,

    /// Where the bytes go that the guest puts in its outbox; without it they are refused
    #[arg(long, value_name = "FILE")]
    outbox: Option<PathBuf>,

    /// Show the VM to postern ps, down, console and stat under this name
    #[arg(long, value_name = "NAME", value_parser = parsers::name)]
    name: Option<String>,

    /// Answer postern ps, console and stat at this socket; postern up says so
    #[arg(long, value_name = "SOCKET", hide = true, conflicts_with = "name")]
    control: Option<PathBuf>,

    /// Write exits by reason, counters and the snapshots that the guest asks for to this file, as
    /// JSON
    #[arg(long, value_name = "FILE")]
    stats: Option<PathBuf>,

    /// Give the VM a port of the NIC that listens at this socket
    #[arg(
        long,
        value_name = "SOCKET",
        requires_all = ["port", "path"],
        value_parser = parsers::socket
    )]
    nic: Option<PathBuf>,

    /// Which port
    #[arg(long, value_name = "N", requires = "nic")]
    port: Option<u32>,

    /// How the guest's requests reach the NIC: elisa, elisa-strict, exit-kernel, exit-user or
    /// direct
    #[arg(long, value_name = "PATH", requires = "nic", value_parser = parsers::path)]
    path: Option<platform::CallPath>,

    /// Give the VM an entropy device (virtio-rng): random bytes of the host's kernel, which Linux
    /// guests show as /dev/hwrng. Processors with RDRAND need none
    #[arg(long)]
    rng: bool,

    /// Give the port's PCI device no doorbell and no MSI-X vectors, as QEMU's ivshmem-plain
    #[arg(long, requires = "nic")]
    nic_plain: bool,

    /// Give the VM a virtio-net device over a TAP: tap=NAME and, after commas, mac=MAC,
    /// backend=vhost (of the host's kernel, the default) or backend=user (a thread of this process
    /// for each queue pair), queues=N, mtu=BYTES and vhostfd=N:N... A TAP that is not there is made,
    /// and goes with the VM; once for each device
    #[arg(long, value_name = "DEVICE")]
    net: Vec<NetConfig>,

    /// Give the VM sockets to its host (virtio-vsock, by vhost-vsock of the host's kernel): cid=N, its
    /// address
    #[arg(long, value_name = "DEVICE")]
    vsock: Option<VsockConfig>,

    /// End the VM when a call in a view is aborted; without it the guest gets #UD and goes on
    #[arg(long, requires = "nic")]
    exit_on_abort: bool,

    /// Which counters to read when the guest asks for a snapshot: none, emulated (the exact ones of
    /// the emulated machine) or perf (the CPU's instruction counters)
    #[arg(long, value_name = "WHICH", default_value = "none")]
    counters: event_counters::CounterSource,

    /// Whether the threads of the VM give up their capabilities, and all system calls that they do
    /// not need, before the guest runs
    #[arg(long, value_name = "on|off", default_value = confine::DEFAULT)]
    seccomp: Seccomp,
}

/// Boots the VM and waits for its end; returns the exit status.
pub fn run(args: Args) -> Result<u8, CommandError> {
    let config = BuildConfig {
        kernel: args.kernel,
        initrd: args.initrd,
        cmdline: args.cmdline,
        memory: args.memory.0,
        vcpus: args.vcpus,
        cpu: args.cpu,
        counters: args.counters,
        record: args.stats.is_some(),
        on_reboot: args.on_reboot,
        exit_on_abort: args.exit_on_abort,
    };
    let mut builder = Builder::new(config)?;
    for disk in &args.disk {
        builder = builder.add_disk(disk)?;
    }
    if let (Some(socket), Some(port), Some(path)) = (&args.nic, args.port, args.path) {
        builder = builder.connect(socket, port, path, !args.nic_plain)?;
    }
    if args.rng {
        builder = builder.add_virtio(Box::new(Rng::new()))?;
    }
    for config in &args.net {
        builder = builder.add_net(config)?;
        config.notice().iter().for_each(output::tell);
    }
    if let Some(config) = args.vsock {
        builder = builder.add_vsock(config)?;
    }
    let vm = builder.build()?;

    args.seccomp.turn_on()?;
    let stopper = vm.stopper();
    let on_signal = stopper.clone();
    let terminal: Arc<OnceLock<TerminalHandle>> = Arc::default();
    let handle = Arc::clone(&terminal);
    signals::on_terminal_signal(move |signal| match (signal, handle.get()) {
        (libc::SIGTSTP, Some(terminal)) => terminal.suspend(),
        (libc::SIGTSTP, None) => signals::stop_this_process(),
        (libc::SIGCONT, Some(terminal)) => terminal.resume(),
        (libc::SIGCONT, None) => {}
        (signal, _) => {
            if !on_signal.stop(signal) {
                // The VM has ended, but its statistics go where nobody reads them.
                std::process::exit(i32::from(status::SIGNAL_BASE) + signal);
            }
        }
    })
    .map_err(CommandError::internal)?;

    // Only now, so that nothing is left behind by a run that cannot be.
    let mut console = Console::open(&args.serial).map_err(CommandError::configuration)?;
    let place = match &args.name {
        Some(name) => Some(Place::take(name, true).map_err(CommandError::configuration)?),
        None => None,
    };
    let socket = match (&place, &args.name) {
        (Some(place), Some(name)) => Some(place.control(name)),
        _ => args.control,
    };
    let control = match &socket {
        None => None,
        Some(socket) => {
            let control = ControlSocket::open(socket).map_err(CommandError::configuration)?;
            let serving = control.serve(vm.live_stats()?, console.joiner());
            Some(serving.map_err(CommandError::internal)?)
        }
    };
    if let (Some(place), Some(name)) = (&place, args.name) {
        let info = VmInfo {
            name,
            vcpus: args.vcpus,
            memory: args.memory.0,
            port: args
                .port
                .zip(args.path)
                .map(|(port, path)| (None, port, path.name().to_owned())),
            nic: args.nic.and_then(|socket| path::absolute(socket).ok()),
        };
        place
            .publish(None, Vec::new(), vec![info])
            .map_err(CommandError::internal)?;
    }
    let joined = match &args.serial {
        Destination::Unix(socket) => Some(socket.as_path()),
        _ => None,
    };
    let sockets: Vec<&Path> = joined.into_iter().chain(socket.as_deref()).collect();
    let _remover = Remover::start(&sockets, place.as_ref())?;
    // They would remove what the remover does, and this process cannot once it is confined.
    std::mem::forget((control, place));
    if let Some(notice) = console.notice() {
        output::tell(notice);
    }
    let raw = match console.on_terminal() {
        true => enter_terminal(&terminal)?,
        false => None,
    };
    let outputs = Outputs {
        console,
        console_action: Box::new(move |action| match (action, terminal.get()) {
            // As Ctrl-C does to a program that does not take the terminal for itself.
            (Action::Quit, _) => drop(stopper.stop(libc::SIGINT)),
            (Action::Suspend, Some(terminal)) => terminal.suspend(),
            (Action::Suspend | Action::Detach, _) => {}
            (Action::Help, _) => output::tell(Escape::HELP),
        }),
        outbox: args.outbox.as_deref().map(output::create).transpose()?,
        nic_end: Box::new(|end| output::tell(end)),
    };
    let stats = match args.stats {
        Some(path) => Some((output::create(&path)?, path)),
        None => None,
    };

    let report = vm.run(outputs)?;
    drop(raw);
    if let Some((file, path)) = stats {
        let json = report.json(args.path.map(platform::CallPath::name), args.port);
        output::write_json(file, &path, &json)?;
    }
    if !report.outcome.by_guest() {
        output::tell(&report.outcome);
    }
    Ok(report.outcome.status())
}

/// Takes the terminal into raw mode, and says how it is left.
fn enter_terminal(handle: &OnceLock<TerminalHandle>) -> Result<Option<Terminal>, CommandError> {
    let terminal = Terminal::enter()
        .context("cannot take the terminal into raw mode")
        .map_err(CommandError::internal)?;
    if let Some(terminal) = &terminal {
        // It is set here alone.
        let _ = handle.set(terminal.handle());
        output::complain(
            "postern: this terminal is the guest's console; Ctrl-A x ends the VM, Ctrl-A h helps\n",
        );
    }
    Ok(terminal)
}
