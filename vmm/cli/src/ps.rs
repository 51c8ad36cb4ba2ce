//! `postern ps` and `postern down`: what runs, and its end.
#![deny(unsafe_code)]

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, anyhow};
use clap::Args as ClapArgs;
use postern_vmm::control;
use postern_vmm::size::Bytes;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde_json::json;

use crate::error::CommandError;
use crate::output;
use crate::run_dir::{self, Entry, VmInfo};

/// Flags of `postern ps`.
#[derive(ClapArgs)]
pub struct Args {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Flags of `postern down`.
#[derive(ClapArgs)]
pub struct DownArgs {
    /// Name of a topology (postern ps), or its file
    #[arg(value_name = "NAME|FILE")]
    which: PathBuf,

    /// Seconds to wait for its end
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    timeout: u64,
}

/// All that runs.
pub fn entries() -> Result<Vec<Entry>, CommandError> {
    run_dir::entries().map_err(CommandError::internal)
}

/// Prints what runs; returns the exit status.
pub fn run(args: &Args) -> Result<u8, CommandError> {
    let entries = entries()?;
    let text = match args.json {
        true => {
            let each: Vec<_> = entries.iter().map(entry_json).collect();
            format!("{:#}\n", json!(each))
        }
        false => table(&entries),
    };
    output::print(&text)?;
    Ok(0)
}

fn port(vm: &VmInfo) -> Option<String> {
    let (nic, number, path) = vm.port.as_ref()?;
    Some(match nic {
        Some(nic) => format!("{nic}:{number} {path}"),
        None => format!("{number} {path}"),
    })
}

fn entry_json(entry: &Entry) -> serde_json::Value {
    let vms: Vec<_> = entry
        .info
        .vms
        .iter()
        .map(|vm| {
            let report = control::report(&entry.control(&vm.name)).ok();
            json!({
                "name": vm.name,
                "state": state(report.is_some()),
                "pid": report.as_ref().map(|report| report.pid),
                "uptime": report.as_ref().map(|report| report.uptime),
                "vcpus": vm.vcpus,
                "memory": vm.memory,
                "port": port(vm),
            })
        })
        .collect();
    json!({
        "name": entry.name,
        "pid": entry.info.pid,
        "started": entry.info.started,
        "file": entry.info.file,
        "nics": entry.info.nics,
        "vms": vms,
    })
}

fn state(answers: bool) -> &'static str {
    match answers {
        true => "running",
        false => "ended",
    }
}

/// A duration as `2d03h`, `3h04m`, `5m06s` or `7s`.
pub fn duration(seconds: u64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86400);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, minutes) => format!("{minutes}m{:02}s", seconds % 60),
        (0, hours, minutes) => format!("{hours}h{:02}m", minutes % 60),
        (days, hours, _) => format!("{days}d{:02}h", hours % 24),
    }
}

fn table(entries: &[Entry]) -> String {
    if entries.is_empty() {
        return "nothing runs (postern up and postern run --name are seen here)\n".to_owned();
    }
    let mut rows = vec![
        [
            "TOPOLOGY", "VM", "PID", "STATE", "UPTIME", "VCPUS", "MEMORY", "PORT",
        ]
        .map(str::to_owned),
    ];
    for entry in entries {
        for vm in &entry.info.vms {
            let report = control::report(&entry.control(&vm.name)).ok();
            let none = || "-".to_owned();
            rows.push([
                entry.name.clone(),
                vm.name.clone(),
                report
                    .as_ref()
                    .map_or_else(none, |report| report.pid.to_string()),
                state(report.is_some()).to_owned(),
                report
                    .as_ref()
                    .map_or_else(none, |report| duration(report.uptime)),
                vm.vcpus.to_string(),
                Bytes(vm.memory).to_string(),
                port(vm).unwrap_or_else(none),
            ]);
        }
    }
    aligned(&rows)
}

