//! Ctrl-C: everything that waits asks here whether to stop, so that what it made is removed.

use std::sync::Arc;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result};
use signal_hook::consts::TERM_SIGNALS;
use signal_hook::flag;

static REQUESTED: LazyLock<Arc<AtomicBool>> = LazyLock::new(Arc::default);

/// Makes Ctrl-C a request; a second one ends the program at once.
///
/// # Errors
///
/// Those of installing signal handlers.
pub fn install() -> Result<()> {
    for &signal in TERM_SIGNALS {
        flag::register_conditional_shutdown(signal, 130, REQUESTED.clone())
            .and_then(|_| flag::register(signal, REQUESTED.clone()))
            .context("installing signal handlers")?;
    }
    Ok(())
}

/// Whether the user wants to stop.
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
