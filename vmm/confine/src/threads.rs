//! Threads that are confined from their start on.
//!
//! A confined thread cannot start threads, since whoever may clone may do much. So [`turn_on`]
//! starts one that can, the starter, which takes no input but requests of [`spawn`] to start a
//! thread; its own filter holds for the threads that it starts, besides theirs.
#![deny(unsafe_code)]

use std::fmt;
use std::io;
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::thread::{self, JoinHandle};

use rustix::thread::CapabilitySet;

use crate::capabilities::keep_only;
use crate::error::Error;
use crate::kind::Kind;
use crate::{filter, system, trap};

/// Something that the starter does.
type Request = Box<dyn FnOnce() + Send>;

/// The starter of this process, once it is on.
static STARTER: OnceLock<Starter> = OnceLock::new();

struct Starter(Mutex<Sender<Request>>);

impl fmt::Debug for Starter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Starter").finish_non_exhaustive()
    }
}

/// Has all threads of this process that are started by [`spawn`] from now on confined. A thread
/// that makes a refused call ends the process with `status`. Call it before threads are started,
/// from the main thread, with the signals blocked that another thread is to get.
///
/// # Errors
///
/// The kernel lacks what it takes, or refuses.
pub fn turn_on(status: u8) -> Result<(), Error> {
    if is_on() {
        return Ok(());
    }
    prepare(status)?;
    let (sender, requests) = mpsc::channel();
    let (confined, answer) = mpsc::channel();
    thread::Builder::new()
        .name("starter".to_owned())
        .spawn(move || {
            let result = system::block_signals()
                .map_err(Error::Starter)
                .and_then(|()| confine(Kind::Starter));
            let failed = result.is_err();
            let _ = confined.send(result);
            if !failed {
                serve(&requests);
            }
        })
        .map_err(Error::Starter)?;
    answer
        .recv()
        .map_err(|_| gone())
        .map_err(Error::Starter)??;
    // Nobody else sets it: there is one main thread.
    let _ = STARTER.set(Starter(Mutex::new(sender)));
    Ok(())
}

/// Confines the calling thread for good, in a process that has no other and starts none. A refused
/// call ends it with `status`.
///
/// # Errors
///
/// The kernel lacks what it takes, or refuses.
pub fn enter_alone(kind: Kind, status: u8) -> Result<(), Error> {
    prepare(status)?;
    confine(kind)
}

/// Has the calling thread, and what it starts from now on, do without capabilities and without what
/// executing a program could give.
///
/// # Errors
///
/// The kernel refuses.
pub fn give_up_privileges() -> Result<(), Error> {
    no_new_privileges()?;
    keep_only(CapabilitySet::empty())
}

/// Whether threads of this process are confined.
pub fn is_on() -> bool {
    STARTER.get().is_some()
}

/// Confines the calling thread for good, if the process is on: it has no capability and the calls
/// of its kind.
///
/// # Errors
///
/// The kernel refuses.
pub fn enter(kind: Kind) -> Result<(), Error> {
    match is_on() {
        true => confine(kind),
        false => Ok(()),
    }
}

/// Starts a thread that is confined as its kind says before it does anything, if the process is
/// on; in other processes, a plain thread. Confined threads may call it.
///
/// # Errors
///
/// The system has no thread left, or the kernel refuses to confine it.
pub fn spawn<T: Send + 'static>(
    kind: Kind,
    name: impl Into<String>,
    run: impl FnOnce() -> T + Send + 'static,
) -> io::Result<JoinHandle<T>> {
    let builder = thread::Builder::new().name(name.into());
    let Some(starter) = STARTER.get() else {
        return builder.spawn(run);
    };
    let (sender, answer) = mpsc::channel();
    let request = move || {
        let _ = sender.send(spawn_confined(builder, kind, || (), |()| run()));
    };
    starter.ask(Box::new(request))?;
    answer.recv().map_err(|_| gone())?
}

/// Starts a thread that does `prepare` as the calling thread might, which is not confined, and is
/// confined before it does `run`, if the process is on.
///
/// # Errors
///
/// The system has no thread left, or the kernel refuses to confine it.
pub fn spawn_prepared<P, T: Send + 'static>(
    kind: Kind,
    name: impl Into<String>,
    prepare: impl FnOnce() -> P + Send + 'static,
    run: impl FnOnce(P) -> T + Send + 'static,
) -> io::Result<JoinHandle<T>> {
    let builder = thread::Builder::new().name(name.into());
    match is_on() {
        true => spawn_confined(builder, kind, prepare, run),
        false => builder.spawn(move || run(prepare())),
    }
}

fn spawn_confined<P, T: Send + 'static>(
    builder: thread::Builder,
    kind: Kind,
    prepare: impl FnOnce() -> P + Send + 'static,
    run: impl FnOnce(P) -> T + Send + 'static,
) -> io::Result<JoinHandle<T>> {
    let (confined, answer) = mpsc::channel();
    let thread = builder.spawn(move || {
        let prepared = prepare();
        if let Err(error) = confine(kind) {
            let _ = confined.send(Err(io::Error::other(error)));
            // Who asked gets the error, and no handle.
            std::panic::resume_unwind(Box::new("it could not be confined"));
        }
        let _ = confined.send(Ok(()));
        run(prepared)
    })?;
    answer.recv().map_err(|_| gone())??;
    Ok(thread)
}

impl Starter {
    fn ask(&self, request: Request) -> io::Result<()> {
        let sender = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        sender.send(request).map_err(|_| gone())
    }
}

fn serve(requests: &Receiver<Request>) {
    while let Ok(request) = requests.recv() {
        request();
    }
}

fn gone() -> io::Error {
    io::Error::other("it has ended before its time")
}

fn prepare(status: u8) -> Result<(), Error> {
    system::filters_exist().map_err(Error::NoFilters)?;
    no_new_privileges()?;
    system::limit_arenas();
    trap::install(status)
}

fn no_new_privileges() -> Result<(), Error> {
    rustix::thread::set_no_new_privs(true).map_err(|errno| Error::NoNewPrivs(errno.into()))
}

fn confine(kind: Kind) -> Result<(), Error> {
    let program = filter::build(kind)?;
    keep_only(kind.capabilities())?;
    trap::note(kind);
    filter::install(kind, &program)
}
