//! Role `misuse`: what a process of a guest may not do, and what has to become of it.

#[allow(
    unsafe_code,
    reason = "the acts are what the compiler keeps others from"
)]
mod acts;

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;
use postern_abi::platform::NIC_SLOT;
use postern_abi::view::{
    CALL_PAGE_GVA, DATA_GVA, GATE_GVA, IMAGE_GVA, LIST_GVA, SERVICE_INDICES, STACK_GVA, gate_index,
};
use postern_guest::linux::Port;

use crate::misdeed::Misuse;
use crate::options::Options;

/// Does it, in this process, which does not come back.
pub fn commit(misuse: Misuse, port: &Port) -> Result<()> {
    // The gate area is there once a port is open; on paths without views, VMFUNC alone is tried.
    println!("misuse {misuse:?} on {}", port.path().name());
    match misuse {
        Misuse::VmfuncPastGate => acts::vmfunc(0, SERVICE_INDICES[NIC_SLOT as usize]),
        Misuse::VmfuncNoIndex => acts::vmfunc(0, 512),
        Misuse::VmfuncNoFunction => acts::vmfunc(1, gate_index(NIC_SLOT)),
        Misuse::VmfuncElsewhere => acts::vmfunc(0, gate_index(NIC_SLOT)),
        Misuse::GateMiddle => acts::enter_gate_behind_its_code()?,
        Misuse::JumpToGate => acts::call(GATE_GVA),
        Misuse::TrapFlag => acts::single_step_vmfunc(gate_index(NIC_SLOT))?,
        Misuse::ReadList => acts::read(LIST_GVA),
        Misuse::ReadStack => acts::read(STACK_GVA),
        Misuse::ReadCallPage => acts::read(CALL_PAGE_GVA),
        Misuse::ReadImage => acts::read(IMAGE_GVA),
        Misuse::ReadState => acts::read(DATA_GVA),
    }
    bail!("{misuse:?} had no consequence")
}

/// Does all of it, in a process each, once and until the companion ends; then neither the companion
/// nor the kernel may have noticed.
pub fn all(options: &Options, companion: &[String]) -> Result<()> {
    let program = |arguments: &[String]| {
        let mut program = Command::new("/proc/self/exe");
        if let Some(device) = &options.device {
            program.arg("--device").arg(device);
        }
        program.args(arguments);
        program
    };
    let mut companion = match companion {
        [] => None,
        companion => Some(
            program(companion)
                .spawn()
                .context("starting the companion")?,
        ),
    };
    let mut rounds = 0;
    let status = loop {
        for &misuse in Misuse::value_variants() {
            let arguments = ["misuse".into(), "--only".into(), misuse.name()];
            let output = program(&arguments).stdout(Stdio::piped()).output();
            let output = output.with_context(|| format!("starting {misuse:?}"))?;
            ensure!(
                output.status.signal() == Some(misuse.signal()),
                "{misuse:?} ended with {}, not with signal {}: {}{}",
                output.status,
                misuse.signal(),
                String::from_utf8_lossy(&output.stdout),
                String::from_utf8_lossy(&output.stderr),
            );
        }
        rounds += 1;
        match companion.as_mut().map(Child::try_wait).transpose()? {
            None => break None,
            Some(None) => {}
            Some(Some(status)) => break Some(status),
        }
    };
    if let Some(status) = status {
        ensure!(status.success(), "the companion ended with {status}");
    }
    let complaints = kernel_complaints()?;
    ensure!(
        complaints.is_empty(),
        "the kernel complains: {}",
        complaints.join("; ")
    );
    let acts = Misuse::value_variants().len();
    println!("result role=misuse acts={acts} rounds={rounds}");
    Ok(())
}

/// Lines of the kernel's log that mean that something is wrong with the kernel.
fn kernel_complaints() -> Result<Vec<String>> {
    const SIGNS: [&str; 6] = [
        "BUG",
        "Oops",
        "WARNING:",
        "Call Trace",
        "rcu: INFO",
        "panic",
    ];
    let mut log = File::options()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open("/dev/kmsg")
        .context("opening the kernel's log")?;
    let mut complaints = Vec::new();
    let mut record = vec![0; 8192];
    // Each read gives a record; at the end there is none for now.
    loop {
        match log.read(&mut record) {
            Ok(0) => break,
            Ok(size) => {
                let line = String::from_utf8_lossy(&record[..size]).into_owned();
                // Words of the command line are no complaint.
                if !line.contains("ommand line") && SIGNS.iter().any(|sign| line.contains(sign)) {
                    complaints.push(line);
                }
            }
            // Records that were overwritten meanwhile.
            Err(error) if error.raw_os_error() == Some(libc::EPIPE) => {}
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => break,
            Err(error) => return Err(error).context("reading the kernel's log"),
        }
    }
    Ok(complaints)
}
