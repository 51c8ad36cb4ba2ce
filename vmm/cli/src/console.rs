//! `postern console`: the console of a VM that runs.
#![deny(unsafe_code)]

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread;

use anyhow::{Context, anyhow};
use clap::Args as ClapArgs;
use postern_vmm::console::{Action, Escape, Terminal};
use postern_vmm::{control, signals, status};

use crate::error::CommandError;
use crate::output;
use crate::ps;

/// Flags of `postern console`.
#[derive(ClapArgs)]
pub struct Args {
    /// Name of a VM (postern ps), TOPOLOGY/VM, the topology if it has one VM, or the socket of postern run --serial unix:SOCKET
    #[arg(value_name = "VM|SOCKET")]
    which: PathBuf,
}

/// What `--help` says about pipes and the exit status.
pub const HELP: &str = "\
It prints what the guest wrote last (64 KiB at most), then what it writes. Where standard input is a
terminal, keys go to the guest one by one. Where it is a pipe or file, all of it goes to the guest,
Ctrl-A is a byte like others, and its end does not end this command: that goes on printing until the VM
ends, or a signal (timeout 5 postern console VM < commands).

Exit status:
  0      the VM has ended, or the console was left
  64     no VM that runs is called so
  128+N  ended by signal N";

/// Why this ends.
enum End {
    Detached,
    VmEnded,
    Signal(i32),
    Suspend,
    Resume,
}

/// Joins a console until the VM ends or the user leaves; returns the exit status.
pub fn run(args: &Args) -> Result<u8, CommandError> {
    let mut stream = connect(&args.which)?;
    let (sender, ends) = mpsc::channel();
    let on_signal = sender.clone();
    signals::on_terminal_signal(move |signal| {
        let end = match signal {
            libc::SIGTSTP => End::Suspend,
            libc::SIGCONT => End::Resume,
            other => End::Signal(other),
        };
        let _ = on_signal.send(end);
    })
    .map_err(CommandError::internal)?;
    let terminal = Terminal::enter()
        .context("cannot take the terminal into raw mode")
        .map_err(CommandError::internal)?;
    if terminal.is_some() {
        output::tell("Ctrl-A d leaves this console, Ctrl-A h helps");
    }
    let reader = stream
        .try_clone()
        .context("cannot use the console's connection")
        .map_err(CommandError::internal)?;
    let ended = sender.clone();
    thread::spawn(move || {
        show(reader);
        let _ = ended.send(End::VmEnded);
    });
    let with_escape = terminal.is_some();
    thread::spawn(move || type_in(&mut stream, with_escape, &sender));
    let handle = terminal.as_ref().map(Terminal::handle);
    loop {
        let status = match ends.recv() {
            Ok(End::Suspend) => {
                match &handle {
                    Some(terminal) => terminal.suspend(),
                    None => signals::stop_this_process(),
                }
                continue;
            }
            Ok(End::Resume) => {
                if let Some(terminal) = &handle {
                    terminal.resume();
                }
                continue;
            }
            Ok(End::Signal(signal)) => status::SIGNAL_BASE.saturating_add(signal as u8),
            Ok(End::Detached) => {
                drop(terminal);
                output::complain("\npostern: the console is left; the VM goes on\n");
                return Ok(0);
            }
            Ok(End::VmEnded) | Err(_) => 0,
        };
        return Ok(status);
    }
}

/// Prints what the guest writes, to the end.
fn show(mut reader: UnixStream) {
    let mut bytes = [0; 4096];
    let mut out = std::io::stdout();
    loop {
        match reader.read(&mut bytes) {
            Ok(0) => return,
            Ok(count) => {
                let shown = out.write_all(&bytes[..count]).and_then(|()| out.flush());
                if shown.is_err() {
                    return;
                }
            }
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(_) => return,
        }
    }
}

/// Sends what is typed. Where input is no terminal, its end is the end of input, but not of output.
fn type_in(stream: &mut UnixStream, with_escape: bool, ends: &mpsc::Sender<End>) {
    let mut escape = Escape::default();
    let mut bytes = [0; 1024];
    let mut input = std::io::stdin();
    loop {
        let count = match input.read(&mut bytes) {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(_) => break,
        };
        if !with_escape {
            if stream.write_all(&bytes[..count]).is_err() {
                return;
            }
            continue;
        }
        let mut typed = Vec::new();
        let actions = escape.filter(&bytes[..count], |key| typed.push(key));
        if stream.write_all(&typed).is_err() {
            return;
        }
        for action in actions {
            match action {
                Action::Quit | Action::Detach => drop(ends.send(End::Detached)),
                Action::Suspend => drop(ends.send(End::Suspend)),
                Action::Help => output::tell(Escape::HELP),
            }
        }
    }
    // If it is gone, the VM has ended.
    let _ = stream.shutdown(Shutdown::Write);
}

fn connect(which: &Path) -> Result<UnixStream, CommandError> {
    let is_socket = which
        .metadata()
        .is_ok_and(|file| file.file_type().is_socket());
    if is_socket {
        return UnixStream::connect(which)
            .with_context(|| format!("no VM listens at {}", which.display()))
            .map_err(CommandError::configuration);
    }
    let entries = ps::entries()?;
    let (entry, vm) = ps::find_vm(&entries, which)?;
    control::console(&entry.control(&vm.name)).map_err(|error| {
        let text = format!("VM {} has no console now", vm.name);
        CommandError::configuration(anyhow!(error).context(text))
    })
}
