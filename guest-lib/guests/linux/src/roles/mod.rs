//! The roles.

mod echo;
mod info;
mod meet;
mod misuse;
mod ping;
mod receive;
mod send;
mod storm;

use anyhow::{Context, Result};
use postern_guest::linux::Port;
use postern_guest::linux::path::PathService;
use postern_guest::nic::Nic;
use rustix::system::{RebootCommand, reboot};

use crate::options::{Options, Role};

/// A queue of the port.
type Queue = Nic<PathService>;

/// Plays the role.
pub fn run(options: &Options) -> Result<()> {
    let open = || match &options.device {
        Some(address) => Port::open_at(address),
        None => Port::open(),
    };
    match &options.role {
        Role::Info => info::run(&open()?),
        Role::Send { traffic, to } => send::run(&open()?, traffic, *to),
        Role::Receive(traffic) => receive::run(&open()?, traffic),
        Role::Echo(traffic) => echo::run(&open()?, traffic),
        Role::Ping(traffic) => ping::run(&open()?, traffic),
        Role::Storm { port, queue, rings } => storm::run(&open()?, *port, *queue, *rings),
        Role::Misuse { only, companion } => match only {
            Some(misuse) => misuse::commit(*misuse, &open()?),
            None => misuse::all(options, companion),
        },
        // Only the first process can.
        Role::Panic => Err(anyhow::anyhow!("this process is not the first one")),
        Role::Reboot => reboot(RebootCommand::Restart).context("rebooting"),
    }
}

/// Runs a thread for each queue, and gives what each brings, in order.
fn on_threads<T: Send>(threads: u32, run: impl Fn(u32) -> Result<T> + Sync) -> Result<Vec<T>> {
    if threads == 1 {
        return Ok(vec![run(0)?]);
    }
    std::thread::scope(|scope| {
        let run = &run;
        let started: Vec<_> = (0..threads)
            .map(|thread| scope.spawn(move || run(thread)))
            .collect();
        started
            .into_iter()
            .enumerate()
            .map(|(thread, started)| match started.join() {
                Ok(result) => result.with_context(|| format!("thread {thread}")),
                Err(_) => Err(anyhow::anyhow!("thread {thread} panicked")),
            })
            .collect()
    })
}
