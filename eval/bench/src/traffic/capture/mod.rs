//! Default input: real traffic, captured between two network namespaces of this machine.
//!
//! ```text
//!   namespace of thread `client`                         namespace of thread `server`
//!   ping, resolver, HTTP client   client0 --- veth --- server0   kernel echo, DNS and HTTP servers
//!                                    |
//!                                 AF_PACKET tap
//! ```
//!
//! Both stacks are the kernel's own; what runs on them is ordinary client and server code in two
//! threads that have left the process's network with `unshare`. The namespaces have no names: the
//! kernel removes them, and the link with them, when the threads end, however they end.
//!
//! Frames are taken at the client's end of the link, both directions in the order in which that end
//! saw them. Segmentation and checksum offloads are off, so every frame is as it would be on a
//! wire: at most [`MAX_LEN`] bytes, checksums right. Frames shorter than [`MIN_WIRE_LEN`] are
//! padded with zeros, as a hardware NIC does.
//!
//! A capture is never the same twice, so it is made once and kept: later runs use the same
//! frames and give the same instruction counts.

mod dns;
mod exchange;
#[allow(
    unsafe_code,
    reason = "offloads are switched by an ioctl, and a thread leaves its network"
)]
mod link;
#[allow(unsafe_code, reason = "rustix has no packet sockets")]
mod tap;

use std::io;
use std::path::Path;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use super::{Frame, MAX_LEN, MIN_WIRE_LEN, Trace, pcap};

/// Name of the kept capture; the number changes with what is captured.
const FILE: &str = "capture-1.pcap";

/// Name of the trace in tables.
const NAME: &str = "pcap";

/// Error of making a capture.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel allows no network namespace.
    #[error(
        "cannot make a network namespace to capture traffic in; run as root (in a container, with \
         CAP_SYS_ADMIN and CAP_NET_RAW), or give frames of your own with --pcap FILE"
    )]
    Namespace {
        /// The kernel's error.
        source: io::Error,
    },
    /// A configuration command cannot be started.
    #[error("cannot run `{command}`; install the package iproute2")]
    Start {
        /// The command.
        command: String,
        /// The system's error.
        source: io::Error,
    },
    /// A configuration command failed.
    #[error(
        "`{command}` failed: {output}; the kernel needs virtual Ethernet links (modprobe veth), or \
         give frames of your own with --pcap FILE"
    )]
    Command {
        /// The command.
        command: String,
        /// Output of the command.
        output: String,
    },
    /// A socket operation of the capture itself failed.
    #[error("capturing failed to {what}")]
    Capture {
        /// The operation.
        what: &'static str,
        /// The system's error.
        source: io::Error,
    },
    /// A client or server failed.
    #[error("traffic to capture failed at {what}")]
    Traffic {
        /// The conversation that failed.
        what: String,
        /// The system's error.
        source: io::Error,
    },
    /// The kernel dropped frames before they could be read.
    #[error(
        "the kernel dropped {count} frames of the capture; run it again on a less busy machine"
    )]
    Dropped {
        /// Number of dropped frames.
        count: u32,
    },
    /// A frame is longer than a wire would carry.
    #[error(
        "captured a frame of {length} bytes, over {MAX_LEN}: the kernel left segmentation to the \
         link; give frames of your own with --pcap FILE"
    )]
    TooLong {
        /// Length of the frame in bytes.
        length: usize,
    },
    /// A protocol is missing.
    #[error(
        "the capture has no {protocol} frames; run it again, or give frames of your own with \
         --pcap FILE"
    )]
    Missing {
        /// Name of the protocol.
        protocol: &'static str,
    },
    /// The kept capture cannot be written or read back.
    #[error(transparent)]
    File(#[from] pcap::Error),
    /// The folder to keep it in cannot be made.
    #[error("cannot make the folder {}", folder.display())]
    Folder {
        /// The folder.
        folder: std::path::PathBuf,
        /// The system's error.
        source: io::Error,
    },
}

/// Checks that there is a capture in `folder`, or that one can be made, before long work.
///
/// # Errors
///
/// [`Error::Namespace`].
pub fn check_possible(folder: &Path) -> Result<(), Error> {
    match kept(folder) {
        Some(_) => Ok(()),
        None => in_thread("probe", link::leave_network),
    }
}

/// The capture in `folder`, if it is there and whole.
fn kept(folder: &Path) -> Option<Trace> {
    let trace = pcap::load(&folder.join(FILE)).ok()?;
    complete(&trace).ok()?;
    Some(trace.named(NAME))
}

