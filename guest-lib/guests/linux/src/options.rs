//! The program's arguments.

use std::ops::RangeInclusive;

use clap::{Args, Parser, Subcommand};
use postern_abi::window::{MAX_FRAME, MAX_QUEUES};
use postern_guest_linux::stamped::MIN_LENGTH;

use crate::misdeed::Misuse;
use crate::waiting::Waiting;

/// Sends, receives and misuses over the VM's NIC port.
///
/// Each frame is checked byte by byte, and that it came once. The last line of output is `result
/// role=NAME ...` or `error: ...`; the status is 0 or 1, and 2 for arguments that cannot be used. As
/// the first process of a VM it takes its arguments from the kernel's command line, behind `--`.
#[derive(Debug, Parser)]
#[command(name = "postern-guest-linux", version)]
pub struct Options {
    /// PCI address of the NIC port; without it the VM's only one.
    #[arg(long, global = true, value_name = "ADDRESS")]
    pub device: Option<String>,
    /// What to do.
    #[command(subcommand)]
    pub role: Role,
}

/// What the program does.
#[derive(Debug, Subcommand)]
pub enum Role {
    /// Says what the VM's NIC port is.
    Info,
    /// Sends frames, after a receiver's beacon, and waits while it has no room.
    Send {
        #[command(flatten)]
        traffic: Traffic,
        /// Send to this station, with no beacon; frames that it has no room for are dropped.
        #[arg(long, value_name = "MAC", value_parser = station)]
        to: Option<[u8; 6]>,
    },
    /// Sends beacons until frames come, and takes and checks them.
    Receive(Traffic),
    /// Sends each frame back to where it came from, after beacons.
    Echo(Traffic),
    /// Sends frames to an echo, and checks what comes back.
    Ping(Traffic),
    /// Rings the bell of a peer's queue over and over, as a hostile guest can.
    Storm {
        /// Port of the peer.
        #[arg(long)]
        port: u32,
        /// Queue of the port.
        #[arg(long, default_value_t = 0)]
        queue: u32,
        /// How often.
        #[arg(long, default_value_t = 10_000)]
        rings: u64,
    },
    /// Does what a process may not do, each in a process of its own that has to die of it.
    Misuse {
        /// What; without it all, over and over while the companion runs.
        #[arg(long, value_enum)]
        only: Option<Misuse>,
        /// Arguments of a companion, this program in another role, which must not notice. (No `--`
        /// comes before them: the kernel hands its first process nothing behind a second one.)
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        companion: Vec<String>,
    },
    /// Ends as the first process, by which the kernel panics.
    Panic,
    /// Reboots the VM.
    Reboot,
}

/// How frames move.
#[derive(Clone, Debug, Args)]
pub struct Traffic {
    /// Frames in all, over all threads.
    #[arg(long, default_value_t = 100_000)]
    pub frames: u64,
    /// Lengths of frames in bytes, which take turns.
    #[arg(long, value_delimiter = ',', default_value = "60,1514,256", value_parser = length)]
    pub sizes: Vec<usize>,
    /// Frames a call.
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub batch: u16,
    /// Threads, each with a queue of its own.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_QUEUES)))]
    pub threads: u32,
    /// Moves each thread to the next CPU after so many bursts; 0 leaves it where it is.
    #[arg(long, default_value_t = 0)]
    pub migrate: u64,
    /// Microseconds that a sender sleeps after each burst.
    #[arg(long, default_value_t = 0)]
    pub pause: u64,
    /// How `receive` and `echo` wait for frames.
    #[arg(long, value_enum, default_value_t = Waiting::Poll)]
    pub wait: Waiting,
    /// Seconds in which something must move.
    #[arg(long, default_value_t = 30)]
    pub patience: u64,
}

const LENGTHS: RangeInclusive<usize> = MIN_LENGTH..=MAX_FRAME as usize;

fn length(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(length) if LENGTHS.contains(&length) => Ok(length),
        _ => Err(format!(
            "frames have {} to {} bytes",
            LENGTHS.start(),
            LENGTHS.end()
        )),
    }
}

fn station(text: &str) -> Result<[u8; 6], String> {
    let mut station = [0; 6];
    let mut parts = text.split(':');
    for byte in &mut station {
        let part = parts
            .next()
            .and_then(|part| u8::from_str_radix(part, 16).ok());
        *byte = part.ok_or("a station is six bytes in hexadecimal with colons between them")?;
    }
    match parts.next() {
        None => Ok(station),
        Some(_) => Err("a station has six bytes".into()),
    }
}

impl Traffic {
    /// Length of the frame of this number, in bytes.
    pub fn length(&self, number: u64) -> usize {
        self.sizes[(number % self.sizes.len() as u64) as usize]
    }

    /// Frames of a thread: an equal share, and one of what is left over.
    pub fn share(&self, thread: u32) -> u64 {
        let threads = u64::from(self.threads);
        self.frames / threads + u64::from(u64::from(thread) < self.frames % threads)
    }
}
