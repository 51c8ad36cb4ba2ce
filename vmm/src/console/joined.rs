//! Those who have joined a console: by a Unix socket, or as the user of its pseudo-terminal.
#![deny(unsafe_code)]

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::wake::Wake;

/// Bytes that wait for one who has joined, and bytes of history that one gets who joins.
const QUEUE: usize = 64 << 10;

/// Most that join one console.
const MAX_JOINED: usize = 16;

/// One who has joined.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) stream: MemberStream,
    queue: VecDeque<u8>,
    /// Whether input may still come.
    pub(super) reading: bool,
    /// Whether it is gone.
    pub(super) gone: bool,
}

/// How one has joined.
#[derive(Clone, Debug)]
pub(super) enum MemberStream {
    Socket(Arc<UnixStream>),
    /// The master, and the slave, which stays open so that the console outlives its users.
    Pty(Arc<(std::fs::File, OwnedFd)>),
}

impl AsFd for MemberStream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            MemberStream::Socket(stream) => stream.as_fd(),
            MemberStream::Pty(pty) => pty.0.as_fd(),
        }
    }
}

impl MemberStream {
    pub(super) fn read(&self, bytes: &mut [u8]) -> io::Result<usize> {
        match self {
            MemberStream::Socket(stream) => stream.as_ref().read(bytes),
            MemberStream::Pty(pty) => (&pty.0).read(bytes),
        }
    }

    fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            MemberStream::Socket(stream) => stream.as_ref().write(bytes),
            MemberStream::Pty(pty) => (&pty.0).write(bytes),
        }
    }

    pub(super) fn is_pty(&self) -> bool {
        matches!(self, MemberStream::Pty(_))
    }
}

impl Member {
    /// Whether something waits to be written.
    pub(super) fn has_output(&self) -> bool {
        !self.queue.is_empty()
    }

    /// Writes what the stream takes now.
    pub(super) fn write_queued(&mut self) {
        while !self.queue.is_empty() {
            let (front, _) = self.queue.as_slices();
            match self.stream.write(front) {
                Ok(count) => drop(self.queue.drain(..count)),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => {
                    self.gone = true;
                    self.queue.clear();
                }
            }
        }
    }
}

#[derive(Debug, Default)]
struct State {
    members: Vec<Member>,
    /// The last that the guest wrote, if anybody may want it.
    history: Option<VecDeque<u8>>,
}

impl State {
    fn add(&mut self, stream: MemberStream, queue: VecDeque<u8>) {
        self.members.push(Member {
            stream,
            queue,
            reading: true,
            gone: false,
        });
    }
}

/// Those who have joined a console; the vCPUs write, the console's thread does the rest.
#[derive(Clone, Debug)]
pub(super) struct Joined {
    state: Arc<Mutex<State>>,
    wake: Arc<Wake>,
}

impl Joined {
    pub(super) fn new(wake: Arc<Wake>) -> Joined {
        Joined {
            state: Arc::default(),
            wake,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Queues of bytes are sound wherever a panic was.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps what the guest writes for those who join later.
    pub(super) fn keep_history(&self) {
        self.state().history.get_or_insert_default();
    }

    pub(super) fn add_pty(&self, master: OwnedFd, slave: OwnedFd) {
        let stream = MemberStream::Pty(Arc::new((master.into(), slave)));
        self.state().add(stream, VecDeque::new());
    }

    pub(super) fn add_stream(&self, stream: UnixStream) -> io::Result<()> {
        stream.set_nonblocking(true)?;
        let mut state = self.state();
        if state.members.len() >= MAX_JOINED {
            let text = format!("{MAX_JOINED} have joined this console already");
            return Err(io::Error::other(text));
        }
        let history = state.history.clone().unwrap_or_default();
        state.add(MemberStream::Socket(Arc::new(stream)), history);
        self.wake.wake();
        Ok(())
    }

    /// Queues what the guest wrote; what does not fit is dropped, of the history the oldest.
    pub(super) fn write(&self, bytes: &[u8]) {
        let mut state = self.state();
        if let Some(history) = &mut state.history {
            history.extend(bytes);
            let excess = history.len().saturating_sub(QUEUE);
            history.drain(..excess);
        }
        let mut wake = false;
        for member in &mut state.members {
            wake |= member.queue.is_empty();
            let room = QUEUE.saturating_sub(member.queue.len());
            member.queue.extend(bytes.iter().take(room));
        }
        if wake {
            self.wake.wake();
        }
    }

    /// Does something with all who have joined.
    pub(super) fn with<R>(&self, act: impl FnOnce(&mut [Member]) -> R) -> R {
        act(&mut self.state().members)
    }

    /// Forgets those who have gone.
    pub(super) fn forget_gone(&self) {
        self.state().members.retain(|member| !member.gone);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn joined() -> Joined {
        Joined::new(Arc::new(Wake::new().unwrap()))
    }

    #[test]
    fn who_joins_gets_what_was_last_written() {
        let joined = joined();
        joined.keep_history();
        joined.write(&vec![b'x'; 2 * QUEUE]);
        joined.write(b"end");
        let (mut mine, theirs) = UnixStream::pair().unwrap();
        joined.add_stream(theirs).unwrap();
        joined.write(b" and more");
        // The queue was full of history: what did not fit is gone, and nobody has waited.
        let read = thread_reads(&mut mine, &joined);
        assert_eq!(read.len(), QUEUE);
        assert!(read.ends_with(b"xend"));
    }

    fn thread_reads(mine: &mut UnixStream, joined: &Joined) -> Vec<u8> {
        let mut read = Vec::new();
        let mut bytes = [0; 4096];
        mine.set_nonblocking(true).unwrap();
        loop {
            joined.with(|members| members.iter_mut().for_each(Member::write_queued));
            match mine.read(&mut bytes) {
                Ok(count) => read.extend_from_slice(&bytes[..count]),
                Err(_) => return read,
            }
        }
    }

    #[test]
    fn who_has_gone_is_forgotten() {
        let joined = joined();
        let (mine, theirs) = UnixStream::pair().unwrap();
        joined.add_stream(theirs).unwrap();
        drop(mine);
        joined.write(b"x");
        joined.with(|members| members.iter_mut().for_each(Member::write_queued));
        joined.forget_gone();
        assert_eq!(joined.with(|members| members.len()), 0);
    }

    #[test]
    fn not_everybody_can_join() {
        let joined = joined();
        let mut others = Vec::new();
        for number in 0..=MAX_JOINED {
            let (mine, theirs) = UnixStream::pair().unwrap();
            assert_eq!(joined.add_stream(theirs).is_ok(), number < MAX_JOINED);
            others.push(mine);
        }
    }
}
