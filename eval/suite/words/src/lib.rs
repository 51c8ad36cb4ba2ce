//! Programs of tests that do what the words of their command lines say, one after another. A word has
//! parts between colons, of which the first says what to do.
//!
//! Each word ends with a line, `DONE WORD` or `FAILED WORD: REASON`; the first that fails is the last.
//! As the first process of a Linux guest, such a program gets the words of the kernel's command line
//! behind `--`, finds devices, `/proc` and `/sys`, and switches off at the end.
#![forbid(unsafe_code)]

use std::process::ExitCode;
use std::str::{FromStr, Split};
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::mount::{MountFlags, mount};
use rustix::system::{RebootCommand, reboot};

/// The parts of a word that are left.
#[derive(Debug)]
pub struct Parts<'a>(Split<'a, char>);

impl<'a> Parts<'a> {
    /// All parts of a word.
    pub fn of(word: &'a str) -> Parts<'a> {
        Parts(word.split(':'))
    }

    /// The next part; empty if there is none.
    pub fn text(&mut self) -> &'a str {
        self.0.next().unwrap_or_default()
    }

    /// The next part, which is a number.
    ///
    /// # Errors
    ///
    /// It is none.
    pub fn number<T>(&mut self) -> Result<T>
    where
        T: FromStr,
        T::Err: std::error::Error + Send + Sync + 'static,
    {
        let text = self.text();
        text.parse()
            .with_context(|| format!("{text:?} is no number"))
    }
}

/// Has `run` do each word of this program's command line; the program's status.
pub fn run_all(run: impl Fn(&mut Parts<'_>) -> Result<()>) -> ExitCode {
    let first = std::process::id() == 1;
    let mut code = ExitCode::SUCCESS;
    if let (true, Err(error)) = (first, mount_all()) {
        println!("FAILED to begin: {error:#}");
        code = ExitCode::FAILURE;
    } else {
        for word in std::env::args().skip(1) {
            match run(&mut Parts::of(&word)) {
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
        // Where it fails, the kernel panics as this process ends.
        let _ = reboot(RebootCommand::PowerOff);
    }
    code
}

/// Makes the file systems in which devices and the kernel are found.
fn mount_all() -> Result<()> {
    for (kind, place) in [("devtmpfs", "/dev"), ("proc", "/proc"), ("sysfs", "/sys")] {
        std::fs::create_dir_all(place).with_context(|| format!("making {place}"))?;
        mount(kind, place, kind, MountFlags::empty(), None)
            .with_context(|| format!("mounting {place}"))?;
    }
    Ok(())
}

/// Prints a line `MARK WHAT`. The host counts between marks. Nothing runs near them: what prints a mark,
/// and whoever sees it in the host, is done when the next thing begins, and so is what was begun before.
pub fn mark(what: &str) {
    let pause = || std::thread::sleep(Duration::from_millis(100));
    pause();
    println!("MARK {what}");
    pause();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_has_parts() {
        let mut parts = Parts::of("send:eth0:64:x");
        assert_eq!((parts.text(), parts.text()), ("send", "eth0"));
        assert_eq!(parts.number::<u64>().unwrap_or_default(), 64);
        let error = parts.number::<u64>().map_err(|error| format!("{error:#}"));
        assert!(error.is_err_and(|text| text.starts_with("\"x\" is no number")));
        assert_eq!(parts.text(), "");
        assert!(parts.number::<usize>().is_err());
    }
}
