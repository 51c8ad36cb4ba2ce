//! `postern nic show`.
#![deny(unsafe_code)]

use std::fmt::Write;
use std::path::PathBuf;

use clap::{Args as ClapArgs, ValueEnum};
use postern_nic_client::control::{
    CaptureInfo, Control, Holder, MacInfo, PathReport, PolicyInfo, PortInfo, UplinkInfo,
};
use postern_nic_client::policy::port::PortPolicy;
use postern_nic_client::request;
use serde_json::json;

use super::ask::ask;
use crate::error::CommandError;
use crate::{output, parsers};

/// Flags of `postern nic show`.
#[derive(ClapArgs)]
pub struct Args {
    /// The NIC's socket
    #[arg(value_parser = parsers::socket)]
    socket: PathBuf,
    /// What to show
    #[arg(default_value = "ports")]
    what: What,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum What {
    /// Who has which port
    Ports,
    /// Frames, bytes, drops
    Counters,
    /// Which station is behind which port
    Macs,
    /// What ports may send and receive, as JSON that postern nic set --policy takes
    Policies,
    /// Interfaces that are joined to ports
    Uplinks,
    /// Files that are being written
    Captures,
    /// Paths that are offered, and what the host holds in memory for them
    Paths,
}

/// Prints it; returns the exit status.
pub fn run(args: &Args) -> Result<u8, CommandError> {
    let socket = &args.socket;
    let (value, text) = match args.what {
        What::Ports => {
            let list: Vec<PortInfo> = ask(socket, &Control::Ports)?;
            (json!(list), ports(&list))
        }
        What::Counters => {
            let counters = request::counters(socket)?;
            (json!(counters), counters.to_string())
        }
        What::Macs => {
            let list: Vec<MacInfo> = ask(socket, &Control::Macs)?;
            (json!(list), macs(&list))
        }
        What::Policies => {
            let list: Vec<PolicyInfo> = ask(socket, &Control::Policies)?;
            (json!(list), policies(&list))
        }
        What::Uplinks => {
            let list: Vec<UplinkInfo> = ask(socket, &Control::Uplinks)?;
            (json!(list), uplinks(&list))
        }
        What::Captures => {
            let list: Vec<CaptureInfo> = ask(socket, &Control::Captures)?;
            (json!(list), captures(&list))
        }
        What::Paths => {
            let report: PathReport = ask(socket, &Control::Paths)?;
            (json!(report), paths(&report))
        }
    };
    output::print(&match args.json {
        true => format!("{value:#}\n"),
        false => text,
    })?;
    Ok(0)
}

/// A table; writing to a string does not fail.
fn table<T>(head: &str, list: &[T], row: impl Fn(&T) -> String) -> String {
    let mut text = format!("{head}\n");
    for one in list {
        let _ = writeln!(text, "{}", row(one).trim_end());
    }
    text
}

fn ports(list: &[PortInfo]) -> String {
    table("port  address            state", list, |port| {
        let mut state = match &port.holder {
            Holder::Vacant => "vacant".to_owned(),
            Holder::Disabled => "disabled".to_owned(),
            Holder::Attached { pid, path } => {
                let pid = pid.map_or("?".to_owned(), |pid| pid.to_string());
                format!("attached by process {pid}, {path}")
            }
            Holder::Leaving { pid, left } => {
                let pid = pid.map_or("?".to_owned(), |pid| pid.to_string());
                let has = if *left {
                    "which has left its memory to another"
                } else {
                    "which has its memory"
                };
                format!("given up by process {pid}, {has}")
            }
            Holder::Uplink { interface } => format!("uplink {interface}"),
            Holder::Capture { file } => format!("capture {}", file.display()),
        };
        if !port.features.is_empty() {
            let _ = write!(state, ", {}", port.features.join(" "));
        }
        if port.policy {
            state.push_str(", policy");
        }
        if !port.learning {
            state.push_str(", no learning");
        }
        format!("{:>4}  {}  {state}", port.port, port.mac)
    })
}

fn macs(list: &[MacInfo]) -> String {
    table("port  vlan  address", list, |entry| {
        let kind = if entry.pinned { "static" } else { "" };
        let vlan = match (entry.pinned, entry.vlan) {
            (true, 0) => "all".to_owned(),
            (_, vlan) => vlan.to_string(),
        };
        format!("{:>4}  {vlan:>4}  {}  {kind}", entry.port, entry.mac)
    })
}

fn policies(list: &[PolicyInfo]) -> String {
    let mut text = String::new();
    for info in list
        .iter()
        .filter(|one| one.policy != PortPolicy::default())
    {
        let _ = writeln!(text, "port {}: {:#}", info.port, json!(info.policy));
        let rules = info.policy.acl.rules.iter().zip(&info.acl_hits);
        for (rule, hits) in rules {
            let _ = writeln!(text, "  {hits:>12} frames: {rule}");
        }
    }
    if text.is_empty() {
        text.push_str("no port has a policy\n");
    }
    text
}

fn uplinks(list: &[UplinkInfo]) -> String {
    table(
        "port  to port       to interface  interface",
        list,
        |uplink| {
            let frames = |way: &str| uplink.counters[way]["frames"].as_u64().unwrap_or(0);
            format!(
                "{:>4}  {:>12}  {:>12}  {}{}{}",
                uplink.port,
                frames("to_port"),
                frames("to_interface"),
                uplink.interface,
                noted("waits", uplink.failure.as_deref()),
                noted("note", uplink.notice.as_deref())
            )
        },
    )
}

fn captures(list: &[CaptureInfo]) -> String {
    table(
        "port  via   written       lost          file",
        list,
        |capture| {
            let port = capture.port;
            let port = port.map_or("all".to_owned(), |port| port.to_string());
            format!(
                "{port:>4}  {:>4}  {:>12}  {:>12}  {}{}",
                capture.via,
                capture.written,
                capture.lost,
                capture.file.display(),
                noted("ended", capture.failure.as_deref())
            )
        },
    )
}

fn paths(report: &PathReport) -> String {
    let mut text = table("path          state", &report.paths, |info| {
        let state = match &info.missing {
            None => "offered".to_owned(),
            Some(reason) => format!("not offered: {reason}"),
        };
        format!("{:12}  {state}", info.path)
    });
    if let Some(image) = &report.image {
        let _ = writeln!(text, "image: {}", image.display());
    }
    if let Some(template) = &report.template {
        let kib = |bytes: u64| bytes.div_ceil(1 << 10);
        let _ = writeln!(
            text,
            "template: {} KiB pinned, {} KiB of them in pages of 2 MiB; {} KiB of the kernel's, \
             {} KiB more for each attached processor\n\
             {} grants, {} attached processors",
            kib(template.pinned_bytes),
            kib(template.bytes_in_2m),
            kib(template.kernel_bytes),
            kib(template.attachment_bytes),
            template.grants,
            template.attachments
        );
        if template.former != 0 {
            let _ = writeln!(
                text,
                "{} templates of other images are kept until their tenants have gone",
                template.former
            );
        }
    }
    text
}

fn noted(what: &str, why: Option<&str>) -> String {
    why.map_or(String::new(), |why| format!(" ({what}: {why})"))
}
