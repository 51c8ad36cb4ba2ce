//! `postern nic`: the NIC that VMs share, and `postern stat`: its counters.

use std::path::PathBuf;

use clap::Args as ClapArgs;
use postern_abi::machine::Path;
use postern_abi::window::{DEFAULT_SLOTS, Geometry};
use postern_nic::client;
use postern_nic::server::{Options, Server, ServerError};
use postern_vmm::{signals, status};

use crate::failure::Failure;
use crate::{names, output};

/// Flags of `postern nic`.
#[derive(ClapArgs)]
pub struct Args {
    /// Where VMMs connect (--nic of postern run)
    #[arg(long, value_name = "PATH")]
    socket: PathBuf,

    /// Number of ports
    #[arg(long, value_name = "N", default_value_t = 2)]
    ports: u32,

    /// Slots of each ring
    #[arg(long, value_name = "N", default_value_t = DEFAULT_SLOTS)]
    slots: u32,

    /// The program of the NIC's view; needed for the paths elisa, elisa-strict and exit-kernel
    #[arg(long, value_name = "FILE")]
    image: Option<PathBuf>,

    /// Paths to offer; exit-user and direct give a VM's process the memory of all ports [default: all]
    #[arg(long, value_name = "PATHS", value_delimiter = ',', value_parser = names::path)]
    paths: Vec<Path>,

    /// Ports from whose frames no stations are learned, since their guests replay captures
    #[arg(long, value_name = "PORTS", value_delimiter = ',')]
    no_learning: Vec<u32>,

    /// Write the counters of all ports to this file at the end, as JSON
    #[arg(long, value_name = "FILE")]
    stats: Option<PathBuf>,
}

/// What `--help` says about the exit status.
pub const HELP: &str = "\
Exit status:
  0   ended by SIGINT, SIGTERM, SIGHUP or SIGQUIT, in good order
  64  flags, image or socket cannot be used
  66  the NIC cannot be made, or cannot go on
  70  internal error, or the output file cannot be written";

/// Serves VMMs until a signal comes; returns the exit status.
pub fn run(args: Args) -> Result<u8, Failure> {
    let geometry = Geometry::new(args.ports, args.slots).map_err(Failure::configuration)?;
    let mut options = Options::new(args.socket, geometry);
    options.image = args.image;
    options.unlearned = args.no_learning;
    if !args.paths.is_empty() {
        options.paths = args.paths;
    }
    let mut server = bind(&options)?;
    let stats = match args.stats {
        Some(path) => Some((output::create(&path)?, path)),
        None => None,
    };
    let stopper = server.stopper();
    signals::on_ending_signal(move |_| stopper.stop()).map_err(Failure::internal)?;
    if let Some(reason) = server.without_views() {
        eprintln!("postern: no elisa, elisa-strict, exit-kernel: {reason}");
    }
    output::print(&format!(
        "NIC of {} ports with {} slots at {}\n",
        geometry.ports(),
        geometry.slots(),
        options.socket.display()
    ))?;
    server.run()?;
    if let Some((file, path)) = stats {
        output::write_json(file, &path, &server.counters())?;
    }
    Ok(0)
}

/// Makes a NIC; an error names the image that it is about.
pub fn bind(options: &Options) -> Result<Server, Failure> {
    Server::bind(options).map_err(|error| match (&error, &options.image) {
        (ServerError::Image(_), Some(image)) => Failure::configuration(
            anyhow::Error::from(error).context(format!("cannot use {}", image.display())),
        ),
        _ => error.into(),
    })
}

impl From<ServerError> for Failure {
    fn from(error: ServerError) -> Failure {
        let status = match &error {
            ServerError::Image(_)
            | ServerError::InUse(_)
            | ServerError::NotASocket(_)
            | ServerError::Listen { .. }
            | ServerError::NoSuchPort { .. } => status::CONFIGURATION,
            ServerError::Memory(_) | ServerError::View(_) | ServerError::Wait(_) => status::NIC,
        };
        Failure {
            status,
            error: error.into(),
        }
    }
}

/// Flags of `postern stat`.
#[derive(ClapArgs)]
pub struct StatArgs {
    /// The NIC's socket
    #[arg(long, value_name = "PATH")]
    socket: PathBuf,

    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Prints the counters of a running NIC; returns the exit status.
pub fn stat(args: StatArgs) -> Result<u8, Failure> {
    let counters = client::counters(&args.socket).map_err(|error| Failure {
        status: status::NIC,
        error: error.into(),
    })?;
    output::print(&match args.json {
        true => format!("{:#}\n", serde_json::json!(counters)),
        false => counters.to_string(),
    })?;
    Ok(0)
}
