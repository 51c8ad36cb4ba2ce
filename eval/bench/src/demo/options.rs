//! Options of the demo.

use std::path::PathBuf;

use clap::{ArgAction, Args};

/// Frames that each run sends unless the user says otherwise: enough for steady figures, few enough
/// for all runs together to take well under a minute in the emulated machine.
pub const DEFAULT_FRAMES: usize = 2000;

/// Most frames of a run.
pub const MAX_FRAMES: usize = 100_000;

/// Frames a burst unless the user says otherwise.
pub const DEFAULT_BATCHES: [u32; 2] = [1, 32];

/// Largest burst that a guest takes.
pub const MAX_BATCH: u32 = 256;

/// Flags of `cargo demo`.
#[derive(Args, Clone, Debug)]
pub struct DemoOptions {
    /// Write the results to this file, too, as JSON
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,

    /// Send the frames of this capture (pcap or pcapng, Ethernet, up to 1514 bytes a frame) instead
    /// of traffic that the demo captures itself
    #[arg(long, value_name = "FILE")]
    pub pcap: Option<PathBuf>,

    /// Frames a burst, 1 to 256; may be given several times [default: 1 and 32]
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_delimiter = ',',
          value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_BATCH)))]
    pub batch: Vec<u32>,

    /// Frames to send in each run; a shorter input is sent over and over
    #[arg(long, value_name = "N", allow_negative_numbers = true, default_value_t = DEFAULT_FRAMES,
          value_parser = parse_frames)]
    pub frames: usize,

    /// Whether VMs and NIC are confined (--seccomp of postern run): what that costs is the difference
    #[arg(long, value_name = "on|off", default_value = "on", action = ArgAction::Set,
          value_parser = parse_switch)]
    pub seccomp: bool,
}

impl DemoOptions {
    /// The batches to run, each once.
    pub fn batches(&self) -> Vec<u32> {
        let mut batches = match &self.batch[..] {
            [] => DEFAULT_BATCHES.to_vec(),
            given => given.to_vec(),
        };
        batches.sort();
        batches.dedup();
        batches
    }
}

fn parse_frames(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(frames) if (1..=MAX_FRAMES).contains(&frames) => Ok(frames),
        _ => Err(format!("give a number from 1 to {MAX_FRAMES}")),
    }
}

fn parse_switch(text: &str) -> Result<bool, String> {
    match text {
        "on" => Ok(true),
        "off" => Ok(false),
        _ => Err("say on or off".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        options: DemoOptions,
    }

    fn parse(arguments: &[&str]) -> Result<DemoOptions, String> {
        let arguments = ["demo"].iter().chain(arguments);
        match Cli::try_parse_from(arguments) {
            Ok(cli) => Ok(cli.options),
            Err(error) => Err(error.to_string()),
        }
    }

    #[test]
    fn defaults() {
        let options = parse(&[]).unwrap();
        assert_eq!(options.batches(), DEFAULT_BATCHES);
        assert_eq!(options.frames, DEFAULT_FRAMES);
        assert!(options.seccomp);
        assert!(!parse(&["--seccomp", "off"]).unwrap().seccomp);
    }

    #[test]
    fn batches_are_sorted_and_unique() {
        let options = parse(&["--batch", "64", "--batch", "8,64"]).unwrap();
        assert_eq!(options.batches(), [8, 64]);
    }

    #[test]
    fn values_out_of_range_are_refused() {
        for bad in [
            ["--batch", "0"],
            ["--batch", "257"],
            ["--batch", "many"],
            ["--frames", "0"],
            ["--frames", "-1"],
            ["--frames", "100001"],
            ["--seccomp", "maybe"],
        ] {
            let error = parse(&bad).unwrap_err();
            assert!(error.contains(bad[0]) && error.contains(bad[1]), "{error}");
        }
    }
}
