//! `postern trace`: aborts of calls in views, as the patched KVM's tracepoint tells them.
#![deny(unsafe_code)]

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};

use anyhow::{Context, anyhow};
use clap::Args as ClapArgs;
use object::{Object, ObjectSymbol, SymbolKind};
use postern_vmm::run_report::reason_name;
use postern_vmm::{control, signals, status};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde_json::json;

use crate::error::CommandError;
use crate::run_dir::{Entry, VmInfo};
use crate::{output, ps};

/// Flags of `postern trace`.
#[derive(ClapArgs)]
pub struct Args {
    /// Name of a VM (postern ps), or TOPOLOGY/VM
    #[arg(value_name = "VM")]
    which: String,

    /// Print each abort as a line of JSON
    #[arg(long)]
    json: bool,

    /// The program of the view, whose functions are named [default: that of the VM's NIC]
    #[arg(long, value_name = "FILE")]
    image: Option<PathBuf>,
}

/// What `--help` says.
pub const HELP: &str = "\
Prints a line for each call in a view that KVM aborts, until Ctrl-C or the VM's end: vCPU, view,
reason and RIP, with the function of the view's program that it is in. It needs root, tracefs and
the patched KVM. Addresses of a fault (GPA, GVA) are told by postern run --exit-on-abort, which ends
the VM at its first abort.";

/// How often the end is looked for.
const TURN: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 200_000_000,
};

/// Largest program of a view that is read, in bytes.
const MAX_IMAGE: u64 = 64 << 20;

/// An abort, as the tracepoint tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Abort {
    thread: u32,
    vcpu: u32,
    view: u32,
    reason: u32,
    rip: u64,
}

impl Abort {
    /// Takes a line of `trace_pipe` apart: `NAME-TID [CPU] FLAGS TIME: kvm_ept_view_abort: vcpu N view
    /// 0xN exit_reason 0xN rip 0xN`.
    fn parse(line: &str) -> Option<Abort> {
        let (before, words) = line.split_once(": kvm_ept_view_abort: ")?;
        // Names of threads may have blanks and hyphens.
        let (task, _) = before.split_once(" [")?;
        let (_, thread) = task.trim_end().rsplit_once('-')?;
        let words: Vec<&str> = words.split_whitespace().collect();
        let hex = |text: &str| u64::from_str_radix(text.strip_prefix("0x")?, 16).ok();
        match words[..] {
            [
                "vcpu",
                vcpu,
                "view",
                view,
                "exit_reason",
                reason,
                "rip",
                rip,
            ] => Some(Abort {
                thread: thread.parse().ok()?,
                vcpu: vcpu.parse().ok()?,
                view: hex(view)?.try_into().ok()?,
                reason: hex(reason)?.try_into().ok()?,
                rip: hex(rip)?,
            }),
            _ => None,
        }
    }
}

/// The functions of a view's program, by their addresses.
#[derive(Debug, Default)]
struct Symbols(Vec<(u64, u64, String)>);

impl Symbols {
    fn read(file: &Path) -> anyhow::Result<Symbols> {
        let shown = file.display();
        let opened = File::open(file).with_context(|| format!("cannot read {shown}"))?;
        let mut bytes = Vec::new();
        let read = opened.take(MAX_IMAGE).read_to_end(&mut bytes);
        read.with_context(|| format!("cannot read {shown}"))?;
        let image =
            object::File::parse(&*bytes).with_context(|| format!("{shown} is no ELF file"))?;
        let mut functions: Vec<_> = image
            .symbols()
            .filter(|symbol| symbol.kind() == SymbolKind::Text)
            .filter_map(|symbol| {
                let name = symbol.name().ok()?;
                Some((symbol.address(), symbol.size(), name.to_owned()))
            })
            .collect();
        functions.sort();
        Ok(Symbols(functions))
    }

    /// The function at an address, with the distance from its beginning.
    fn find(&self, address: u64) -> Option<String> {
        let after = self.0.partition_point(|(start, ..)| *start <= address);
        let (start, size, name) = self.0[..after].last()?;
        let offset = address - start;
        (offset < (*size).max(1)).then(|| format!("{name}+{offset:#x}"))
    }
}

/// A trace of its own, beside those of others; removed when this is dropped.
struct Instance(PathBuf);

impl Instance {
    fn new() -> anyhow::Result<Instance> {
        let base = ["/sys/kernel/tracing", "/sys/kernel/debug/tracing"]
            .into_iter()
            .map(Path::new)
            .find(|base| base.join("instances").is_dir())
            .ok_or_else(|| {
                anyhow!("there is no tracefs: run as root, and mount it (mount -t tracefs none /sys/kernel/tracing)")
            })?;
        if !base.join("events/kvm/kvm_ept_view_abort").is_dir() {
            return Err(anyhow!(
                "KVM has no tracepoint kvm_ept_view_abort: load the patched module (postern check tells)"
            ));
        }
        let path = base
            .join("instances")
            .join(format!("postern-{}", std::process::id()));
        fs::create_dir(&path).with_context(|| format!("cannot make {}", path.display()))?;
        let instance = Instance(path);
        let enable = instance.0.join("events/kvm/kvm_ept_view_abort/enable");
        fs::write(&enable, "1").with_context(|| format!("cannot write {}", enable.display()))?;
        Ok(instance)
    }

