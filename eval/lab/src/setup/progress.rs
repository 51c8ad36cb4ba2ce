//! What the user sees while things are made: a moving line on a terminal, plain lines elsewhere.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use indicatif::{ProgressBar, ProgressStyle};

use crate::interrupt;

/// Way of showing progress.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// A line that moves.
    Terminal,
    /// A line when something begins, each half minute, and when it is done.
    Plain,
    /// Nothing.
    Silent,
}

/// Interval of plain lines which say that work goes on.
pub const REMINDER: Duration = Duration::from_secs(30);

/// Time that quick work may take before it is mentioned.
const PATIENCE: Duration = Duration::from_secs(2);

impl Progress {
    /// The way that suits standard error.
    pub fn new() -> Self {
        if io::stderr().is_terminal() {
            Self::Terminal
        } else {
            Self::Plain
        }
    }

    /// Shows nothing.
    pub fn silent() -> Self {
        Self::Silent
    }

    /// Says something once.
    pub fn say(self, text: &str) {
        if self != Self::Silent {
            eprintln!("postern: {text}");
        }
    }

    /// Begins a piece of work, whose programs' output goes to `log`.
    ///
    /// # Errors
    ///
    /// A log that cannot be written.
    pub fn task(self, title: &str, log: &Path) -> Result<Task> {
        if self == Self::Plain {
            eprintln!("postern: {title} ...");
        }
        self.begin(title, log, REMINDER)
    }

    /// Begins a piece of work that is mostly done already: it is not mentioned unless it takes a
    /// while.
    ///
    /// # Errors
    ///
    /// A log that cannot be written.
    pub fn quick_task(self, title: &str, log: &Path) -> Result<Task> {
        self.begin(title, log, PATIENCE)
    }

    /// Has cargo build something, and checks that it has: it is mentioned only if it takes a while, as
    /// checked until cargo compiles something, and then also when it is done.
    ///
    /// # Errors
    ///
    /// As [`Task::run`], and a log that cannot be written.
    pub fn build(self, what: &str, log: &Path, command: &mut Command) -> Result<()> {
        let mut task = self.quick_task(&format!("checking {what}"), log)?;
        task.compiled = Some(format!("building {what}"));
        task.run(command)?;
        match task.is_told() {
            true => task.done(),
            false => task.clear(),
        }
        Ok(())
    }

    /// Begins a piece of work that is mentioned after a time for the first time, or again.
    fn begin(self, title: &str, log: &Path, first: Duration) -> Result<Task> {
        let fail = || format!("cannot write the log {}", log.display());
        if let Some(directory) = log.parent() {
            fs::create_dir_all(directory).with_context(fail)?;
        }
        let file = File::create(log).with_context(fail)?;
        let bar = match self {
            Self::Terminal => {
                let style = ProgressStyle::with_template(
                    "{spinner} {prefix} {elapsed:.dim} {wide_msg:.dim}",
                );
                let bar = ProgressBar::new_spinner()
                    .with_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()))
                    .with_prefix(title.to_owned());
                bar.enable_steady_tick(Duration::from_millis(120));
                Some(bar)
            }
            Self::Plain | Self::Silent => None,
        };
        let title = Arc::new(Mutex::new(title.to_owned()));
        Ok(Task {
            progress: self,
            title: Arc::clone(&title),
            log: log.to_owned(),
            file,
            bar,
            start: Instant::now(),
            compiled: None,
            reminder: (self == Self::Plain).then(|| Reminder::of(title, first)),
        })
    }
}

impl Default for Progress {
    fn default() -> Self {
        Self::new()
    }
}

/// A piece of work that takes a while.
#[derive(Debug)]
pub struct Task {
    progress: Progress,
    title: Arc<Mutex<String>>,
    log: PathBuf,
    file: File,
    bar: Option<ProgressBar>,
    start: Instant,
    /// Title from the moment on at which cargo compiles something.
    compiled: Option<String>,
    reminder: Option<Reminder>,
}

