//! The process of one VM: its flags, what it prints; and what it has in common with that of a NIC, its
//! end.

use std::ffi::OsString;
use std::io::{self, PipeReader, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};

use anyhow::Context;
use postern_vmm::status;
use postern_vmm::topology::VmConfig;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::confine::Seccomp;

/// Starts the process of a VM; what it prints, on both outputs, comes out of the pipe.
pub fn start(
    vm: &VmConfig,
    socket: Option<&Path>,
    control: &Path,
) -> anyhow::Result<(Child, PipeReader)> {
    let program = std::env::current_exe().context("cannot find this program's own file")?;
    let (printed, output) = io::pipe().context("cannot make a pipe")?;
    let mut command = Command::new(program);
    command
        .args(arguments(vm, socket))
        .arg("--control")
        .arg(control)
        .stdin(Stdio::null())
        .stdout(output.try_clone().context("cannot make a pipe")?)
        .stderr(output)
        // A signal of the terminal is for this process alone, which passes it on.
        .process_group(0);
    end_with_parent(&mut command);
    // The command is gone when this returns, and with it its copies of the pipe's end.
    let child = command
        .spawn()
        .with_context(|| format!("cannot start the process of VM {}", vm.name))?;
    Ok((child, printed))
}

/// The flags of `postern run` for a VM.
fn arguments(vm: &VmConfig, socket: Option<&Path>) -> Vec<OsString> {
    let mut arguments: Vec<OsString> = vec!["run".into()];
    let mut flag = |name, value| arguments.push(joined(name, value));
    flag("--kernel", vm.kernel.clone().into());
    flag("--cmdline", vm.cmdline.clone().into());
    flag("--memory", vm.memory.0.to_string().into());
    flag("--vcpus", vm.vcpus.to_string().into());
    flag("--counters", vm.counters.name().into());
    flag("--on-reboot", vm.on_reboot.name().into());
    flag("--seccomp", Seccomp::from(vm.seccomp).name().into());
    if let Some(cpu) = vm.cpu {
        flag("--cpu", cpu.name().into());
    }
    if let Some(serial) = &vm.serial {
        flag("--serial", serial.to_os_string());
    }
    if let Some(vsock) = &vm.vsock {
        flag("--vsock", vsock.to_string().into());
    }
    for net in &vm.nets {
        flag("--net", net.to_string().into());
    }
    for disk in &vm.disks {
        flag("--disk", disk.to_string().into());
    }
    let files = [
        ("--initrd", &vm.initrd),
        ("--outbox", &vm.outbox),
        ("--stats", &vm.stats),
    ];
    for (name, file) in files {
        if let Some(file) = file {
            flag(name, file.clone().into());
        }
    }
    if let (Some(socket), Some(port)) = (socket, &vm.port) {
        flag("--nic", socket.into());
        flag("--port", port.number.to_string().into());
        flag("--path", port.path.name().into());
        if vm.nic_plain {
            arguments.push("--nic-plain".into());
        }
        if vm.exit_on_abort {
            arguments.push("--exit-on-abort".into());
        }
    }
    if vm.rng {
        arguments.push("--rng".into());
    }
    arguments
}

/// A flag with its value in one word, so that no value is taken for a flag.
pub(super) fn joined(name: &str, value: OsString) -> OsString {
    let mut argument = OsString::from(name);
    argument.push("=");
    argument.push(value);
    argument
}

/// A descriptor that stands for the child, whose number may be another's once it has been waited for.
/// Without one it is killed.
pub(super) fn watch(child: &mut Child) -> rustix::io::Result<OwnedFd> {
    pidfd_open(Pid::from_child(child), PidfdFlags::empty()).inspect_err(|_| {
        // Not waited for by anybody, so the number is still its own.
        let _ = child.kill();
        let _ = child.wait();
    })
}

