//! Sends and receives frames of its own on network interfaces, as its arguments say, word by word.
//! As the first process of a Linux guest it takes them from the kernel's command line, behind `--`,
//! and switches off at the end:
//!
//! | word | does |
//! | --- | --- |
//! | `tap:NAME` | makes a TAP that stays |
//! | `up:INTERFACE` | brings it up, and prints its MAC address and MTU |
//! | `none` | nothing, between two lines of `MARK` |
//! | `send:INTERFACE:SIZE:COUNT:BATCH:PAUSE` | sends COUNT frames of SIZE bytes, BATCH a call, with PAUSE microseconds after each |
//! | `receive:INTERFACE:SIZE:COUNT` | receives COUNT frames of SIZE bytes, each of which must come once and in order |
//! | `insmod:FILE` | loads a module of the initial file system |
//!
//! `send` and `receive` begin and end with lines `MARK WORD-SIZE begin` and `MARK WORD-SIZE end`. Each
//! word ends with a line, `DONE WORD` or `FAILED WORD: REASON`; the first that fails is the last.

mod interface;
mod work;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::mount::{MountFlags, mount};
use rustix::system::{RebootCommand, reboot};

fn main() -> ExitCode {
    let first = std::process::id() == 1;
    let mut code = ExitCode::SUCCESS;
    if let (true, Err(error)) = (first, prepare()) {
        println!("FAILED to begin: {error:#}");
        code = ExitCode::FAILURE;
    } else {
        for word in std::env::args().skip(1) {
            match run(&word) {
                Ok(()) => println!("DONE {word}"),
                Err(error) => {
                    println!("FAILED {word}: {error:#}");
                    code = ExitCode::FAILURE;
                    break;
                }
            }
        }
    }
    if first {
        // The console's driver has what was printed, but not yet the console.
        std::thread::sleep(Duration::from_millis(100));
        // Only the first process comes here to stay.
        let _ = reboot(RebootCommand::PowerOff);
    }
    code
}

/// Makes the file systems in which devices and the kernel are found.
fn prepare() -> Result<()> {
    for (kind, place) in [("devtmpfs", "/dev"), ("proc", "/proc"), ("sysfs", "/sys")] {
        std::fs::create_dir_all(place).with_context(|| format!("making {place}"))?;
        mount(kind, place, kind, MountFlags::empty(), None)
            .with_context(|| format!("mounting {place}"))?;
    }
    Ok(())
}

fn run(word: &str) -> Result<()> {
    let mut parts = word.split(':');
    let mut next = || parts.next().unwrap_or_default();
    let number = |text: &str| -> Result<usize> {
        text.parse()
            .with_context(|| format!("{text:?} is no number"))
    };
    match next() {
        "tap" => interface::make_tap(next()),
        "up" => work::up(next()),
        "none" => {
            work::mark("none begin");
            work::mark("none end");
            Ok(())
        }
        "send" => {
            let (name, size, count) = (next(), number(next())?, number(next())?);
            let (batch, pause) = (number(next())?, number(next())?);
            work::send(
                name,
                size,
                count,
                batch,
                Duration::from_micros(pause as u64),
            )
        }
        "receive" => work::receive(next(), number(next())?, number(next())?),
        "insmod" => interface::load_module(next()),
        other => bail!("no word begins with {other:?}"),
    }
}
