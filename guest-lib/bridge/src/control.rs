//! The bridge and those who run it: signals, counters for others, the service manager.

use std::env;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixStream};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::io::Errno;
use serde::Serialize;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::low_level::pipe;

use crate::counters::{Counters, Shared};
use crate::place::{self, Place};
use crate::worker::Worker;

/// How long a reader of counters may take.
const PATIENCE: Duration = Duration::from_secs(1);

/// What the main thread waits for.
#[derive(Debug)]
pub struct Control {
    name: String,
    /// Readable once there was a signal to end.
    signals: UnixStream,
    /// Where counters are asked for.
    place: Place,
    /// Readable when the threads are to end.
    stop: Arc<OwnedFd>,
    manager: Manager,
}

/// What a reader of counters gets.
#[derive(Serialize)]
struct Report<'a> {
    interface: &'a str,
    queues: Vec<Counters>,
    /// Frames that the guest's kernel dropped: those that waited for the bridge longer than the
    /// interface's queue is, and those that it had no use for.
    interface_tx_dropped: Option<u64>,
    interface_rx_dropped: Option<u64>,
}

/// Prints the counters of the bridge that runs with an interface.
///
/// # Errors
///
/// There is none.
pub fn print_counters(name: &str) -> Result<()> {
    let mut text = String::new();
    let read = place::connect(name)?.read_to_string(&mut text);
    read.with_context(|| format!("reading the counters of the postern-bridge with {name}"))?;
    println!("{text}");
    Ok(())
}

impl Control {
    /// Begins to listen to signals, and to readers of the counters.
    ///
    /// # Errors
    ///
    /// Another bridge has the interface.
    pub fn open(name: &str) -> Result<Control> {
        let place = Place::take(name)?;
        let (signals, sender) = UnixStream::pair().context("making a pair of sockets")?;
        for signal in [SIGTERM, SIGINT] {
            let sender = sender.try_clone().context("copying a socket")?;
            pipe::register(signal, sender).context("catching signals")?;
        }
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        let stop = eventfd(0, flags).context("making an event")?;
        Ok(Control {
            name: name.to_owned(),
            signals,
            place,
            stop: Arc::new(stop),
            manager: Manager::find(),
        })
    }

    /// What is readable when threads are to end.
    pub fn stop(&self) -> Arc<OwnedFd> {
        Arc::clone(&self.stop)
    }

    /// Runs a thread for each queue, until there is a signal or one of them fails.
    ///
    /// # Errors
    ///
    /// That of the thread.
    pub fn serve(self, workers: Vec<Worker>) -> Result<()> {
        let shared: Vec<Arc<Shared>> = workers.iter().map(|worker| worker.shared.clone()).collect();
        let ended = channel();
        let event = Arc::new(eventfd(0, EventfdFlags::CLOEXEC).context("making an event")?);
        let mut running = Vec::new();
        for (number, mut worker) in workers.into_iter().enumerate() {
            let (sender, event) = (ended.0.clone(), Arc::clone(&event));
            let thread = thread::Builder::new().name(format!("queue {number}"));
            let run = move || {
                let result = worker.run();
                // Nobody waits for it once the bridge ends.
                let _ = sender.send(result);
                let _ = rustix::io::write(&event, &1u64.to_ne_bytes());
            };
            running.push(thread.spawn(run).context("starting a thread")?);
        }
        self.manager.tell("READY=1");
        let result = self.wait(&event, &ended.1, &shared);
        self.manager.tell("STOPPING=1");
        rustix::io::write(&self.stop, &1u64.to_ne_bytes()).context("ending the threads")?;
        for thread in running {
            if thread.join().is_err() {
                bail!("a thread panicked");
            }
        }
        result
    }

    /// Waits for a signal, or the end of a thread, and serves readers meanwhile.
    fn wait(
        &self,
        event: &OwnedFd,
        ended: &Receiver<Result<()>>,
        shared: &[Arc<Shared>],
    ) -> Result<()> {
        loop {
            let mut list = [
                PollFd::new(&self.signals, PollFlags::IN),
                PollFd::new(event, PollFlags::IN),
                PollFd::new(self.place.socket(), PollFlags::IN),
            ];
            match poll(&mut list, None) {
                Ok(_) => {}
                Err(Errno::INTR) => continue,
                Err(errno) => return Err(errno).context("waiting for signals"),
            }
            let [signal, end, reader] = list.map(|fd| !fd.revents().is_empty());
            if end {
                return ended.try_recv().unwrap_or(Ok(()));
            }
            if signal {
                return Ok(());
            }
            // A reader that is gone, or does not read, is no reason to end.
            let _ = if reader { self.report(shared) } else { Ok(()) };
        }
    }

    /// Gives a reader the counters.
    fn report(&self, shared: &[Arc<Shared>]) -> io::Result<()> {
        let (mut stream, _) = self.place.socket().accept()?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let dropped = |direction: &str| {
            let name = &self.name;
            let path = format!("/sys/class/net/{name}/statistics/{direction}_dropped");
            std::fs::read_to_string(path).ok()?.trim().parse().ok()
        };
        let report = Report {
            interface: &self.name,
            queues: shared.iter().map(|shared| shared.load()).collect(),
            interface_tx_dropped: dropped("tx"),
            interface_rx_dropped: dropped("rx"),
        };
        stream.write_all(serde_json::to_string_pretty(&report)?.as_bytes())
    }
}

/// The service manager, if there is one that wants to know of the bridge (sd_notify(3)).
#[derive(Debug)]
struct Manager(Option<UnixDatagram>);

impl Manager {
    /// The one that the environment names. It is connected to at once: later the bridge may lack the
    /// right to.
    fn find() -> Manager {
        let connected = env::var_os("NOTIFY_SOCKET").and_then(|path| {
            let path = path.as_encoded_bytes();
            let address = match path.strip_prefix(b"@") {
                Some(name) => SocketAddr::from_abstract_name(name),
                None => SocketAddr::from_pathname(String::from_utf8_lossy(path).as_ref()),
            };
            let socket = UnixDatagram::unbound().ok()?;
            socket.connect_addr(&address.ok()?).ok()?;
            Some(socket)
        });
        Manager(connected)
    }

    fn tell(&self, state: &str) {
        // A manager that does not listen does not wait for it either.
        let _ = self.0.as_ref().map(|socket| socket.send(state.as_bytes()));
    }
}
