//! Ctrl-C: everything that waits asks here whether to stop, so that what it made is removed.

use std::process::{Child, ExitCode};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, LazyLock};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, kill_process};
use signal_hook::consts::TERM_SIGNALS;
use signal_hook::flag;

static REQUESTED: LazyLock<Arc<AtomicBool>> = LazyLock::new(Arc::default);

/// Status of a program that Ctrl-C ended, as a shell says it.
const INTERRUPTED: u8 = 130;

/// Makes Ctrl-C a request; a second one ends the program at once.
///
/// # Errors
///
/// Those of installing signal handlers.
pub fn install() -> Result<()> {
    for &signal in TERM_SIGNALS {
        flag::register_conditional_shutdown(signal, INTERRUPTED.into(), REQUESTED.clone())
            .and_then(|_| flag::register(signal, REQUESTED.clone()))
            .context("installing signal handlers")?;
    }
    Ok(())
}

/// True once the user wants to stop.
pub fn requested() -> bool {
    REQUESTED.load(Ordering::Relaxed)
}

/// An error if the user wants to stop.
///
/// # Errors
///
/// "interrupted".
pub fn check() -> Result<()> {
    anyhow::ensure!(!requested(), "interrupted");
    Ok(())
}

/// The status of a program that ended like this, after its error is printed. It is that of a shell
/// command that Ctrl-C ended, if that is what happened.
pub fn exit_code(result: Result<ExitCode>) -> ExitCode {
    match result {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            match requested() {
                true => ExitCode::from(INTERRUPTED),
                false => ExitCode::FAILURE,
            }
        }
    }
}

/// Does `work`, which waits for a program. If the user wants to stop meanwhile, the program is told
/// to end: not all signals reach it by themselves.
pub fn watch<T>(program: &mut Child, work: impl FnOnce(&mut Child) -> T) -> T {
    const PERIOD: Duration = Duration::from_millis(100);
    let pid = Pid::from_child(program);
    let (done, over) = mpsc::channel::<()>();
    thread::scope(|scope| {
        scope.spawn(move || {
            while over.recv_timeout(PERIOD) == Err(RecvTimeoutError::Timeout) {
                if requested() {
                    // It may have ended already.
                    let _ = kill_process(pid, Signal::TERM);
                    return;
                }
            }
        });
        let result = work(program);
        drop(done);
        result
    })
}
