//! Signals: those that end the program, and the one that takes a vCPU out of the guest.

use std::io;
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use libc::{c_int, c_void, siginfo_t};
use postern_confine::Kind;
use vmm_sys_util::signal::{SIGRTMIN, create_sigset, register_signal_handler};

/// What can fail with signals.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The signal mask cannot be changed.
    #[error("cannot change the signal mask")]
    Mask(#[source] io::Error),
    /// No thread can be started.
    #[error("cannot start a thread that waits for signals")]
    Thread(#[source] io::Error),
    /// The handler cannot be installed.
    #[error("cannot install a signal handler for vCPUs")]
    Handler(#[source] io::Error),
}

/// Signals that end the program in an orderly way.
const ENDING: [c_int; 4] = [libc::SIGINT, libc::SIGTERM, libc::SIGHUP, libc::SIGQUIT];

/// Signals by which a shell stops a job and lets it go on.
const JOB_CONTROL: [c_int; 2] = [libc::SIGTSTP, libc::SIGCONT];

/// Calls `act` with each ending signal (SIGINT, SIGTERM, SIGHUP, SIGQUIT) that arrives from now on,
/// on a thread of its own. Call it before any other thread is started: the signals are blocked
/// in the calling thread and in all that it starts.
///
/// # Errors
///
/// When the system refuses.
pub fn on_ending_signal(act: impl Fn(c_int) + Send + 'static) -> Result<(), Error> {
    on_signals(&ENDING, act)
}

/// The same with SIGTSTP and SIGCONT, too: for those who use a terminal. The process does not stop
/// by itself at SIGTSTP then.
///
/// # Errors
///
/// When the system refuses.
pub fn on_terminal_signal(act: impl Fn(c_int) + Send + 'static) -> Result<(), Error> {
    let signals = [ENDING.as_slice(), &JOB_CONTROL].concat();
    on_signals(&signals, act)
}

fn on_signals(signals: &[c_int], act: impl Fn(c_int) + Send + 'static) -> Result<(), Error> {
    let set = create_sigset(signals).map_err(|error| Error::Mask(error.into()))?;
    // SAFETY: `set` is an initialised signal set; the old mask is not asked for.
    let refused = unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &set, std::ptr::null_mut()) };
    if refused != 0 {
        return Err(Error::Mask(io::Error::from_raw_os_error(refused)));
    }
    let wait = move || {
        loop {
            let mut signal = 0;
            // SAFETY: `set` is an initialised signal set, `signal` lives through the call.
            if unsafe { libc::sigwait(&set, &mut signal) } == 0 {
                act(signal);
            }
        }
    };
    postern_confine::spawn(Kind::Signals, "signals", wait).map_err(Error::Thread)?;
    Ok(())
}

/// Stops this process, as SIGTSTP does by itself; returns when it goes on.
pub fn stop_this_process() {
    // SAFETY: takes integers; SIGSTOP has no handler. The C library's `raise` may be a call that a
    // confined thread cannot make.
    unsafe {
        libc::syscall(
            libc::SYS_tgkill,
            libc::getpid(),
            libc::gettid(),
            libc::SIGSTOP,
        )
    };
}

/// How often a vCPU that has not ended is signalled.
const KICK_INTERVAL: Duration = Duration::from_millis(1);

/// Makes [`kick`] possible in this process.
///
/// # Errors
///
/// When the system refuses the handler.
pub fn enable_kicks() -> Result<(), Error> {
    extern "C" fn nothing(_: c_int, _: *mut siginfo_t, _: *mut c_void) {}
    static DONE: OnceLock<()> = OnceLock::new();
    if DONE.get().is_none() {
        // Without SA_RESTART, so that KVM_RUN returns with EINTR.
        register_signal_handler(SIGRTMIN(), nothing)
            .map_err(|error| Error::Handler(error.into()))?;
        let _ = DONE.set(());
    }
    Ok(())
}

/// The kernel's number of a thread, which the thread itself notes.
#[derive(Clone, Debug, Default)]
pub struct ThreadNumber(Arc<AtomicI32>);

impl ThreadNumber {
    /// Notes the calling thread's.
    pub fn note(&self) {
        // SAFETY: takes nothing.
        let number = unsafe { libc::gettid() };
        self.0.store(number, Ordering::Release);
    }

    /// Sends the thread a signal, if it has noted its number. C libraries have a call for that by
    /// which threads of other processes can be signalled, too, so filters refuse it.
    fn signal(&self, signal: c_int) {
        let number = self.0.load(Ordering::Acquire);
        if number != 0 {
            // SAFETY: takes integers. If the thread has ended it reaches nobody, or another thread
            // of this process, whose handler does nothing.
            unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), number, signal) };
        }
    }
}

/// Takes the threads out of KVM_RUN until they have ended; each must look at a flag that tells it
/// to. One signal would not do: it may arrive between that look and KVM_RUN.
pub fn kick<T>(threads: &[(JoinHandle<T>, ThreadNumber)]) {
    while threads.iter().any(|(thread, _)| !thread.is_finished()) {
        kick_once(threads.iter().map(|(thread, number)| (thread, number)));
        thread::sleep(KICK_INTERVAL);
    }
}

/// Takes the threads out of KVM_RUN, those of them that are in it now.
pub fn kick_once<'a, T: 'a>(
    threads: impl IntoIterator<Item = (&'a JoinHandle<T>, &'a ThreadNumber)>,
) {
    for (thread, number) in threads {
        if !thread.is_finished() {
            number.signal(SIGRTMIN());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicBool;

    #[test]
    fn kicks_end_threads_that_sleep_in_the_kernel() {
        enable_kicks().unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let threads: Vec<_> = (0..3)
            .map(|_| {
                let (stop, number) = (Arc::clone(&stop), ThreadNumber::default());
                let own = number.clone();
                let thread = thread::spawn(move || {
                    own.note();
                    while !stop.load(Ordering::Relaxed) {
                        // SAFETY: pause takes nothing and returns at a signal.
                        unsafe { libc::pause() };
                    }
                });
                (thread, number)
            })
            .collect();
        stop.store(true, Ordering::Relaxed);
        kick(&threads);
        for (thread, _) in threads {
            thread.join().unwrap();
        }
    }
}
