//! What `postern nic ACTION SOCKET` asks the owner of a running NIC for.
#![deny(unsafe_code)]

use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::{Args, Subcommand, ValueEnum};
use postern_nic_client::control::{CaptureInfo, Control, Format, Holder, PortInfo, Revocation};
use postern_nic_client::mac::Mac;
use postern_nic_client::request;

use super::ask::{ask, order};
use super::{policy, replay, show};
use crate::error::CommandError;
use crate::{output, parsers};

/// What to do with a running NIC.
#[derive(Subcommand)]
pub enum Action {
    /// Show ports, counters, stations, policies, uplinks, captures or paths
    Show(show::Args),
    /// Change what a port may send and receive
    Set(policy::Args),
    /// Let a port, let it to nobody, or take it from its tenant
    Port(PortArgs),
    /// Tell the NIC where a station is, or have it forget some; choose a port's own address
    Mac(MacArgs),
    /// Join a port to an interface of this host, or part them
    Uplink(UplinkArgs),
    /// Write what passes a port, or all of them, to a file
    Capture(CaptureArgs),
    /// Send the frames of a pcap or pcapng file from a port
    Replay(replay::Args),
    /// End the owner, and with it the NIC
    Stop(StopArgs),
}

/// Flags of `postern nic port`.
#[derive(Args)]
pub struct PortArgs {
    /// The NIC's socket
    #[arg(value_parser = parsers::socket)]
    socket: PathBuf,
    /// Number of the port
    port: u32,
    /// What to do
    state: PortState,
    /// With revoke: end the tenant's process (SIGKILL), which has the port's memory until then, and
    /// wait until the port can be let anew
    #[arg(long)]
    kill: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum PortState {
    /// Let it to whoever asks
    Enable,
    /// End the tenancy now, and let it to nobody
    Disable,
    /// End the tenancy now, whatever its VM does: when this is done, none of its calls reaches the
    /// NIC any more
    Revoke,
}

/// Flags of `postern nic mac`.
#[derive(Args)]
pub struct MacArgs {
    /// The NIC's socket
    #[arg(value_parser = parsers::socket)]
    socket: PathBuf,
    #[command(subcommand)]
    action: MacAction,
}

#[derive(Subcommand)]
enum MacAction {
    /// Say behind which port a station is, for good
    Add {
        /// Number of the port
        port: u32,
        /// Address of the station
        mac: Mac,
        /// The VLAN that it is in; 0 is every VLAN of the port
        #[arg(long, value_name = "N", default_value_t = 0)]
        vlan: u16,
    },
    /// Give the next tenants of a port this address
    Own {
        /// Number of the port, which nobody may have
        port: u32,
        /// The address; without it, the one that the port had at first
        mac: Option<Mac>,
    },
    /// Forget a station, learned or told
    Remove {
        /// Address of the station
        mac: Mac,
        /// The VLAN that it is in; 0 is that of a station told for every VLAN
        #[arg(long, value_name = "N", default_value_t = 0)]
        vlan: u16,
    },
    /// Forget all stations that were learned
    Flush {
        /// Only those behind this port
        port: Option<u32>,
    },
}

/// Flags of `postern nic uplink`.
#[derive(Args)]
pub struct UplinkArgs {
    /// The NIC's socket
    #[arg(value_parser = parsers::socket)]
    socket: PathBuf,
    #[command(subcommand)]
    action: UplinkAction,
}

#[derive(Subcommand)]
enum UplinkAction {
    /// Join a port to an interface
    Add {
        /// Number of the port, which nobody may have
        port: u32,
        /// tap:NAME, packet:INTERFACE or xdp:INTERFACE; behind a tap's name perhaps ,mtu=BYTES,
        /// behind that of xdp ,queue=N and ,mode=auto, copy or zero-copy
        interface: String,
        /// Look for frames all the time, which takes one CPU
        #[arg(long)]
        busy: bool,
    },
    /// Part a port from its interface
    Remove {
        /// Number of the port
        port: u32,
    },
}

/// Flags of `postern nic capture`.
#[derive(Args)]
pub struct CaptureArgs {
    /// The NIC's socket
    #[arg(value_parser = parsers::socket)]
    socket: PathBuf,
    #[command(subcommand)]
    action: CaptureAction,
}

#[derive(Subcommand)]
enum CaptureAction {
    /// Begin
    Add {
        /// Number of the port, or all
        #[arg(value_parser = port_or_all)]
        port: PortOrAll,
        /// The file, which must not exist
        file: PathBuf,
        /// A port that nobody has, for the copies [default: the last one]
        #[arg(long, value_name = "PORT")]
        via: Option<u32>,
        /// Write pcap instead of pcapng: no names of ports, no directions, no loss
        #[arg(long)]
        pcap: bool,
        /// Keep at most so many bytes of each frame
        #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(u32).range(1..))]
        snap: Option<u32>,
        /// Look for frames all the time, on a CPU of its own, so that each is stamped at once
        #[arg(long)]
        busy: bool,
    },
    /// End, and say what was written
    Remove {
        /// What is captured, as it was said to begin (the number of a port, or all), or the file
        #[arg(value_name = "PORT|all|FILE")]
        which: PathBuf,
        /// The file, if what is captured is captured to several
        file: Option<PathBuf>,
    },
}

#[derive(Clone, Copy)]
struct PortOrAll(Option<u32>);

fn port_or_all(text: &str) -> Result<PortOrAll, String> {
    match text {
        "all" => Ok(PortOrAll(None)),
        number => match number.parse() {
            Ok(number) => Ok(PortOrAll(Some(number))),
            Err(_) => Err("give the number of a port, or all".to_owned()),
        },
    }
}

/// Flags of `postern nic stop`.
#[derive(Args)]
pub struct StopArgs {
    /// The NIC's socket
    #[arg(value_parser = parsers::socket)]
    socket: PathBuf,
    /// The NIC goes on without an owner, until another postern nic --socket takes it over, or its
    /// last VM has ended
    #[arg(long)]
    keep: bool,
    /// End the NIC also if its owner has ended and it is kept. VMs go on with the memory that they
    /// have, and reach each other on elisa, elisa-strict, exit-user and direct until they end; no
    /// port is let to another any more, and their VMMs are told
    #[arg(long, conflicts_with = "keep")]
    discard: bool,
}

/// Does it; returns the exit status.
pub fn run(action: Action) -> Result<u8, CommandError> {
    match action {
        Action::Show(args) => show::run(&args),
        Action::Set(args) => policy::run(args),
        Action::Replay(args) => replay::run(&args),
        Action::Port(args) => port(&args),
        Action::Mac(MacArgs { socket, action }) => order(
            &socket,
            &match action {
                MacAction::Add { port, mac, vlan } => Control::AddMac { port, mac, vlan },
                MacAction::Own { port, mac } => Control::SetMac { port, mac },
                MacAction::Remove { mac, vlan } => Control::RemoveMac { mac, vlan },
                MacAction::Flush { port } => Control::FlushMacs { port },
            },
        ),
        Action::Uplink(UplinkArgs { socket, action }) => order(
            &socket,
            &match action {
                UplinkAction::Add {
                    port,
                    interface,
                    busy,
                } => Control::AddUplink {
                    port,
                    interface,
                    busy,
                },
                UplinkAction::Remove { port } => Control::RemoveUplink { port },
            },
        ),
        Action::Capture(args) => capture(args),
        Action::Stop(StopArgs {
            socket,
            keep,
            discard,
        }) => {
            request::stop(&socket, keep, discard)?;
            Ok(0)
        }
    }
}

/// How long a process may take to end that was killed.
const KILL_TIMEOUT: Duration = Duration::from_secs(30);

fn port(args: &PortArgs) -> Result<u8, CommandError> {
    let PortArgs {
        ref socket,
        port,
        state,
        kill,
    } = *args;
    match state {
        PortState::Enable | PortState::Disable if kill => Err(CommandError::configuration(
            anyhow::anyhow!("--kill goes with revoke only"),
        )),
        PortState::Enable => order(socket, &Control::Enable { port }),
        PortState::Disable => order(socket, &Control::Disable { port }),
        PortState::Revoke => {
            let done: Revocation = ask(socket, &Control::Revoke { port, kill })?;
            let holder = match kill {
                true => wait_until_vacant(socket, port)?,
                false => done.holder.clone(),
            };
            output::print(&revocation(port, &done, &holder))?;
            Ok(0)
        }
    }
}

/// What a revocation has come to, in words.
fn revocation(port: u32, done: &Revocation, holder: &Holder) -> String {
    let process = match done.pid {
        Some(pid) => format!("process {pid}"),
        None => "its tenant".to_owned(),
    };
    let next = match holder {
        Holder::Leaving { left: false, .. } => {
            "that process still has its memory, and it is let anew when that has ended (revoke \
             --kill ends it)"
        }
        Holder::Leaving { .. } => {
            "another process still has its memory, and it is let anew when that has ended"
        }
        _ => "it can be let anew",
    };
    let grants = match done.grants {
        1 => "1 grant".to_owned(),
        count => format!("{count} grants"),
    };
    format!("port {port} is taken from {process}, {grants} revoked; {next}\n")
}

/// Waits until a port's tenant is gone that was killed.
fn wait_until_vacant(socket: &Path, port: u32) -> Result<Holder, CommandError> {
    let end = Instant::now() + KILL_TIMEOUT;
    loop {
        let ports: Vec<PortInfo> = ask(socket, &Control::Ports)?;
        let info = ports.into_iter().find(|info| info.port == port);
        let holder = info.map_or(Holder::Vacant, |info| info.holder);
        let leaving = matches!(holder, Holder::Leaving { left: false, .. });
        if !leaving || Instant::now() > end {
            return Ok(holder);
        }
        thread::sleep(Duration::from_millis(10));
    }
}

fn capture(CaptureArgs { socket, action }: CaptureArgs) -> Result<u8, CommandError> {
    match action {
        CaptureAction::Add {
            port: PortOrAll(port),
            file,
            via,
            pcap,
            snap,
            busy,
        } => {
            let format = if pcap { Format::Pcap } else { Format::PcapNg };
            let file = absolute(&file)?;
            let add = Control::AddCapture {
                port,
                via,
                file,
                format,
                snap,
                busy,
            };
            order(&socket, &add)
        }
        CaptureAction::Remove { which, file } => {
            let file = captured_file(&socket, &which, file.as_deref())?;
            let info: CaptureInfo = ask(&socket, &Control::RemoveCapture { file })?;
            let (written, lost) = (info.written, info.lost);
            output::print(&format!("{written} frames written, {lost} lost\n"))?;
            match info.failure {
                None => Ok(0),
                Some(why) => Err(CommandError::internal(anyhow::anyhow!(why))),
            }
        }
    }
}

/// The file of a capture that is named by what is captured and the file, or by one of both if one
/// capture alone has it.
fn captured_file(
    socket: &Path,
    which: &Path,
    file: Option<&Path>,
) -> Result<PathBuf, CommandError> {
    let wanted = file.map(absolute).transpose()?;
    let alone = absolute(which)?;
    let (what, shown) = (which.to_str().map(port_or_all), which.display());
    let Some(Ok(PortOrAll(port))) = what else {
        return match file {
            None => Ok(alone),
            Some(_) => Err(CommandError::configuration(anyhow::anyhow!(
                "'{shown}' is what is captured, if a file follows: give the number of a port, or all"
            ))),
        };
    };
    let captures: Vec<CaptureInfo> = ask(socket, &Control::Captures)?;
    let is_meant = |info: &CaptureInfo| match &wanted {
        Some(wanted) => info.port == port && info.file == *wanted,
        None => info.port == port || info.file == alone,
    };
    let mut meant = captures.into_iter().filter(is_meant);
    match (meant.next(), meant.next(), wanted) {
        (Some(only), None, _) => Ok(only.file),
        (None, _, None) => Ok(alone),
        (None, _, Some(wanted)) => Err(CommandError::configuration(anyhow::anyhow!(
            "there is no capture of {shown} to {} (postern nic show {} captures)",
            wanted.display(),
            socket.display()
        ))),
        (Some(_), Some(_), _) => Err(CommandError::configuration(anyhow::anyhow!(
            "{shown} can be several captures: name the file, with its folder (postern nic show {} \
             captures)",
            socket.display()
        ))),
    }
}

/// The owner has another working directory, maybe.
fn absolute(file: &Path) -> Result<PathBuf, CommandError> {
    std::path::absolute(file)
        .with_context(|| format!("cannot use {}", file.display()))
        .map_err(CommandError::configuration)
}
