//! `postern nic --socket`: owning a NIC until a signal comes.
#![deny(unsafe_code)]

use std::path::{self, PathBuf};
use std::sync::mpsc;
use std::time::Duration;

use anyhow::anyhow;
use clap::Args as ClapArgs;
use postern_abi::platform::CallPath;
use postern_confine::Kind;
use postern_nic_owner::image::ImageError;
use postern_nic_owner::server::{
    self, KeeperProgram, Server, ServerError, ServerEvent, ServerOptions,
};
use postern_vmm::geometry::{self, DEFAULT_QUEUES, GeometryRequest};
use postern_vmm::size::Bytes;
use postern_vmm::socket_path::missing_directory;
use postern_vmm::{signals, status};

use crate::confine::{self, Seccomp};
use crate::error::CommandError;
use crate::{output, parsers};

/// Flags of an owner.
#[derive(ClapArgs)]
pub struct ServeFlags {
    /// Where VMMs connect (--nic of postern run). If a NIC is kept for it whose owner has ended,
    /// that NIC goes on, and --ports, --queues, --ring, --lanes and --lane can be left out
    #[arg(long, value_name = "PATH", required = true, value_parser = parsers::socket)]
    socket: Option<PathBuf>,

    /// Number of ports, at most 256 [default: 2]
    #[arg(long, value_name = "N")]
    ports: Option<u32>,

    /// TX queues of each port, and RX queues, 1 to 8 and at most 256 of the whole NIC; a VM with a
    /// port has at most as many processors (--vcpus of postern run) [default: 1]
    #[arg(long, value_name = "N")]
    queues: Option<u32>,

    /// Size of each TX ring, in bytes or with K or M: a power of two from 4K to 8M [default: 256K,
    /// or 128K where there are more than 64 queues in all]
    #[arg(long, value_name = "SIZE")]
    ring: Option<Bytes>,

    /// Lanes of each RX queue: the number of queues of other ports that can send to it [default: 16,
    /// or 12 where there are more than 64 queues in all, but no more than there are]
    #[arg(long, value_name = "N")]
    lanes: Option<u32>,

    /// Size of each lane, in bytes or with K or M, from 4K to 8M: what one queue of one port has
    /// sent and one RX queue of another has not yet received [default: what makes 1M for each RX
    /// queue, but 32K at least, and no more than a TX ring has]
    #[arg(long, value_name = "SIZE")]
    lane: Option<Bytes>,

    /// The program of the NIC's view; needed for the paths elisa, elisa-strict and exit-kernel
    #[arg(long, value_name = "FILE")]
    image: Option<PathBuf>,

    /// Paths to offer; exit-user and direct give a VM's process the memory of all ports [default:
    /// all]
    #[arg(long, value_name = "PATHS", value_delimiter = ',', value_parser = parsers::path)]
    paths: Vec<CallPath>,

    /// Ports from whose frames no stations are learned, since their guests replay captures
    #[arg(long, value_name = "PORTS", value_delimiter = ',')]
    no_learning: Vec<u32>,

    /// Forget stations that sent nothing for so many seconds; 0 is never
    #[arg(long, value_name = "SECONDS", default_value_t = server::DEFAULT_AGEING.as_secs())]
    ageing: u64,

    /// Do without the process that keeps the NIC when this one is killed: then the NIC ends with it
    #[arg(long)]
    no_keeper: bool,

    /// Write the counters of all ports to this file at the end, as JSON
    #[arg(long, value_name = "FILE")]
    stats: Option<PathBuf>,

    /// Do not say which paths the NIC does not offer; for postern up
    #[arg(long, hide = true)]
    quiet: bool,

    /// Whether the owner gives up the capabilities and system calls that it does not need before it
    /// serves anybody
    #[arg(long, value_name = "on|off", default_value = confine::DEFAULT)]
    seccomp: Seccomp,
}

/// Ports of a NIC where nobody asks for more.
const DEFAULT_PORTS: u32 = 2;
/// The subcommand that keeps a NIC.
const KEEPER: &str = "nic-keeper";
/// The subcommand that starts keepers.
const LAUNCHER: &str = "nic-launcher";
/// Its flag that confines it.
const CONFINED: &str = "--confined";
/// How long a NIC without owner and tenants is kept.
const GRACE: Duration = Duration::from_secs(60);

