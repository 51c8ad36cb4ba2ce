//! Joins the NIC port of a Linux VM to an interface of its guest: all programs then use the port by
//! the guest's own network stack.
//!
//! | module | object |
//! | --- | --- |
//! | `options` | the arguments |
//! | `interface` | the TAP, or the macvtap |
//! | `worker` | a thread: one queue, burst by burst |
//! | `idle` | what it does while there is nothing to do: it sleeps |
//! | `outward` | frames on their way to the NIC, and how long they wait for room |
//! | `answers` | whether answers to frames of the NIC are looked for at once |
//! | `transfer` | a frame between the interface and a ring |
//! | `counters`, `place`, `control` | what is counted; where it is read; signals, the service manager |
//! | `privileges`, `fault` | what is given up; calls that the host aborts |
#![deny(unsafe_code)]

mod answers;
mod control;
mod counters;
#[allow(unsafe_code, reason = "a signal handler")]
mod fault;
mod idle;
mod interface;
mod options;
mod outward;
mod place;
#[allow(
    unsafe_code,
    reason = "calls of the C library about users and capabilities"
)]
mod privileges;
#[allow(unsafe_code, reason = "system calls on the memory of the rings")]
mod transfer;
mod worker;

use std::fmt;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result};
use clap::Parser;
use postern_abi::window::FEATURES;
use postern_guest::linux::device::Device;
use postern_guest::linux::{Error, PathService, Port};
use postern_guest::nic::{Nic, WhenFull};
use postern_tap::TapError;

use crate::control::Control;
use crate::counters::Shared;
use crate::idle::{Doorbell, Idle};
use crate::options::{Options, Queues};
use crate::outward::Outward;
use crate::privileges::User;
use crate::worker::Worker;

/// Status of a bridge whose port the host took away: EX_TEMPFAIL of sysexits.h.
const LOST: u8 = 75;

/// The host took the port away.
#[derive(Debug)]
struct LostPort;

impl fmt::Display for LostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the host has taken the port away; start the bridge again")
    }
}

fn main() -> ExitCode {
    let options = Options::parse();
    let ran = match options.stats {
        true => control::print_counters(options.interface.name()),
        false => run(&options),
    };
    match ran {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("postern-bridge: {error:#}");
            match error.downcast_ref::<LostPort>() {
                Some(_) => LOST.into(),
                None => ExitCode::FAILURE,
            }
        }
    }
}

fn run(options: &Options) -> Result<()> {
    let user = options.user.as_deref().map(User::find).transpose()?;
    let control = Control::open(options.interface.name())?;
    let port = match &options.device {
        Some(folder) if folder.contains('/') => {
            Device::at(Path::new(folder)).and_then(Port::open_device)
        }
        Some(address) => Port::open_at(address),
        None => Port::open(),
    }?;
    fault::catch()?;
    let workers = open(options, &port, &control)?;
    privileges::drop_all(user.as_ref())?;
    control.serve(workers)
}

/// Opens the queues of the port, each by itself or all as one.
fn open_queues(port: &Port, each: bool) -> Result<Vec<Nic<PathService>>> {
    let opened = match each {
        true => (0..port.geometry().queues())
            .map(|queue| port.queue(queue))
            .collect(),
        false => port.all_queues().map(|nic| vec![nic]),
    };
    opened.map_err(|error| match error {
        Error::QueueInUse(_) => anyhow::Error::new(error).context(
            "the port is in use: perhaps another postern-bridge runs (postern-bridge --stats)",
        ),
        error => error.into(),
    })
}

/// Opens the queues of the port and of the interface, and joins them.
fn open(options: &Options, port: &Port, control: &Control) -> Result<Vec<Worker>> {
    let all = port.geometry().queues() > 1 && options.queues.is_all();
    let mut nics = open_queues(port, all)?;
    let mut opened = interface::open(&options.interface, port, nics.len());
    let of_one_queue =
        |error: &anyhow::Error| matches!(error.downcast_ref(), Some(TapError::OneQueue { .. }));
    // Somebody has made the TAP so.
    if options.queues == Queues::Auto && opened.as_ref().is_err_and(of_one_queue) {
        drop(nics);
        nics = open_queues(port, false)?;
        opened = interface::open(&options.interface, port, nics.len());
    }
    let opened = opened?;
    let offered = match options.no_offloads {
        true => 0,
        false => opened.features & FEATURES,
    };
    let mut workers = Vec::new();
    for (mut nic, tap) in nics.into_iter().zip(opened.taps) {
        // A path without results takes what is offered.
        let agreed = nic.agree(offered).unwrap_or(offered) & offered;
        tap.set_features(agreed)
            .with_context(|| format!("setting the offloads of {}", tap.name()))?;
        nic.set_when_full(WhenFull::Hold);
        let idle = match options.interval {
            Some(interval) => Idle::Interval(interval),
            None => {
                let mut sleeper = port
                    .sleeper()
                    .context("sleeping (--interval does without)")?;
                sleeper.set_polling(options.poll);
                Idle::Doorbell(Doorbell::new(sleeper, &tap, &control.stop())?)
            }
        };
        workers.push(Worker {
            outward: Outward::new(agreed, port.geometry(), options.hold),
            nic,
            idle,
            tap,
            stop: control.stop(),
            answers: Default::default(),
            counters: Default::default(),
            shared: Arc::new(Shared::default()),
        });
    }
    Ok(workers)
}
