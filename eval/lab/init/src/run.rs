//! One command of the plan.

use std::fs;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Command as Program, Stdio};
use std::time::{Duration, Instant};

use postern_init::{Command, Record};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitOptions, WaitStatus, kill_process, pidfd_open, wait, waitpid,
};

use crate::RecordSender;
use crate::kernel_log::KernelLog;
use crate::orphans::Orphans;

/// Environment of commands.
pub const ENVIRONMENT: [(&str, &str); 2] =
    [("PATH", "/bin:/sbin:/usr/bin:/usr/sbin"), ("HOME", "/root")];

/// Runs a command to its end, kills what it left running, and sends back all that came of it.
pub fn run(
    index: u32,
    command: &Command,
    sender: &RecordSender,
    log: &mut KernelLog,
    orphans: &mut Orphans,
) {
    let status = match execute(index, command, sender, orphans) {
        Ok(status) => status,
        Err(error) => {
            let data = format!("cannot run the command: {error}\n").into_bytes();
            sender.send(&Record::Output {
                command: index,
                data,
            });
            Some(126)
        }
    };
    kill_other_processes();
    for name in &command.fetch {
        sender.send(&match fs::read(Path::new(&command.dir).join(name)) {
            Ok(data) => Record::File {
                command: index,
                name: name.clone(),
                data,
            },
            Err(error) => Record::FileMissing {
                command: index,
                name: name.clone(),
                error: error.to_string(),
            },
        });
    }
    sender.send(&Record::KernelLog {
        command: index,
        text: log.read_new(),
    });
    sender.send(&Record::Status {
        command: index,
        status,
    });
}

fn execute(
    index: u32,
    command: &Command,
    sender: &RecordSender,
    orphans: &mut Orphans,
) -> io::Result<Option<i32>> {
    fs::create_dir_all(&command.dir)?;
    let (mut output, theirs) = io::pipe()?;
    rustix::io::ioctl_fionbio(&output, true)?;
    let child = Program::new("/bin/sh")
        .args(["-c", &command.script])
        .env_clear()
        .envs(ENVIRONMENT)
        .current_dir(&command.dir)
        .stdin(Stdio::null())
        .stdout(theirs.try_clone()?)
        .stderr(theirs)
        .spawn()?;
    let pid = Pid::from_child(&child);
    let end = pidfd_open(pid, PidfdFlags::empty())?;
    let deadline = Instant::now() + Duration::from_secs(command.timeout_s);
    let mut open = true;
    loop {
        let over = wait_for_event(open.then_some(&output), &end, orphans, deadline)?;
        open = open && pass_on(index, &mut output, sender);
        orphans.bury(pid);
        match over {
            None => continue,
            Some(End::TimedOut) => return Ok(None),
            Some(End::Ended) => {
                let status = waitpid(Some(pid), WaitOptions::empty())?;
                return Ok(Some(status.map_or(126, |(_, status)| exit_code(status))));
            }
        }
    }
}

/// Event that ends a command.
enum End {
    Ended,
    TimedOut,
}

/// Sleeps until there is output, the command or an orphan has ended or its time is over. There is no periodic
/// wake-up: it would show in what the command measures.
fn wait_for_event(
    output: Option<&io::PipeReader>,
    end: &OwnedFd,
    orphans: &Orphans,
    deadline: Instant,
) -> io::Result<Option<End>> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return Ok(Some(End::TimedOut));
    }
    let timeout = Timespec::try_from(left).map_err(io::Error::other)?;
    let mut fds = vec![
        PollFd::new(end, PollFlags::IN),
        PollFd::new(orphans, PollFlags::IN),
    ];
    fds.extend(output.map(|output| PollFd::new(output, PollFlags::IN)));
    match poll(&mut fds, Some(&timeout)) {
        Err(rustix::io::Errno::INTR) => return Ok(None),
        other => other?,
    };
    Ok((!fds[0].revents().is_empty()).then_some(End::Ended))
}

/// Sends what is in the pipe to the console and out of the machine; false once all writers are
/// gone.
fn pass_on(index: u32, output: &mut io::PipeReader, sender: &RecordSender) -> bool {
    let mut buffer = [0; 65536];
    loop {
        match output.read(&mut buffer) {
            Ok(0) => return false,
            Err(error) => return error.kind() == io::ErrorKind::WouldBlock,
            Ok(length) => {
                let data = &buffer[..length];
                let _ = io::stdout()
                    .write_all(data)
                    .and_then(|()| io::stdout().flush());
                sender.send(&Record::Output {
                    command: index,
                    data: data.to_vec(),
                });
            }
        }
    }
}

fn exit_code(status: WaitStatus) -> i32 {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => code,
        (None, Some(signal)) => 128 + signal,
        (None, None) => 126,
    }
}

/// Kills all other processes and waits until they are gone, so that a command meets nothing of an
/// earlier one.
fn kill_other_processes() {
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let number = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok());
        if let Some(pid) = number.filter(|&pid| pid > 1).and_then(Pid::from_raw) {
            // Signals do not reach the kernel's own threads, and a process may have ended already.
            let _ = kill_process(pid, Signal::KILL);
        }
    }
    while wait(WaitOptions::empty()).is_ok() {}
}
