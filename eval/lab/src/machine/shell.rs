//! A person at the machine's console.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, IsTerminal, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};

use super::bochs::Emulator;
use super::error::MachineError;

/// Ctrl-], which leaves the machine as it leaves telnet.
const LEAVE: u8 = 0x1d;

/// Connects this terminal with the machine that `start` starts on a terminal of its own, until the
/// machine ends or the user types Ctrl-].
pub fn attend(
    start: impl FnOnce(&Path) -> Result<Emulator, MachineError>,
) -> Result<(), MachineError> {
    let prepare = |what: &str| {
        let what = what.to_owned();
        move |source: io::Error| MachineError::Prepare { what, source }
    };
    if !io::stdin().is_terminal() {
        let error = io::Error::other("standard input is not a terminal");
        return Err(prepare("a shell needs one")(error));
    }
    let terminal = prepare("opening a terminal for the machine");
    let (keyboard, screen, path) = open_terminal().map_err(terminal)?;
    // The emulator finds it raw, and as long as it is open here reading from it does not fail.
    let theirs = File::options()
        .read(true)
        .write(true)
        .open(OsStr::from_bytes(path.as_bytes()));
    let theirs = theirs.map_err(prepare("opening the machine's terminal"))?;
    eprintln!("booting; Ctrl-] leaves, `exit` switches the machine off");
    let mut emulator = start(Path::new(OsStr::from_bytes(path.as_bytes())))?;

    let raw = RawTerminal::new().map_err(prepare("setting this terminal"))?;
    let copy_out = std::thread::spawn(move || copy_to_user(screen));
    let (leave, left) = std::sync::mpsc::channel::<()>();
    // It ends with the program: a read of the keyboard cannot be called off.
    std::thread::spawn(move || copy_to_machine(keyboard, leave));
    while emulator.try_wait()?.is_none() {
        match left.recv_timeout(Duration::from_millis(50)) {
            Err(std::sync::mpsc::RecvTimeoutError::Timeout) => {}
            _ => emulator.kill(),
        }
    }
    // With the last user of the machine's side gone, the screen's copy ends.
    drop(theirs);
    let _ = copy_out.join();
    drop(raw);
    Ok(())
}

/// A pseudo terminal: two handles of this side, and the path of the other.
fn open_terminal() -> io::Result<(File, File, std::ffi::CString)> {
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY)?;
    grantpt(&master)?;
    unlockpt(&master)?;
    let path = ptsname(&master, Vec::new())?;
    let master = File::from(master);
    Ok((master.try_clone()?, master, path))
}

fn copy_to_user(mut screen: File) {
    let mut buffer = [0; 4096];
    while let Ok(length @ 1..) = screen.read(&mut buffer) {
        let mut out = io::stdout();
        if out
            .write_all(&buffer[..length])
            .and_then(|()| out.flush())
            .is_err()
        {
            return;
        }
    }
}

fn copy_to_machine(mut keyboard: File, leave: std::sync::mpsc::Sender<()>) {
    let mut byte = [0];
    while let Ok(1) = io::stdin().read(&mut byte) {
        if byte[0] == LEAVE || keyboard.write_all(&byte).is_err() {
            break;
        }
    }
    // The other side may be gone already.
    let _ = leave.send(());
}

/// This terminal, passing every key on; dropped, it is as before.
struct RawTerminal(Termios);

impl RawTerminal {
    fn new() -> io::Result<Self> {
        let before = tcgetattr(io::stdin())?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(io::stdin(), OptionalActions::Now, &raw)?;
        Ok(Self(before))
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        // There is nothing to be done if the terminal is gone.
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, &self.0);
    }
}
