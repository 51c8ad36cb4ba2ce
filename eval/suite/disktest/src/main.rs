//! First process of a Linux guest that does to its disk, `/dev/vda`, what the kernel's command line
//! says behind `--`, word by word, and switches off:
//!
//! | word | does |
//! | --- | --- |
//! | `count:WHAT:SIZE:N` | N reads of SIZE bytes around the page cache, `sequential` or `random`, or `none`, between two lines of `MARK` |
//! | `sum:OFFSET:LENGTH` | prints the SHA-256 of bytes of the disk, read around the page cache |
//! | `sum-file:TYPE:FILE` | mounts the disk, of that type, and prints the SHA-256 of a file |
//! | `write:SEED:OFFSET:LENGTH` | writes bytes that SEED determines, and flushes them |
//! | `dirty:SEED:OFFSET:LENGTH` | the same without the flush |
//! | `discard:OFFSET:LENGTH`, `zero:OFFSET:LENGTH` | what it says |
//! | `readonly` | checks that nothing can be written |
//! | `serial` | prints the serial number |
//! | `queues:N` | from each of N processors at once, 64 reads around the page cache; each must have had a queue of its own |
//! | `stay` | says so, and does nothing more for ever |
//!
//! Each word ends with a line, `DONE WORD` or `FAILED WORD: REASON`; the first that fails is the last.

mod block;
mod work;

use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use postern_words::Parts;

fn main() -> ExitCode {
    postern_words::run_all(run)
}

fn run(parts: &mut Parts<'_>) -> Result<()> {
    match parts.text() {
        "count" => {
            let what = parts.text();
            work::count(what, parts.number()?, parts.number()?)
        }
        "sum" => work::sum_of_disk(parts.number()?, parts.number()?),
        "sum-file" => work::sum_of_file(parts.text(), parts.text()),
        "write" => work::write(parts.number()?, parts.number()?, parts.number()?, true),
        "dirty" => work::write(parts.number()?, parts.number()?, parts.number()?, false),
        "discard" => block::discard(&work::disk(true)?, parts.number()?, parts.number()?),
        "zero" => block::zero_out(&work::disk(true)?, parts.number()?, parts.number()?),
        "readonly" => work::readonly(),
        "serial" => {
            let serial = std::fs::read_to_string("/sys/block/vda/serial");
            println!("SERIAL {}", serial.context("reading the serial number")?);
            Ok(())
        }
        "queues" => work::queues(parts.number()?),
        "stay" => {
            println!("STAYING");
            loop {
                std::thread::park();
            }
        }
        other => bail!("no word begins with {other:?}"),
    }
}
