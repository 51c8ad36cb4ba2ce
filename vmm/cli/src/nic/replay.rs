//! `postern nic replay`.
#![deny(unsafe_code)]

use std::collections::BTreeSet;
use std::num::NonZeroU64;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use anyhow::Context;
use clap::Args as ClapArgs;
use postern_abi::platform::CallPath;
use postern_abi::window::{MAX_FRAME, MIN_FRAME};
use postern_nic_client::bells::Bells;
use postern_nic_client::control::Control;
use postern_nic_client::memory::Memory;
use postern_nic_client::protocol::AccessFds;
use postern_nic_client::request;
use postern_nic_owner::capture::{Jumps, Pace, Recording, Replay, Skipped};
use postern_nic_owner::host_port::HostPort;
use postern_vmm::{signals, status};

use super::ask::order;
use crate::error::CommandError;
use crate::{output, parsers};

/// Flags of `postern nic replay`.
#[derive(ClapArgs)]
pub struct Args {
    /// The NIC's socket; it must offer the path direct
    #[arg(value_parser = parsers::socket)]
    socket: PathBuf,
    /// Number of the port, which nobody may have
    port: u32,
    /// A pcap or pcapng file
    file: PathBuf,
    /// When frames are sent: fast, recorded, or so many a second
    #[arg(long, value_name = "PACE", default_value = "fast", value_parser = pace)]
    pace: Pace,
    /// With --pace recorded, the longest wait between two frames, in seconds; longer jumps of the
    /// recorded time are cut to that
    #[arg(long, value_name = "SECONDS", default_value_t = Replay::default().longest_gap.as_secs())]
    longest_gap: u64,
    /// How often the file is sent; 0 is until a signal comes
    #[arg(long, value_name = "N", default_value_t = 1)]
    loops: u64,
    /// Have the NIC learn stations from the frames also if the file holds what several said, such
    /// as both ends of a conversation. By default it does not, so that frames go to where the NIC
    /// knows these stations, or else to all ports, and not back to this port
    #[arg(long)]
    learn: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

fn pace(text: &str) -> Result<Pace, String> {
    match text {
        "fast" => Ok(Pace::Fast),
        "recorded" => Ok(Pace::Recorded),
        number => match number.parse::<NonZeroU64>() {
            Ok(rate) => Ok(Pace::Rate(rate)),
            Err(_) => Err("give fast, recorded, or frames a second".to_owned()),
        },
    }
}

/// The number of different source addresses in a file.
fn stations(recording: &Recording) -> usize {
    let frames = (0..recording.len()).filter_map(|number| recording.frame(number));
    let sources = frames.filter_map(|frame| frame.data.get(6..12));
    sources.collect::<BTreeSet<_>>().len()
}

/// Sends it; returns the exit status.
pub fn run(args: &Args) -> Result<u8, CommandError> {
    let recording = Recording::open(&args.file).map_err(CommandError::configuration)?;
    let tenancy = request::port(&args.socket, args.port, CallPath::Direct)?;
    let stations = stations(&recording);
    if stations > 1 && !args.learn {
        // Until this process ends.
        let port = args.port;
        order(&args.socket, &Control::Learning { port, on: false })?;
        output::tell(format_args!(
            "the file holds what {stations} stations said: the NIC learns none of them from port \
             {port} meanwhile (--learn has it learn them)"
        ));
    }
    let number = tenancy.credentials.port();
    let AccessFds::Memory { state, windows } = tenancy.fds.access else {
        let error = anyhow::anyhow!("the NIC gave a view instead of its memory");
        return Err(CommandError::internal(error));
    };
    let nic = |error: anyhow::Error| CommandError {
        status: status::NIC,
        error,
    };
    let memory = Memory::open(state, windows).map_err(|error| nic(error.into()))?;
    let bells = Bells::from_fds(memory.geometry(), tenancy.fds.bells);
    let bells = bells.context("the NIC gave bells of another NIC");
    let bells = Arc::new(bells.map_err(nic)?);
    let port = HostPort::with_bells(Arc::new(memory), number, bells)
        .with_context(|| format!("cannot use port {number}"))
        .map_err(nic)?;
    let mut port = port.hold();
    let ended = Arc::new(AtomicBool::new(false));
    let end = Arc::clone(&ended);
    signals::on_ending_signal(move |_| end.store(true, Relaxed)).map_err(CommandError::internal)?;
    let replay = Replay {
        pace: args.pace,
        loops: (args.loops != 0).then_some(args.loops),
        longest_gap: Duration::from_secs(args.longest_gap),
    };
    if args.pace == Pace::Recorded {
        tell_jumps(replay.jumps(&recording), args.longest_gap);
    }
    let stats = replay.run(&recording, &mut port, &|| ended.load(Relaxed));
    while !ended.load(Relaxed) && port.flush() != 0 {
        std::thread::sleep(Duration::from_micros(100));
    }
    let skipped = recording.skipped();
    output::print(&match args.json {
        true => {
            let mut value = serde_json::json!(stats);
            value["skipped"] = serde_json::json!(skipped);
            format!("{value:#}\n")
        }
        false => format!(
            "{} frames, {} bytes sent{}\n",
            stats.frames,
            stats.bytes,
            in_words(skipped)
        ),
    })?;
    Ok(0)
}

/// Says which waits are shorter than the file would have them.
fn tell_jumps(jumps: Jumps, longest_gap: u64) {
    if jumps.count != 0 {
        output::tell(format_args!(
            "jumps of the recorded time by more than {longest_gap} s: {}, at most {} s; each of \
             these waits is cut to {longest_gap} s (--longest-gap)",
            jumps.count,
            jumps.longest.as_secs()
        ));
    }
}

/// What is not sent, behind what is.
fn in_words(skipped: Skipped) -> String {
    let Skipped {
        truncated,
        too_long,
        too_short,
    } = skipped;
    match truncated + too_long + too_short {
        0 => String::new(),
        all => format!(
            "; of the file's frames {all} cannot be sent ({truncated} captured in part, {too_long} \
             over {MAX_FRAME} bytes, {too_short} under {MIN_FRAME} bytes)"
        ),
    }
}