/// The capture kept in `folder`; if there is none yet, or it is damaged, a new one.
///
/// # Errors
///
/// Every variant of [`Error`]; then nothing is kept.
pub fn cached(folder: &Path) -> Result<Trace, Error> {
    if let Some(trace) = kept(folder) {
        return Ok(trace);
    }
    let file = folder.join(FILE);
    std::fs::create_dir_all(folder).map_err(|source| Error::Folder {
        folder: folder.into(),
        source,
    })?;
    let frames = record()?;
    pcap::save(
        &file,
        frames.iter().map(|(time, frame)| (*time, &frame[..])),
    )?;
    Ok(pcap::load(&file)?.named(NAME))
}

/// Makes traffic and captures it: frames with their times since the epoch.
///
/// # Errors
///
/// Every variant of [`Error`].
pub fn record() -> Result<Vec<(Duration, Frame)>, Error> {
    // A thread of its own, which ends with the namespace it enters.
    let frames = in_thread("client", client)?;
    let bare = frames.iter().map(|(_, frame)| frame.clone()).collect();
    complete(&Trace::new(NAME, bare))?;
    Ok(frames)
}

/// The client's side, which also sets up the link and captures.
fn client() -> Result<Vec<(Duration, Frame)>, Error> {
    link::leave_network()?;
    thread::scope(|scope| {
        let (tell_client, from_server) = mpsc::channel();
        let (tell_server, from_client) = mpsc::channel();
        // Dropped on every way out of here, which ends the server.
        let tell_server: mpsc::Sender<()> = tell_server;
        let server = scope.spawn(move || server(&tell_client, &from_client));

        let captured: Result<_, Error> = (|| {
            let Ok(peer) = from_server.recv() else {
                return Ok(None);
            };
            link::create(peer)?;
            link::configure(link::CLIENT)?;
            let tap = tap::Tap::open(link::CLIENT.name)?;
            let _ = tell_server.send(());
            let Ok(_) = from_server.recv() else {
                return Ok(None);
            };
            exchange::run(link::SERVER.address)?;
            Ok(Some(tap))
        })();
        drop(tell_server);
        let served = server
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        match captured? {
            // The server went away: its error says why.
            None => Err(served.err().unwrap_or_else(|| Error::Traffic {
                what: "starting the servers".into(),
                source: io::ErrorKind::UnexpectedEof.into(),
            })),
            Some(tap) => {
                served?;
                finish(tap.drain()?)
            }
        }
    })
}

/// The server's side: tells its thread id, waits for the link, tells that it serves, and serves
/// until `from_client` closes.
fn server(tell_client: &mpsc::Sender<i32>, from_client: &mpsc::Receiver<()>) -> Result<(), Error> {
    link::leave_network()?;
    let thread = rustix::thread::gettid().as_raw_nonzero().get();
    let _ = tell_client.send(thread);
    if from_client.recv().is_err() {
        return Ok(());
    }
    link::configure(link::SERVER)?;
    exchange::serve(link::SERVER.address, || {
        let _ = tell_client.send(thread);
        let _ = from_client.recv();
    })
}

/// Runs `work` in a thread called `name` and waits for it.
fn in_thread<T: Send>(name: &str, work: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| {
        thread::Builder::new()
            .name(name.into())
            .spawn_scoped(scope, work)
            .expect("a thread can be started")
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Puts frames in the order of their times, pads short ones and refuses long ones.
fn finish(mut frames: Vec<(Duration, Vec<u8>)>) -> Result<Vec<(Duration, Frame)>, Error> {
    // Two processors stamp frames before they queue them, and may do the latter the other way
    // round.
    frames.sort_by_key(|(time, _)| *time);
    frames
        .into_iter()
        .map(|(time, mut frame)| {
            if frame.len() > MAX_LEN {
                return Err(Error::TooLong {
                    length: frame.len(),
                });
            }
            frame.resize(frame.len().max(MIN_WIRE_LEN), 0);
            Ok((time, frame.into_boxed_slice()))
        })
        .collect()
}

/// Checks that a capture has what it is made for: four protocols and the full range of lengths.
fn complete(trace: &Trace) -> Result<(), Error> {
    let summary = trace.summary();
    for protocol in ["ARP", "ICMP", "UDP", "TCP"] {
        if !summary.kinds.contains_key(protocol) {
            return Err(Error::Missing { protocol });
        }
    }
    if summary.longest != MAX_LEN {
        return Err(Error::Missing {
            protocol: "full-sized",
        });
    }
    Ok(())
}

#[cfg(test)]
#[path = "../capture_tests.rs"]
mod tests;
