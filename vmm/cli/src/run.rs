//! `postern run`: one VM.
#![deny(unsafe_code)]

use std::io;
use std::path::{Path, PathBuf};

use clap::Args as ClapArgs;
use postern_abi::platform;
use postern_vmm::devices::SerialOutput;
use postern_vmm::size::Bytes;
use postern_vmm::vm::{BuildConfig, Builder, Outputs};
use postern_vmm::{event_counters, signals};

use crate::error::CommandError;
use crate::{output, parsers};

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
    #[arg(long, value_name = "SIZE", default_value = "64M")]
    memory: Bytes,

    /// The guest's processors; with a port, at most as many as the NIC has queues (on all paths but
    /// direct)
    #[arg(long, value_name = "N", default_value_t = 1)]
    vcpus: usize,

    /// Where the guest's serial console (COM1) goes: a file, or - for standard output
    #[arg(long, value_name = "FILE", default_value = "-")]
    serial: PathBuf,

    /// Where the bytes go that the guest puts in its outbox; without it they are refused
    #[arg(long, value_name = "FILE")]
    outbox: Option<PathBuf>,

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

    /// End the VM when a call in a view is aborted; without it the guest gets #UD and goes on
    #[arg(long, requires = "nic")]
    exit_on_abort: bool,

    /// Which counters to read when the guest asks for a snapshot: none, emulated (the exact ones of
    /// the emulated machine) or perf (the CPU's instruction counters)
    #[arg(long, value_name = "WHICH", default_value = "none")]
    counters: event_counters::CounterSource,
}

/// Boots the VM and waits for its end; returns the exit status.
pub fn run(args: Args) -> Result<u8, CommandError> {
    let config = BuildConfig {
        kernel: args.kernel,
        initrd: args.initrd,
        cmdline: args.cmdline,
        memory: args.memory.0,
        vcpus: args.vcpus,
        counters: args.counters,
        record: args.stats.is_some(),
        exit_on_abort: args.exit_on_abort,
    };
    let mut builder = Builder::new(config)?;
    if let (Some(socket), Some(port), Some(path)) = (args.nic, args.port, args.path) {
        builder = builder.connect(&socket, port, path)?;
    }
    let vm = builder.build()?;

    let stopper = vm.stopper();
    signals::on_ending_signal(move |signal| stopper.stop(signal))
        .map_err(CommandError::internal)?;

    // Only now, so that nothing is left behind by a run that cannot be.
    let outputs = Outputs {
        serial: open_serial(&args.serial)?,
        outbox: args.outbox.as_deref().map(output::create).transpose()?,
        nic_end: Box::new(|end| eprintln!("postern: {end}")),
    };
    let stats = match args.stats {
        Some(path) => Some((output::create(&path)?, path)),
        None => None,
    };

    let report = vm.run(outputs)?;
    if let Some((file, path)) = stats {
        let json = report.json(args.path.map(platform::CallPath::name), args.port);
        output::write_json(file, &path, &json)?;
    }
    if !report.outcome.by_guest() {
        eprintln!("postern: {}", report.outcome);
    }
    Ok(report.outcome.status())
}

fn open_serial(path: &Path) -> Result<SerialOutput, CommandError> {
    if path == Path::new("-") {
        return Ok(Box::new(io::stdout()));
    }
    Ok(Box::new(output::create(path)?))
}
