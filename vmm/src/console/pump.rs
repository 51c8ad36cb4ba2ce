//! The console's thread: brings input to the guest, and what it wrote to those who have joined.
#![deny(unsafe_code)]

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::escape::{Action, Escape};
use super::joined::{Joined, Member, MemberStream};
use super::terminal;
use super::wake::Wake;
use crate::devices::{Serial, Shared};

/// Most bytes of input that wait for the guest. Of a terminal more is dropped, as a terminal does;
/// other sources wait.
const MAX_PENDING: usize = 4096;

/// How soon the serial port is asked again, while a vCPU waits for its output.
const BUSY: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 20_000_000,
};

/// How soon a terminal is looked at again whose foreground is another job.
const BACKGROUND: Timespec = Timespec {
    tv_sec: 1,
    tv_nsec: 0,
};

/// Where input comes from, besides those that join.
#[derive(Debug)]
pub(super) enum Input {
    /// The terminal: with an escape key.
    Terminal(OwnedFd),
    /// A pipe or a file, to its end.
    Stream(OwnedFd),
}

/// The source of input that is there from the start.
#[derive(Debug)]
enum Source {
    None,
    Terminal(File, Escape),
    Stream(File),
}

/// What the console's thread works with.
#[derive(Debug)]
pub struct Pump {
    source: Source,
    joined: Joined,
    listener: Option<UnixListener>,
    wake: Arc<Wake>,
    pending: Vec<u8>,
}

/// What is polled.
enum Polled {
    Wake,
    Source,
    Listener,
    Member(usize),
}

impl Pump {
    pub(super) fn new(
        input: Option<Input>,
        joined: Joined,
        listener: Option<UnixListener>,
        wake: Arc<Wake>,
    ) -> Pump {
        let source = match input {
            None => Source::None,
            Some(Input::Terminal(fd)) => Source::Terminal(fd.into(), Escape::default()),
            Some(Input::Stream(fd)) => Source::Stream(fd.into()),
        };
        Pump {
            source,
            joined,
            listener,
            wake,
            pending: Vec::new(),
        }
    }

    /// Works until `stopped` is set and the event of [`Console::split`](super::Console::split) is
    /// written. `act` is told what a user asks for by the escape key.
    pub fn run(
        mut self,
        serial: &Shared<Serial>,
        stopped: &AtomicBool,
        mut act: impl FnMut(Action),
    ) {
        while !stopped.load(Ordering::Relaxed) {
            let busy = !self.feed(serial);
            if let Err(error) = self.turn(busy, &mut act)
                && error.kind() != io::ErrorKind::Interrupted
            {
                // Without poll(2) there is no input; the guest goes on.
                return;
            }
        }
        // What the guest wrote last.
        self.joined
            .with(|members| members.iter_mut().for_each(Member::write_queued));
    }

    /// Gives the guest what it takes; false if the port is in use by a vCPU.
    fn feed(&mut self, serial: &Shared<Serial>) -> bool {
        while !self.pending.is_empty() {
            match serial.try_with(|serial| serial.feed(&self.pending)) {
                None => return false,
                Some(0) => return true,
                Some(taken) => drop(self.pending.drain(..taken)),
            }
        }
        true
    }

