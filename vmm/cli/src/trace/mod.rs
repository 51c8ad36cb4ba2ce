//! `postern trace`: aborts of calls in views, as the patched KVM's tracepoint tells them.
#![deny(unsafe_code)]

mod abort;
mod symbols;

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};

use anyhow::{Context, anyhow};
use clap::Args as ClapArgs;
use postern_nic_client::control::{Control, PathReport};
use postern_nic_client::request;
use postern_vmm::{control, signals, status};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::error::CommandError;
use crate::run_dir::{Entry, VmInfo};
use crate::{output, ps};
use abort::Abort;
use symbols::Symbols;

/// Flags of `postern trace`.
#[derive(ClapArgs)]
pub struct Args {
    /// Name of a VM (postern ps), TOPOLOGY/VM, or the topology if it has one VM
    #[arg(value_name = "VM")]
    which: String,

    /// Print each abort as a line of JSON
    #[arg(long)]
    json: bool,

    /// The program of the view, whose functions are named, with its symbols [default: the image that
    /// the VM's NIC was started with]
    #[arg(long, value_name = "FILE")]
    image: Option<PathBuf>,
}

/// What `--help` says.
pub const HELP: &str = "\
Prints a line for each call in a view that KVM aborts, until Ctrl-C or the VM's end: vCPU, view, exit
reason, the addresses of the fault (GPA, GVA) where the exit has them, and RIP with the function of the
view's program that it is in. It needs root, tracefs and the patched KVM. A program without symbols
(strip) names no functions.";

/// How often the end is looked for.
const TURN: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 200_000_000,
};

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
        let event = base.join("events/kvm/kvm_ept_view_abort");
        if !event.is_dir() {
            return Err(anyhow!(
                "KVM has no tracepoint kvm_ept_view_abort: load the patched module (postern check tells)"
            ));
        }
        let format = fs::read_to_string(event.join("format")).unwrap_or_default();
        check_format(&format)?;
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

/// Whether the module's tracepoint has what this program prints, by tracefs's description of it.
fn check_format(format: &str) -> anyhow::Result<()> {
    let printed = format.lines().find(|line| line.starts_with("print fmt:"));
    let missing = abort::FIELDS
        .iter()
        .find(|field| !printed.is_some_and(|line| line.contains(&format!("{field} "))));
    match missing {
        None => Ok(()),
        Some(field) => Err(anyhow!(
            "the tracepoint of the loaded KVM does not tell {field}: the module is of another \
             version than this program; build both from one revision (kernel-patches/build.sh)"
        )),
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
    let (entry, vm) = ps::find_vm(&entries, Path::new(&args.which))?;
    let report = control::report(&entry.control(&vm.name)).map_err(CommandError::configuration)?;
    let tasks = PathBuf::from(format!("/proc/{}/task", report.pid));
    let image = args.image.clone().or_else(|| image_of(entry, vm));
    let symbols = match &image {
        Some(image) => Symbols::read(image).map_err(CommandError::configuration)?,
        None => Symbols::default(),
    };
    if symbols.is_empty() {
        let why = match &image {
            Some(image) => format!(
                "{} has no symbols; give one that has (--image FILE)",
                image.display()
            ),
            None => "the view's program is not known; give it with its symbols (--image FILE)"
                .to_owned(),
        };
        output::tell(format_args!("functions are not named: {why}"));
    }
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
                output::print(&match args.json {
                    true => abort.json(&vm.name, &symbols),
                    false => abort.text(&vm.name, &symbols),
                })?;
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

/// The program of the NIC that a VM has a port of: as its topology says, else as the NIC does.
fn image_of(entry: &Entry, vm: &VmInfo) -> Option<PathBuf> {
    let (name, ..) = vm.port.as_ref()?;
    if let Some(socket) = &vm.nic {
        let report = request::control::<PathReport>(socket, &Control::Paths).ok()?;
        return report.image;
    }
    let mut nics = entry.info.nics.iter();
    nics.find(|nic| nic.name == *name)?.image.clone()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failure is a failed test")]

    use postern_abi::window::Geometry;
    use postern_nic_owner::server::{Server, ServerOptions};

    use super::*;
    use crate::run_dir::NicInfo;

    #[test]
    fn the_image_is_what_the_topology_says_or_the_nic() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("nic");
        let image = Path::new(env!("CARGO_MANIFEST_DIR"));
        let image = image.join("../../host-nic/fuzz/corpus/image/good");
        let geometry = Geometry::new(2, 1, 4096, 4096).unwrap();
        let mut options = ServerOptions::new(&socket, geometry);
        options.image = Some(image.clone());
        let mut server = Server::bind(&options).unwrap();
        let stop = server.stopper();
        let serving = std::thread::spawn(move || server.run(|_| ()));

        let mut entry = Entry::sample("vm", &["vm"], None);
        let image_of = |entry: &Entry| image_of(entry, &entry.info.vms[0]);
        assert_eq!(image_of(&entry), None);
        let port = (None, 1, "elisa".to_owned());
        entry.info.vms[0].port = Some(port);
        assert_eq!(image_of(&entry), None);
        entry.info.vms[0].nic = Some(socket.clone());
        assert_eq!(image_of(&entry), Some(image));
        entry.info.vms[0].nic = None;
        entry.info.nics.push(NicInfo {
            name: None,
            socket,
            image: Some("named".into()),
        });
        assert_eq!(image_of(&entry), Some("named".into()));
        stop.stop();
        serving.join().unwrap().unwrap();
    }

    #[test]
    fn a_module_of_another_version_is_told() {
        let now = "name: kvm_ept_view_abort\nID: 7\nformat:\n\tfield:u64 gpa;\n\nprint fmt: \"vcpu %u \
                   view 0x%x exit_reason 0x%x gpa 0x%llx gva 0x%llx rip 0x%llx\", REC->vcpu_id\n";
        check_format(now).unwrap();
        let before = now.replace(" gpa 0x%llx gva 0x%llx", "");
        let error = check_format(&before).unwrap_err().to_string();
        assert!(error.contains("does not tell gpa"), "{error}");
        assert!(check_format("").is_err());
    }
}