    fn open(&self) -> io::Result<File> {
        let mut options = OpenOptions::new();
        let options = options.read(true).custom_flags(libc::O_NONBLOCK);
        options.open(self.0.join("trace_pipe"))
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        // The kernel removes what is in it.
        let _ = fs::remove_dir(&self.0);
    }
}

/// Prints aborts until a signal or the VM's end; returns the exit status.
pub fn run(args: &Args) -> Result<u8, CommandError> {
    let entries = ps::entries()?;
    let (entry, vm) = ps::find_vm(&entries, &args.which)?;
    let report = control::report(&entry.control(&vm.name)).map_err(CommandError::configuration)?;
    let tasks = PathBuf::from(format!("/proc/{}/task", report.pid));
    let image = args.image.clone().or_else(|| image_of(entry, vm));
    let symbols = match image {
        Some(image) => Symbols::read(&image).map_err(CommandError::configuration)?,
        None => Symbols::default(),
    };
    let ended = Arc::new(AtomicI32::new(0));
    let signal = Arc::clone(&ended);
    signals::on_ending_signal(move |number| signal.store(number, Ordering::Relaxed))
        .map_err(CommandError::internal)?;
    let instance = Instance::new().map_err(CommandError::configuration)?;
    let pipe = instance.open().context("cannot open the trace");
    let mut pipe = pipe.map_err(CommandError::internal)?;
    let (mut text, mut bytes) = (Vec::new(), [0; 4096]);
    loop {
        match pipe.read(&mut bytes) {
            Ok(count) if count > 0 => text.extend_from_slice(&bytes[..count]),
            Ok(_) => wait(&pipe),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => wait(&pipe),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(CommandError::internal(error)),
        }
        while let Some(end) = text.iter().position(|&byte| byte == b'\n') {
            let line: Vec<u8> = text.drain(..=end).collect();
            let abort = Abort::parse(String::from_utf8_lossy(&line).trim_end());
            // Other VMs are in the same trace.
            if let Some(abort) = abort
                && tasks.join(abort.thread.to_string()).exists()
            {
                output::print(&shown(&abort, &symbols, args.json))?;
            }
        }
        match ended.load(Ordering::Relaxed) {
            0 if tasks.exists() => {}
            0 => return Ok(0),
            number => return Ok(status::SIGNAL_BASE.saturating_add(number as u8)),
        }
    }
}

fn wait(pipe: &File) {
    // Whatever it says, the pipe is read again.
    let _ = poll(&mut [PollFd::new(pipe, PollFlags::IN)], Some(&TURN));
}

/// The program of the NIC that a VM has a port of.
fn image_of(entry: &Entry, vm: &VmInfo) -> Option<PathBuf> {
    let (name, ..) = vm.port.as_ref()?;
    let mut nics = entry.info.nics.iter();
    nics.find(|nic| nic.name == *name)?.image.clone()
}

fn shown(abort: &Abort, symbols: &Symbols, as_json: bool) -> String {
    let &Abort {
        vcpu,
        view,
        reason,
        rip,
        ..
    } = abort;
    let function = symbols.find(rip);
    if as_json {
        let line = json!({
            "vcpu": vcpu,
            "view": view,
            "exit_reason": reason,
            "reason": reason_name(reason),
            "rip": rip,
            "function": function,
        });
        return format!("{line}\n");
    }
    let place = function.map_or_else(String::new, |function| format!(" ({function})"));
    format!(
        "vCPU {vcpu}: view {view}, exit reason {reason} ({}), RIP {rip:#x}{place}\n",
        reason_name(reason)
    )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failure is a failed test")]

    use super::*;

    const LINE: &str = "           vcpu0 -x-1234    [000] d..1.   123.456789: kvm_ept_view_abort: \
                        vcpu 1 view 0xcc exit_reason 0x30 rip 0x100000012";

    #[test]
    fn lines_of_the_tracepoint() {
        let abort = Abort::parse(LINE).unwrap();
        let expected = Abort {
            thread: 1234,
            vcpu: 1,
            view: 0xcc,
            reason: 48,
            rip: 0x1_0000_0012,
        };
        assert_eq!(abort, expected);
        let symbols = Symbols(vec![(0x1_0000_0000, 0x20, "serve".to_owned())]);
        let text = shown(&abort, &symbols, false);
        assert_eq!(
            text,
            "vCPU 1: view 204, exit reason 48 (EPT violation), RIP 0x100000012 (serve+0x12)\n"
        );
        let json: serde_json::Value = serde_json::from_str(&shown(&abort, &symbols, true)).unwrap();
        assert_eq!(json["function"], "serve+0x12");
        let (cut, _) = LINE.split_once(" rip").unwrap();
        for line in [
            "",
            "CPU:0 [LOST 3 EVENTS]",
            &LINE.replace("0xcc", "cc"),
            cut,
        ] {
            assert_eq!(Abort::parse(line), None, "{line}");
        }
    }

    #[test]
    fn functions_are_found_by_address() {
        let own = Symbols::read(&std::env::current_exe().unwrap()).unwrap();
        let (start, size, name) = own.0.iter().find(|(_, size, _)| *size > 4).unwrap();
        assert!(
            own.find(start + 1).unwrap().ends_with("+0x1"),
            "{name} {size}"
        );
        assert_eq!(own.find(1), None);
        assert!(Symbols::read(Path::new("/proc/version")).is_err());
    }
}