/// Plain lines which say that work goes on, until it is dropped.
#[derive(Debug)]
pub struct Reminder {
    #[allow(dead_code, reason = "the thread ends when it is closed")]
    work: mpsc::Sender<()>,
    told: Arc<AtomicBool>,
}

impl Reminder {
    /// Mentions the work after a time for the first time, and from then on each half minute.
    pub fn new(title: &str, first: Duration) -> Self {
        Self::of(Arc::new(Mutex::new(title.to_owned())), first)
    }

    /// The same of work whose title changes.
    fn of(title: Arc<Mutex<String>>, first: Duration) -> Self {
        let (work, dropped) = mpsc::channel();
        let told = Arc::new(AtomicBool::new(false));
        let tell = Arc::clone(&told);
        thread::spawn(move || {
            let start = Instant::now();
            let mut wait = first;
            while dropped.recv_timeout(wait) == Err(RecvTimeoutError::Timeout) {
                tell.store(true, Ordering::Relaxed);
                let title = text(&title);
                eprintln!("postern: {title} ... {}", seconds(start.elapsed()));
                wait = REMINDER;
            }
        });
        Self { work, told }
    }
}

impl Task {
    /// Whether its reminder has mentioned it.
    fn is_told(&self) -> bool {
        let reminder = self.reminder.as_ref();
        reminder.is_some_and(|reminder| reminder.told.load(Ordering::Relaxed))
    }

    /// Shows what is going on.
    pub fn show_line(&self, text: &str) {
        if let Some(title) = &self.compiled
            && text.trim_start().starts_with("Compiling ")
        {
            *self.title.lock().unwrap_or_else(PoisonError::into_inner) = title.clone();
            if let Some(bar) = &self.bar {
                bar.set_prefix(title.clone());
            }
        }
        if let Some(bar) = &self.bar {
            bar.set_message(text.trim().to_owned());
        }
    }

    /// Runs a program to its end; what it prints goes to the log and, its last line, to the user.
    ///
    /// # Errors
    ///
    /// A sentence that names the program and the log, with the last lines of that.
    pub fn run(&self, command: &mut Command) -> Result<()> {
        const LINES: usize = 12;
        let name = name_of(command);
        let (status, output) = self.capture(command.stdin(Stdio::null()))?;
        if status.success() {
            return Ok(());
        }
        self.clear();
        let lines: Vec<&str> = output.lines().collect();
        let last = &lines[lines.len().saturating_sub(LINES)..];
        let (title, log) = (text(&self.title), self.log.display());
        if let Some(reason) = reason(last) {
            bail!("{title} failed because {reason}; the log is {log}");
        }
        let last: String = last.iter().map(|line| format!("    {line}\n")).collect();
        bail!("{title} failed: {name} ended with {status}; its log is {log}, and ends:\n{last}")
    }

    /// Runs a program to its end, as [`run`](Self::run) does but with the command's own standard
    /// input, and returns how it ended and what it printed, in order.
    ///
    /// # Errors
    ///
    /// A program that cannot be run, and Ctrl-C.
    pub fn capture(&self, command: &mut Command) -> Result<(ExitStatus, String)> {
        interrupt::check()?;
        let name = name_of(command);
        writeln!(&self.file, "+ {command:?}").context("writing the log")?;
        let (reader, writer) = io::pipe().context("making a pipe")?;
        let child = command
            .stdout(writer.try_clone().context("making a pipe")?)
            .stderr(writer)
            .spawn()
            .with_context(|| format!("{}: cannot run {name}", text(&self.title)));
        // The command keeps the pipe's writing end open, and with it the loop below running.
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = child?;
        let result = interrupt::watch(&mut child, |child| -> Result<_> {
            let output = self.copy_output(reader)?;
            let status = child.wait();
            Ok((
                status.with_context(|| format!("waiting for {name}"))?,
                output,
            ))
        })?;
        interrupt::check()?;
        Ok(result)
    }