    /// Waits for something to do, and does it.
    fn turn(&mut self, busy: bool, act: &mut impl FnMut(Action)) -> io::Result<()> {
        let room = self.pending.len() < MAX_PENDING;
        let members: Vec<(MemberStream, PollFlags)> = self.joined.with(|members| {
            let flags = |member: &Member| {
                let mut flags = PollFlags::empty();
                flags.set(PollFlags::IN, room && member.reading);
                flags.set(PollFlags::OUT, member.has_output());
                flags
            };
            let each = members.iter();
            each.map(|member| (member.stream.clone(), flags(member)))
                .collect()
        });
        let mut timeout = busy.then_some(BUSY);
        let mut polled = vec![Polled::Wake];
        let mut fds = vec![PollFd::new(self.wake.as_ref(), PollFlags::IN)];
        match &self.source {
            Source::Terminal(file, _) if terminal::in_foreground(file) => {
                polled.push(Polled::Source);
                fds.push(PollFd::new(file, PollFlags::IN));
            }
            Source::Terminal(..) => timeout = timeout.or(Some(BACKGROUND)),
            Source::Stream(file) if room => {
                polled.push(Polled::Source);
                fds.push(PollFd::new(file, PollFlags::IN));
            }
            Source::Stream(_) | Source::None => {}
        }
        if let Some(listener) = &self.listener {
            polled.push(Polled::Listener);
            fds.push(PollFd::new(listener, PollFlags::IN));
        }
        for (index, (stream, flags)) in members.iter().enumerate() {
            polled.push(Polled::Member(index));
            fds.push(PollFd::from_borrowed_fd(stream.as_fd(), *flags));
        }
        poll(&mut fds, timeout.as_ref())?;
        let ready: Vec<(Polled, PollFlags)> = polled
            .into_iter()
            .zip(fds.iter().map(PollFd::revents))
            .filter(|(_, flags)| !flags.is_empty())
            .collect();
        drop(fds);
        for (what, flags) in ready {
            match what {
                Polled::Wake => self.wake.clear(),
                Polled::Source => self.read_source(act),
                Polled::Listener => self.accept(),
                Polled::Member(index) => self.serve(index, flags),
            }
        }
        self.joined.forget_gone();
        Ok(())
    }

    fn read_source(&mut self, act: &mut impl FnMut(Action)) {
        let mut bytes = [0; 1024];
        let ended = match &mut self.source {
            Source::None => return,
            Source::Terminal(file, escape) => match file.read(&mut bytes) {
                Ok(count) if count > 0 => {
                    let pending = &mut self.pending;
                    let actions = escape.filter(&bytes[..count], |key| {
                        if pending.len() < MAX_PENDING {
                            pending.push(key);
                        }
                    });
                    actions.into_iter().for_each(act);
                    false
                }
                Ok(_) => true,
                Err(error) => is_final(&error) && terminal::in_foreground(file),
            },
            Source::Stream(file) => match file.read(&mut bytes) {
                Ok(count) => {
                    self.pending.extend_from_slice(&bytes[..count]);
                    count == 0
                }
                Err(error) => is_final(&error),
            },
        };
        if ended {
            self.source = Source::None;
        }
    }

    fn accept(&self) {
        if let Some(listener) = &self.listener
            && let Ok((stream, _)) = listener.accept()
        {
            // Where too many have joined, closing the stream tells this one.
            let _ = self.joined.add_stream(stream);
        }
    }

    /// Reads from and writes to one who has joined. Members are only added at the end, and only this
    /// thread forgets them, when it has served all.
    fn serve(&mut self, index: usize, flags: PollFlags) {
        let pending = &mut self.pending;
        self.joined.with(|members| {
            let Some(member) = members.get_mut(index) else {
                return;
            };
            if flags.contains(PollFlags::OUT) {
                member.write_queued();
            }
            if flags.contains(PollFlags::IN) {
                let mut bytes = [0; 1024];
                match member.stream.read(&mut bytes) {
                    Ok(0) => member.reading = false,
                    Ok(count) => pending.extend_from_slice(&bytes[..count]),
                    Err(error) => member.gone |= is_final(&error) && !member.stream.is_pty(),
                }
            } else if flags.intersects(PollFlags::HUP | PollFlags::ERR) {
                // A pseudo-terminal hangs up only when its slave is closed, which is ours.
                member.gone = true;
            }
        });
    }
}

/// Whether no input will come after this error.
fn is_final(error: &io::Error) -> bool {
    !matches!(
        error.kind(),
        io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock
    )
}
