//! `postern run`: one VM.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::{Args as ClapArgs, ValueEnum};
use postern_vmm::devices::SerialOutput;
use postern_vmm::vm::{Builder, Config, Outputs};
use postern_vmm::{counters, signals};

use crate::failure::Failure;
use crate::size;

/// Flags of `postern run`.
#[derive(ClapArgs)]
pub struct Args {
    /// The guest's kernel: a static ELF64 executable for x86-64, entered in 64-bit mode, or by the
    /// PVH boot protocol if it has the note for it
    #[arg(long, value_name = "ELF")]
    kernel: PathBuf,

    /// The guest's initrd
    #[arg(long, value_name = "FILE")]
    initrd: Option<PathBuf>,

    /// The guest's command line
    #[arg(long, value_name = "STRING", default_value = "")]
    cmdline: String,

    /// The guest's memory, in bytes or with K, M or G
    #[arg(long, value_name = "SIZE", default_value = "64M", value_parser = size::parse)]
    memory: u64,

    /// The guest's processors
    #[arg(long, value_name = "N", default_value_t = 1)]
    vcpus: usize,

    /// Where the guest's serial console (COM1) goes: a file, or - for standard output
    #[arg(long, value_name = "FILE", default_value = "-")]
    serial: PathBuf,

    /// Where the bytes go that the guest puts in its outbox; without it they are refused
    #[arg(long, value_name = "FILE")]
    outbox: Option<PathBuf>,

    /// Write exits by reason, the guest's marks and counters to this file, as JSON
    #[arg(long, value_name = "FILE")]
    stats: Option<PathBuf>,

    /// Which counters to read at the guest's marks
    #[arg(long, value_name = "WHICH", default_value = "none")]
    counters: CounterKind,
}

#[derive(Clone, Copy, ValueEnum)]
enum CounterKind {
    /// No counters
    None,
    /// The exact counters of the emulated machine
    Emulated,
    /// The CPU's instruction counters
    Perf,
}

impl From<CounterKind> for counters::Kind {
    fn from(kind: CounterKind) -> counters::Kind {
        match kind {
            CounterKind::None => counters::Kind::None,
            CounterKind::Emulated => counters::Kind::Emulated,
            CounterKind::Perf => counters::Kind::Perf,
        }
    }
}

/// Boots the VM and waits for its end; returns the exit status.
pub fn run(args: Args) -> Result<u8, Failure> {
    let config = Config {
        kernel: args.kernel,
        initrd: args.initrd,
        cmdline: args.cmdline,
        memory: args.memory,
        vcpus: args.vcpus,
        counters: args.counters.into(),
        record: args.stats.is_some(),
    };
    let vm = Builder::new(config)?.build()?;

    // Only now, so that nothing is left behind by a run that cannot be.
    let outputs = Outputs {
        serial: open_serial(&args.serial)?,
        outbox: args.outbox.as_deref().map(create).transpose()?,
    };
    let mut stats = args.stats.as_deref().map(create).transpose()?;
    let stopper = vm.stopper();
    signals::on_ending_signal(move |signal| stopper.stop(signal)).map_err(Failure::internal)?;

    let report = vm.run(outputs)?;
    if let Some(file) = &mut stats {
        write_json(file, &report.json(None, None))
            .context("cannot write the statistics")
            .map_err(Failure::internal)?;
    }
    if !report.outcome.by_guest() {
        eprintln!("postern: {}", report.outcome);
    }
    Ok(report.outcome.status())
}

fn open_serial(path: &Path) -> Result<SerialOutput, Failure> {
    if path == Path::new("-") {
        return Ok(Box::new(io::stdout()));
    }
    Ok(Box::new(create(path)?))
}

fn create(path: &Path) -> Result<File, Failure> {
    File::create(path)
        .with_context(|| format!("cannot create {}", path.display()))
        .map_err(Failure::configuration)
}

fn write_json(file: &mut File, value: &serde_json::Value) -> io::Result<()> {
    let mut text = serde_json::to_vec_pretty(value)?;
    text.push(b'\n');
    file.write_all(&text)
}
