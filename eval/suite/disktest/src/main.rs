//! First process of a Linux guest that does to its disk, `/dev/vda`, what the kernel's command line
//! says behind `--`, word by word, and switches off:
//!
//! | word | does |
//! | --- | --- |
//! | `count:WHAT:SIZE:N` | N reads of SIZE bytes around the page cache, `sequential` or `random`, or `none`, between two lines of `MARK` |
//! | `sum:OFFSET:LENGTH` | prints the SHA-256 of bytes of the disk, read around the page cache |
//! | `sum:TYPE:FILE` | mounts the disk, of that type, and prints the SHA-256 of a file |
//! | `write:SEED:OFFSET:LENGTH` | writes bytes that SEED determines, and flushes them |
//! | `dirty:SEED:OFFSET:LENGTH` | the same without the flush |
//! | `discard:OFFSET:LENGTH`, `zero:OFFSET:LENGTH` | what it says |
//! | `readonly` | checks that nothing can be written |
//! | `serial` | prints the serial number |
//! | `insmod:FILE` | loads a module of the initial file system |
//! | `stay` | says so, and does nothing more for ever |
//!
//! Each word ends with a line, `DONE WORD` or `FAILED WORD: REASON`; the first that fails is the last.

mod block;
mod work;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::mount::{MountFlags, mount};
use rustix::system::{RebootCommand, reboot};

fn main() -> ExitCode {
    if let Err(error) = prepare() {
        println!("FAILED to begin: {error:#}");
    } else {
        for word in std::env::args().skip(1) {
            match run(&word) {
                Ok(()) => println!("DONE {word}"),
                Err(error) => {
                    println!("FAILED {word}: {error:#}");
                    break;
                }
            }
        }
    }
    // The console's driver has what was printed, but not yet the console.
    std::thread::sleep(Duration::from_millis(100));
    // Only the first process comes here to stay.
    match reboot(RebootCommand::PowerOff) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
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
    let number = |text: &str| -> Result<u64> {
        text.parse()
            .with_context(|| format!("{text:?} is no number"))
    };
    match next() {
        "count" => {
            let what = next();
            work::count(what, number(next())?, number(next())?)
        }
        "sum" => match (next(), next()) {
            (kind @ ("erofs" | "ext4"), file) => work::sum_of_file(kind, file),
            (offset, length) => work::sum_of_disk(number(offset)?, number(length)?),
        },
        "write" => work::write(number(next())?, number(next())?, number(next())?, true),
        "dirty" => work::write(number(next())?, number(next())?, number(next())?, false),
        "discard" => block::discard(&work::disk(true)?, number(next())?, number(next())?),
        "zero" => block::zero_out(&work::disk(true)?, number(next())?, number(next())?),
        "readonly" => work::readonly(),
        "serial" => {
            let serial = std::fs::read_to_string("/sys/block/vda/serial");
            println!("SERIAL {}", serial.context("reading the serial number")?);
            Ok(())
        }
        "insmod" => block::load_module(next()),
        "stay" => {
            println!("STAYING");
            loop {
                std::thread::park();
            }
        }
        other => bail!("no word begins with {other:?}"),
    }
}
