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
    let entry = find_topology(&entries, &args.which)?;
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

/// What a name stands for.
#[derive(Clone, Copy, Debug)]
pub enum Found<'a> {
    /// A topology, or a VM with a name of its own.
    Topology(&'a Entry),
    /// A VM of one.
    Vm(&'a Entry, &'a VmInfo),
}

/// What has that name: a topology, also by its file, or a VM, also as `TOPOLOGY/VM`.
pub fn find<'a>(entries: &'a [Entry], which: &Path) -> Result<Found<'a>, CommandError> {
    if let Some(entry) = topology(entries, which)? {
        return Ok(Found::Topology(entry));
    }
    match vms(entries, which)[..] {
        [(entry, vm)] => Ok(Found::Vm(entry, vm)),
        [] => Err(nothing(entries, which)),
        ref several => Err(ambiguous(which, several)),
    }
}

/// The topology of that name, or started from that file.
pub fn find_topology<'a>(entries: &'a [Entry], which: &Path) -> Result<&'a Entry, CommandError> {
    match find(entries, which)? {
        Found::Topology(entry) => Ok(entry),
        Found::Vm(entry, vm) => Err(CommandError::configuration(anyhow!(
            "{} is a VM of {topology}, and ends with it: postern down {topology}",
            vm.name,
            topology = entry.name
        ))),
    }
}

/// The VM of that name, or of `TOPOLOGY/VM`, or the only one of a topology.
pub fn find_vm<'a>(
    entries: &'a [Entry],
    which: &Path,
) -> Result<(&'a Entry, &'a VmInfo), CommandError> {
    match vms(entries, which)[..] {
        [only] => return Ok(only),
        [] => {}
        ref several => return Err(ambiguous(which, several)),
    }
    let Some(entry) = topology(entries, which)? else {
        return Err(nothing(entries, which));
    };
    match &entry.info.vms[..] {
        [only] => Ok((entry, only)),
        vms => {
            let several: Vec<_> = vms.iter().map(|vm| (entry, vm)).collect();
            Err(ambiguous(which, &several))
        }
    }
}

fn topology<'a>(entries: &'a [Entry], which: &Path) -> Result<Option<&'a Entry>, CommandError> {
    if let Some(entry) = entries.iter().find(|entry| Path::new(&entry.name) == which) {
        return Ok(Some(entry));
    }
    let Ok(file) = which.canonicalize() else {
        return Ok(None);
    };
    let from_file = |entry: &&Entry| entry.info.file.as_ref() == Some(&file);
    let found: Vec<&Entry> = entries.iter().filter(from_file).collect();
    match found[..] {
        [] => Ok(None),
        [only] => Ok(Some(only)),
        _ => {
            let names: Vec<&str> = found.iter().map(|entry| entry.name.as_str()).collect();
            Err(CommandError::configuration(anyhow!(
                "{} was started several times: give {}",
                which.display(),
                names.join(" or ")
            )))
        }
    }
}

/// All VMs.
fn all(entries: &[Entry]) -> impl Iterator<Item = (&Entry, &VmInfo)> {
    entries
        .iter()
        .flat_map(|entry| entry.info.vms.iter().map(move |vm| (entry, vm)))
}

/// The VMs that a name may stand for.
fn vms<'a>(entries: &'a [Entry], which: &Path) -> Vec<(&'a Entry, &'a VmInfo)> {
    let which = which.to_string_lossy();
    let (topology, name) = match which.split_once('/') {
        Some((topology, name)) => (Some(topology), name),
        None => (None, &*which),
    };
    let is_it = |(entry, vm): &(&Entry, &VmInfo)| {
        topology.is_none_or(|topology| entry.name == topology) && vm.name == name
    };
    all(entries).filter(is_it).collect()
}

fn names<'a>(vms: impl Iterator<Item = (&'a Entry, &'a VmInfo)>) -> Vec<String> {
    vms.map(|(entry, vm)| format!("{}/{}", entry.name, vm.name))
        .collect()
}

fn ambiguous(which: &Path, several: &[(&Entry, &VmInfo)]) -> CommandError {
    let names = names(several.iter().copied()).join(" or ");
    CommandError::configuration(anyhow!(
        "{} may be several VMs: give {names}",
        which.display()
    ))
}

fn nothing(entries: &[Entry], which: &Path) -> CommandError {
    let there = match entries.is_empty() {
        true => "nothing runs (postern up and postern run --name are found)".to_owned(),
        false => format!("there are {}", names(all(entries)).join(", ")),
    };
    CommandError::configuration(anyhow!(
        "nothing that runs is called {}; {there}",
        which.display()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_short() {
        let each = [7, 306, 11_096, 183_600].map(duration);
        assert_eq!(each, ["7s", "5m06s", "3h04m", "2d03h"]);
    }

    /// Topologies `t` and `u` with VMs `a` and `b`, or `a`; VM `x` with a name of its own; and `w`, of
    /// this file, twice.
    fn running() -> Vec<Entry> {
        let own = Some(PathBuf::from(file!()));
        let file = own.and_then(|file| Path::new("../..").join(file).canonicalize().ok());
        [
            ("t", &["a", "b"][..], None),
            ("u", &["a"], None),
            ("w", &["c"], file.clone()),
            ("w-2", &["c"], file),
            ("x", &["x"], None),
        ]
        .map(|(name, vms, file)| Entry::sample(name, vms, file))
        .into()
    }

    #[test]
    fn one_lookup_for_all() {
        let entries = running();
        let any = |name: &str| match find(&entries, Path::new(name)) {
            Ok(Found::Topology(entry)) => entry.name.clone(),
            Ok(Found::Vm(entry, vm)) => format!("{}/{}", entry.name, vm.name),
            Err(error) => error.error.to_string(),
        };
        let vm = |name: &str| match find_vm(&entries, Path::new(name)) {
            Ok((entry, vm)) => format!("{}/{}", entry.name, vm.name),
            Err(error) => error.error.to_string(),
        };
        let topology = |name: &str| match find_topology(&entries, Path::new(name)) {
            Ok(entry) => entry.name.clone(),
            Err(error) => error.error.to_string(),
        };
        assert_eq!([any("t"), any("b"), any("t/a")], ["t", "t/b", "t/a"]);
        assert_eq!(
            [vm("b"), vm("t/a"), vm("u"), vm("x")],
            ["t/b", "t/a", "u/a", "x/x"]
        );
        assert_eq!([topology("t"), topology("x")], ["t", "x"]);
        let several = "a may be several VMs: give t/a or u/a";
        assert_eq!([any("a"), vm("a")], [several, several]);
        assert_eq!(vm("t"), "t may be several VMs: give t/a or t/b");
        assert_eq!(
            topology("b"),
            "b is a VM of t, and ends with it: postern down t"
        );
        let none = "nothing that runs is called t/c; there are t/a, t/b, u/a, w/c, w-2/c, x/x";
        assert_eq!([any("t/c"), vm("t/c"), topology("t/c")], [none; 3]);
        let twice = topology(&format!("../../{}", file!()));
        assert!(
            twice.ends_with("was started several times: give w or w-2"),
            "{twice}"
        );
    }

    #[test]
    fn columns_are_aligned() {
        let rows = [["a", "b"], ["long", "c"]].map(|row| row.map(str::to_owned));
        assert_eq!(aligned(&rows), "a     b\nlong  c\n");
    }
}