/// Serves VMMs until a signal comes; returns the exit status.
pub fn run(args: ServeFlags) -> Result<u8, CommandError> {
    let Some(socket) = args.socket else {
        let error = anyhow::anyhow!("no socket is named; give one with --socket");
        return Err(CommandError::configuration(error));
    };
    let request = GeometryRequest {
        ports: args.ports.unwrap_or(DEFAULT_PORTS),
        queues: args.queues.unwrap_or(DEFAULT_QUEUES),
        ring: args.ring,
        lanes: args.lanes,
        lane: args.lane,
    };
    let geometry = request.geometry().map_err(CommandError::configuration)?;
    let mut options = ServerOptions::new(socket, geometry);
    options.any_geometry = args.ports.is_none()
        && args.queues.is_none()
        && args.ring.is_none()
        && args.lanes.is_none()
        && args.lane.is_none();
    options.image = args.image;
    options.unlearned = args.no_learning;
    options.ageing = Duration::from_secs(args.ageing);
    if !args.no_keeper {
        options.keeper = Some(KeeperProgram {
            // This very program, also after its file was replaced.
            program: PathBuf::from("/proc/self/exe"),
            arguments: match args.seccomp {
                Seccomp::On => vec![KEEPER.into(), CONFINED.into()],
                Seccomp::Off => vec![KEEPER.into()],
            },
            launcher: (args.seccomp == Seccomp::On).then(|| vec![LAUNCHER.into()]),
        });
    }
    if !args.paths.is_empty() {
        options.paths = args.paths;
    }
    args.seccomp.turn_on()?;
    // Before any other thread is started, and so before there is what a signal is to stop.
    let (sender, signals) = mpsc::channel();
    signals::on_ending_signal(move |_| {
        // If nobody listens any more, all has ended.
        let _ = sender.send(());
    })
    .map_err(CommandError::internal)?;
    let mut server = bind(&options)?;
    let stats = match args.stats {
        Some(path) => Some((output::create(&path)?, path)),
        None => None,
    };
    let stopper = server.stopper();
    postern_confine::spawn(Kind::Signals, "stopper", move || {
        while signals.recv().is_ok() {
            stopper.stop();
        }
    })
    .map_err(CommandError::internal)?;
    if !args.quiet {
        print_missing_paths(&server);
    }
    server.take_events().into_iter().for_each(print_event);
    let resumed = if server.is_resumed() {
        ", taken over"
    } else {
        ""
    };
    output::print(&format!(
        "{}{resumed}\n",
        describe(&server, &options.socket)
    ))?;
    // All that it executes it has executed, and what it still opens for its clients and administrators
    // is in the list.
    postern_confine::enter(Kind::NicServer).map_err(CommandError::internal)?;
    server.run(print_event)?;
    if let Some((file, path)) = stats {
        output::write_json(file, &path, &server.counters())?;
    }
    Ok(0)
}

/// A NIC in words, with the socket where it listens.
fn describe(server: &Server, socket: &path::Path) -> String {
    let geometry = geometry::describe(server.geometry());
    format!("NIC of {geometry} at {}", socket.display())
}

/// Tells on standard error which paths a NIC does not offer although it was to, and why; those with
/// one reason together.
fn print_missing_paths(server: &Server) {
    let mut reasons: Vec<(&str, Vec<&str>)> = Vec::new();
    for (path, reason) in server.missing_paths() {
        match reasons.iter_mut().find(|(other, _)| *other == reason) {
            Some((_, paths)) => paths.push(path.name()),
            None => reasons.push((reason, vec![path.name()])),
        }
    }
    for (reason, paths) in reasons {
        output::tell(format_args!("no {}: {reason}", paths.join(", ")));
    }
}

/// Tells on standard error what happens to a NIC that this process serves.
fn print_event(event: ServerEvent) {
    output::tell(event);
}

/// Keeps a NIC that this program's parent owns; returns the exit status.
pub fn keep(confined: bool) -> Result<u8, CommandError> {
    if !confined {
        server::keep(GRACE, || {}).map_err(CommandError::internal)?;
        return Ok(0);
    }
    // Where it cannot be confined, nobody would be told; the NIC is kept all the same.
    let confine = || {
        drop(postern_confine::enter_alone(
            Kind::NicKeeper,
            status::REFUSED_CALL,
        ))
    };
    server::keep(GRACE, confine).map_err(CommandError::internal)?;
    Ok(0)
}

/// Starts keepers for this program's parent; returns the exit status.
pub fn launch_keepers() -> Result<u8, CommandError> {
    postern_confine::give_up_privileges().map_err(CommandError::internal)?;
    let keeper = KeeperProgram {
        program: PathBuf::from("/proc/self/exe"),
        arguments: vec![KEEPER.into(), CONFINED.into()],
        launcher: None,
    };
    server::launch_keepers(&keeper).map_err(CommandError::internal)?;
    Ok(0)
}

/// Makes a NIC; an error names the image that it is about.
fn bind(options: &ServerOptions) -> Result<Server, CommandError> {
    if let Some(directory) = missing_directory(&options.socket) {
        return Err(CommandError::configuration(anyhow!(
            "cannot create the socket {}: there is no directory {}",
            options.socket.display(),
            directory.display()
        )));
    }
    Server::bind(options).map_err(|error| match (&error, &options.image) {
        // It names the file itself.
        (ServerError::Image(ImageError::File { .. }), _) => error.into(),
        (ServerError::Image(_), Some(image)) => CommandError::configuration(
            anyhow::Error::from(error).context(format!("cannot use {}", image.display())),
        ),
        _ => error.into(),
    })
}
