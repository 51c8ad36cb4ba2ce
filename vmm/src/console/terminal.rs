//! The terminal in raw mode, and in its own mode again however the program ends.
#![deny(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, Once, OnceLock, PoisonError};

use rustix::process::getpgrp;
use rustix::termios::{OptionalActions, OutputModes, Termios, tcgetattr, tcgetpgrp, tcsetattr};

use crate::signals;

/// Whether a terminal listens to this process. Who is in the background and reads it, or changes
/// its mode, is stopped by the system.
pub(super) fn in_foreground(terminal: &impl AsFd) -> bool {
    // A terminal that is not the controlling one has no foreground: it is ours.
    tcgetpgrp(terminal).map_or(true, |group| group == getpgrp())
}

/// Whether a terminal does something else with the character than showing it: control characters,
/// and those that turn the direction of writing or separate lines (Unicode's bidirectional
/// algorithm, UAX #9).
pub fn is_hidden(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}')
}

/// Standard input, if it is a terminal, in raw mode until this is dropped; what the keys mean is
/// told by [`Escape`](super::Escape). Output is still translated (a line feed also returns the
/// carriage), so that messages look as ever.
#[derive(Debug)]
pub struct Terminal(Arc<State>);

#[derive(Debug)]
struct State {
    terminal: OwnedFd,
    /// The terminal's own mode, while it is in raw mode.
    own: Mutex<Option<Termios>>,
}

/// The terminal that a panic gives its mode back.
static IN_RAW_MODE: OnceLock<Mutex<Option<Arc<State>>>> = OnceLock::new();

impl Terminal {
    /// Takes standard input into raw mode; nothing if it is no terminal. Where another job is in the
    /// foreground, `Terminal::resume` does so later.
    ///
    /// # Errors
    ///
    /// When the terminal's mode cannot be set.
    pub fn enter() -> io::Result<Option<Terminal>> {
        let stdin = rustix::stdio::stdin();
        if !rustix::termios::isatty(stdin) {
            return Ok(None);
        }
        let terminal = rustix::io::fcntl_dupfd_cloexec(stdin, 3)?;
        let state = Arc::new(State {
            terminal,
            own: Mutex::new(None),
        });
        restore_at_panic(&state);
        state.make_raw()?;
        Ok(Some(Terminal(state)))
    }

    /// A handle for other threads.
    pub fn handle(&self) -> TerminalHandle {
        TerminalHandle(Arc::clone(&self.0))
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        self.0.restore();
    }
}

/// Changes the terminal's mode from another thread.
#[derive(Clone, Debug)]
pub struct TerminalHandle(Arc<State>);

impl TerminalHandle {
    /// Stops this program, as Ctrl-Z does, with the terminal in its own mode until it goes on.
    pub fn suspend(&self) {
        self.0.restore();
        signals::stop_this_process();
        self.resume();
    }

    /// Raw mode again, after the program went on (SIGCONT): the shell may have set another.
    pub fn resume(&self) {
        // The terminal may be gone; then there is no mode to set.
        let _ = self.0.make_raw();
    }

    /// The terminal's own mode.
    pub fn restore(&self) {
        self.0.restore();
    }
}

impl State {
    fn make_raw(&self) -> io::Result<()> {
        if !in_foreground(&self.terminal) {
            return Ok(());
        }
        let mut own = self.own.lock().unwrap_or_else(PoisonError::into_inner);
        let present = tcgetattr(&self.terminal)?;
        let mut raw = own.get_or_insert(present).clone();
        raw.make_raw();
        raw.output_modes |= OutputModes::OPOST | OutputModes::ONLCR;
        tcsetattr(&self.terminal, OptionalActions::Now, &raw)?;
        Ok(())
    }

    fn restore(&self) {
        let mut own = self.own.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(own) = own.take()
            && in_foreground(&self.terminal)
        {
            // What has been written is shown in raw mode first. The terminal may be gone.
            let _ = tcsetattr(&self.terminal, OptionalActions::Now, &own);
        }
    }
}

/// Gives a terminal that is in raw mode its own mode back, whoever calls. Makes async-signal-safe
/// calls only; the locks are held for moments, by threads that make no call that is refused.
pub fn restore_terminal() {
    // Who holds the lock would have to call this within it.
    if let Some(place) = IN_RAW_MODE.get()
        && let Ok(place) = place.try_lock()
        && let Some(state) = place.as_ref()
    {
        state.restore();
    }
}

/// Before a panic's message is shown, the terminal has its own mode again.
fn restore_at_panic(state: &Arc<State>) {
    static HOOK: Once = Once::new();
    let place = IN_RAW_MODE.get_or_init(Mutex::default);
    *place.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(state));
    HOOK.call_once(|| {
        let former = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            restore_terminal();
            former(panic);
        }));
    });
}