/// Rows with columns of equal width.
pub fn aligned<const N: usize>(rows: &[[String; N]]) -> String {
    let mut widths = [0; N];
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(widths) {
            let _ = write!(line, "{cell:width$}  ");
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// Ends a topology, and waits for its end; returns the exit status.
pub fn down(args: &DownArgs) -> Result<u8, CommandError> {
    let entries = entries()?;
    let entry = find(&entries, &args.which)?;
    let pid = i32::try_from(entry.info.pid).ok().and_then(Pid::from_raw);
    let pid =
        pid.ok_or_else(|| CommandError::internal(anyhow!("{} has no process", entry.name)))?;
    let Ok(process) = pidfd_open(pid, PidfdFlags::empty()) else {
        // It has just ended.
        return Ok(0);
    };
    // Only now it is sure that the number is its own: its place would be free else.
    let still = run_dir::entries().map_err(CommandError::internal)?;
    if !still
        .iter()
        .any(|other| other.name == entry.name && other.info == entry.info)
    {
        return Ok(0);
    }
    let refused = pidfd_send_signal(&process, Signal::TERM);
    refused
        .with_context(|| format!("cannot end {} (process {})", entry.name, entry.info.pid))
        .map_err(CommandError::internal)?;
    let limit = Timespec {
        tv_sec: Duration::from_secs(args.timeout).as_secs() as i64,
        tv_nsec: 0,
    };
    let mut fds = [PollFd::new(&process, PollFlags::IN)];
    match poll(&mut fds, Some(&limit)) {
        Ok(0) => Err(CommandError::internal(anyhow!(
            "{} has not ended after {} seconds; kill -9 {} ends it and its VMs",
            entry.name,
            args.timeout,
            entry.info.pid
        ))),
        Ok(_) => Ok(0),
        Err(error) => Err(CommandError::internal(error)),
    }
}

/// What has that name, or was started from that file.
pub fn find<'a>(entries: &'a [Entry], which: &Path) -> Result<&'a Entry, CommandError> {
    if let Some(entry) = entries.iter().find(|entry| Path::new(&entry.name) == which) {
        return Ok(entry);
    }
    let file = which.canonicalize().ok();
    let from_file = |entry: &&Entry| file.is_some() && entry.info.file == file;
    let mut found = entries.iter().filter(from_file);
    match (found.next(), found.next()) {
        (Some(entry), None) => Ok(entry),
        (Some(_), Some(_)) => Err(CommandError::configuration(anyhow!(
            "{} was started several times: give the name of one (postern ps)",
            which.display()
        ))),
        (None, _) => {
            let names: Vec<&str> = entries.iter().map(|entry| entry.name.as_str()).collect();
            let there = match names.is_empty() {
                true => "nothing runs".to_owned(),
                false => format!("there are {}", names.join(", ")),
            };
            Err(CommandError::configuration(anyhow!(
                "nothing that runs is called {}; {there}",
                which.display()
            )))
        }
    }
}

/// The VM of that name, or of `TOPOLOGY/VM`.
pub fn find_vm<'a>(
    entries: &'a [Entry],
    which: &str,
) -> Result<(&'a Entry, &'a VmInfo), CommandError> {
    let (topology, name) = match which.split_once('/') {
        Some((topology, name)) => (Some(topology), name),
        None => (None, which),
    };
    let all = || {
        entries
            .iter()
            .flat_map(|entry| entry.info.vms.iter().map(move |vm| (entry, vm)))
    };
    let is_it = |(entry, vm): &(&Entry, &VmInfo)| {
        topology.is_none_or(|topology| entry.name == topology) && vm.name == name
    };
    let found: Vec<_> = all().filter(is_it).collect();
    let names = |vms: Vec<(&Entry, &VmInfo)>| -> Vec<String> {
        vms.iter()
            .map(|(entry, vm)| format!("{}/{}", entry.name, vm.name))
            .collect()
    };
    let error = match found[..] {
        [only] => return Ok(only),
        [] if entries.is_empty() => anyhow!(
            "no VM that runs is called {which}; nothing runs (postern up and postern run --name are \
             found)"
        ),
        [] => {
            let there = names(all().collect()).join(", ");
            anyhow!("no VM that runs is called {which}; there are {there}")
        }
        _ => anyhow!(
            "several VMs are called {name}: give {}",
            names(found).join(" or ")
        ),
    };
    Err(CommandError::configuration(error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_short() {
        let each = [7, 306, 11_096, 183_600].map(duration);
        assert_eq!(each, ["7s", "5m06s", "3h04m", "2d03h"]);
    }

    #[test]
    fn columns_are_aligned() {
        let rows = [["a", "b"], ["long", "c"]].map(|row| row.map(str::to_owned));
        assert_eq!(aligned(&rows), "a     b\nlong  c\n");
    }
}