    /// Copies what a program prints to the log, shows it, and returns it.
    fn copy_output(&self, reader: io::PipeReader) -> Result<String> {
        let mut output = String::new();
        for line in BufReader::new(reader).split(b'\n') {
            let line = line.context("reading a program's output")?;
            let line = String::from_utf8_lossy(&line);
            writeln!(&self.file, "{line}").context("writing the log")?;
            self.show_line(&line);
            output += &line;
            output.push('\n');
        }
        Ok(output)
    }

    /// Says that it is done.
    pub fn done(self) {
        self.clear();
        if self.progress != Progress::Silent {
            eprintln!(
                "postern: {}: done in {}",
                text(&self.title),
                seconds(self.start.elapsed())
            );
        }
    }

    /// Takes the moving line away.
    pub fn clear(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        self.clear();
    }
}

/// A title as it is now.
fn text(title: &Mutex<String>) -> String {
    title.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

/// Name of a command's program, without its directory.
fn name_of(command: &Command) -> String {
    let name = Path::new(command.get_program()).file_name();
    name.unwrap_or_default().to_string_lossy().into_owned()
}

/// Reason of a program's failure and what helps, where its last lines tell.
fn reason(lines: &[&str]) -> Option<&'static str> {
    const REASONS: [(&str, &str); 6] = [
        (
            "No space left on device",
            "the disk is full: make room, or set POSTERN_CACHE to a directory on another disk",
        ),
        ("Temporary failure resolving", NO_NETWORK),
        ("Could not resolve", NO_NETWORK),
        ("Could not connect", NO_NETWORK),
        (
            "404  Not Found",
            "the mirror has no such file: set POSTERN_MIRROR to another mirror",
        ),
        (
            "Hash Sum mismatch",
            "a file from the network is not what it should be: set POSTERN_MIRROR to another \
             mirror",
        ),
    ];
    let says = |text: &str| lines.iter().any(|line| line.contains(text));
    REASONS
        .iter()
        .find(|(text, _)| says(text))
        .map(|(_, reason)| *reason)
}

const NO_NETWORK: &str = "there is no way to the network, which is needed once: try again with \
                          one, or set POSTERN_MIRROR to a mirror of Debian within reach";

fn seconds(time: Duration) -> String {
    match time.as_secs() {
        s @ 0..60 => format!("{s} s"),
        s => format!("{} min {:02} s", s / 60, s % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(script: &str) -> (Result<()>, String) {
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path().join("x.log");
        let task = Progress::silent().task("a thing", &log).unwrap();
        let result = task.run(Command::new("sh").args(["-c", script]));
        (result, fs::read_to_string(&log).unwrap())
    }

    #[test]
    fn what_a_program_prints_is_logged() {
        let (result, log) = run("echo out; echo err >&2");
        result.unwrap();
        assert!(log.contains("out\n") && log.contains("err\n"));
    }

    #[test]
    fn what_cargo_does_not_compile_is_checked() {
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path().join("x.log");
        let failed = |script: &str| {
            let mut command = Command::new("sh");
            let built = Progress::silent().build("a, b", &log, command.args(["-c", script]));
            built.unwrap_err().to_string()
        };
        assert!(failed("echo '   Fresh a'; exit 1").starts_with("checking a, b failed"));
        assert!(failed("echo '   Compiling a'; exit 1").starts_with("building a, b failed"));
    }

    #[test]
    fn a_failure_names_the_program_and_shows_its_last_words() {
        let error = run("echo some words; exit 3").0.unwrap_err().to_string();
        assert!(
            error.starts_with("a thing failed: sh ended with exit status: 3; its log is "),
            "{error}"
        );
        assert!(error.ends_with("    some words\n"), "{error}");
        let error = run("echo 'x: No space left on device'; exit 1")
            .0
            .unwrap_err()
            .to_string();
        assert!(
            error.starts_with("a thing failed because the disk is full"),
            "{error}"
        );
    }
}
