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
//! | `open-loop:ADDRESS:PORT:RATE:COUNT` | asks a memcached COUNT times, RATE times a second, whether answers come or not |
//! | `vsock-echo:PORT` | says so once it listens at this port of vsock(7), and gives one peer back what it sends |
//! | `vsock-ask:CID:PORT:LENGTH` | sends so many bytes to a port, all of which must come back |
//!
//! `send` and `receive` begin and end with lines `MARK WORD-SIZE begin` and `MARK WORD-SIZE end`. Each
//! word ends with a line, `DONE WORD` or `FAILED WORD: REASON`; the first that fails is the last.

mod interface;
mod open_loop;
mod vsock;
mod work;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, bail};
use postern_words::Parts;

fn main() -> ExitCode {
    postern_words::run_all(run)
}

fn run(parts: &mut Parts<'_>) -> Result<()> {
    match parts.text() {
        "tap" => interface::make_tap(parts.text()),
        "up" => work::up(parts.text()),
        "none" => {
            postern_words::mark("none begin");
            postern_words::mark("none end");
            Ok(())
        }
        "send" => {
            let (name, size, count) = (parts.text(), parts.number()?, parts.number()?);
            let (batch, pause) = (parts.number()?, Duration::from_micros(parts.number()?));
            work::send(name, size, count, batch, pause)
        }
        "receive" => work::receive(parts.text(), parts.number()?, parts.number()?),
        "open-loop" => {
            let (address, port) = (parts.text(), parts.number()?);
            open_loop::ask(address, port, parts.number()?, parts.number()?)
        }
        "vsock-echo" => vsock::echo(parts.number()?),
        "vsock-ask" => vsock::ask(parts.number()?, parts.number()?, parts.number()?),
        other => bail!("no word begins with {other:?}"),
    }
}