/// The status that a process which ended so has in a shell.
pub(super) fn status_of(ended: ExitStatus) -> u8 {
    match (ended.code(), ended.signal()) {
        (Some(code), _) => code as u8,
        (None, signal) => status::SIGNAL_BASE.saturating_add(signal.unwrap_or(0) as u8),
    }
}

/// Lets the kernel end the child when this process dies, however it does.
pub(super) fn end_with_parent(command: &mut Command) {
    let parent = std::process::id();
    let arrange = move || {
        // SAFETY: takes integers only.
        if unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM) } != 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: takes nothing. If the parent is dead already, no signal will come.
        if unsafe { libc::getppid() } as u32 != parent {
            return Err(io::ErrorKind::Interrupted.into());
        }
        Ok(())
    };
    // SAFETY: between fork and exec, `arrange` makes two system calls and allocates nothing.
    unsafe { command.pre_exec(arrange) };
}

/// Longest line that is printed in one piece, in bytes.
const MAX_LINE: usize = 4096;

/// Prints what a VM prints, each line with its name, until the VM ends.
pub fn print_lines(name: &str, mut printed: impl Read) {
    let mut buffer = Vec::with_capacity(2 * MAX_LINE);
    let mut chunk = [0; MAX_LINE];
    loop {
        let count = match printed.read(&mut chunk) {
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(_) => 0,
        };
        buffer.extend_from_slice(&chunk[..count]);
        while let Some(end) = buffer.iter().position(|&byte| byte == b'\n') {
            print_line(name, &buffer[..end]);
            buffer.drain(..=end);
        }
        if buffer.len() >= MAX_LINE || (count == 0 && !buffer.is_empty()) {
            print_line(name, &buffer);
            buffer.clear();
        }
        if count == 0 {
            return;
        }
    }
}

fn print_line(name: &str, line: &[u8]) {
    let mut out = io::stdout().lock();
    let text = [name.as_bytes(), b" | ", line, b"\n"].concat();
    // Nobody reads it any more: the VMs go on all the same.
    let _ = out.write_all(&text).and_then(|()| out.flush());
}

#[cfg(test)]
mod tests {
    use postern_vmm::console::Destination;
    use postern_vmm::topology::PortConfig;
    use postern_vmm::virtio::blk::DiskConfig;

    use super::*;

    #[test]
    fn a_vm_becomes_flags() {
        let vm = VmConfig {
            cmdline: "--looks like=a flag".to_owned(),
            memory: postern_vmm::size::Bytes(1 << 20),
            vcpus: 3,
            cpu: Some(postern_vmm::cpuid::CpuModel::ViewCompatible),
            on_reboot: postern_vmm::vm::OnReboot::Exit,
            port: Some(PortConfig::new(1, postern_abi::platform::CallPath::Direct)),
            nic_plain: true,
            exit_on_abort: true,
            serial: Some(Destination::Unix("/s".into())),
            counters: postern_vmm::event_counters::CounterSource::Perf,
            rng: true,
            seccomp: false,
            disks: vec![DiskConfig::new("/a,b")],
            ..VmConfig::new("a", "/k")
        };
        let flags = arguments(&vm, Some(Path::new("/socket")));
        for flag in [
            "--kernel=/k",
            "--cmdline=--looks like=a flag",
            "--memory=1048576",
            "--vcpus=3",
            "--on-reboot=exit",
            "--cpu=view-compatible",
            "--serial=unix:/s",
            "--rng",
            "--disk=path=/a,,b",
            "--nic=/socket",
            "--port=1",
            "--path=direct",
            "--nic-plain",
            "--exit-on-abort",
            "--counters=perf",
            "--seccomp=off",
        ] {
            assert!(flags.iter().any(|found| found == flag), "{flag}: {flags:?}");
        }
        let alone = arguments(&vm, None);
        for flag in ["--port=1", "--nic-plain"] {
            assert!(!alone.iter().any(|found| found == flag), "{flag}");
        }
    }
}
