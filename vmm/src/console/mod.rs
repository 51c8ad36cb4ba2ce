//! The serial console of a VM: where what the guest writes goes, and where its input comes from.
//!
//! ```text
//!   vCPU threads              thread `console`
//!   Serial --> Writer --> file, pipe, terminal          (Stream: waits, but for no VM that ends)
//!                    \--> queues --> Unix sockets, pty  (Joined: never waits, drops)
//!   Serial <------------------------ terminal (by Escape), file, pipe, sockets, pty
//! ```
//!
//! What a guest writes to a file, a pipe or a terminal is lost nowhere: while it cannot be written,
//! the vCPU that writes waits. A VM that is to end waits no more. Who joins by a socket, or opens the
//! pseudo-terminal, never makes the guest wait: what does not fit into the queue is dropped.
//!
//! Input waits until the guest takes it: until its driver has raised RTS or asked for interrupts
//! of received bytes, so that nothing is lost that is in a pipe before the guest has booted.

mod destination;
mod escape;
mod joined;
mod pump;
mod stream;
mod terminal;
mod wake;

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use rustix::io::Errno;

use crate::socket_path;

pub use destination::Destination;
pub use escape::{Action, Escape};
pub use pump::Pump;
pub use stream::{Stream, Writer, create_output};
pub use terminal::{Terminal, TerminalHandle, is_hidden, restore_terminal};
pub use wake::Wake;

use joined::Joined;
use pump::Input;

/// Why there is no console.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be made.
    #[error("cannot create {} for the VM's console", file.display())]
    Create {
        /// The file.
        file: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// There is nowhere to make it.
    #[error(
        "cannot create {} for the VM's console: there is no directory {}",
        file.display(), directory.display()
    )]
    NoDirectory {
        /// The file or socket.
        file: PathBuf,
        /// The directory.
        directory: PathBuf,
    },
    /// The socket cannot be made.
    #[error("cannot listen at {} for the VM's console", socket.display())]
    Listen {
        /// The socket.
        socket: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// Another process listens there, or it is no socket.
    #[error(
        "the console's socket {} is there already: a VM listens there, or it is another file; choose \
         another name",
        .0.display()
    )]
    InUse(PathBuf),
    /// The socket's name does not fit.
    #[error(transparent)]
    SocketPath(#[from] socket_path::SocketPathError),
    /// A descriptor of the console cannot be made.
    #[error("cannot {what} for the VM's console")]
    System {
        /// The operation that failed.
        what: &'static str,
        /// The system's error.
        source: io::Error,
    },
}

fn system(what: &'static str) -> impl FnOnce(io::Error) -> Error {
    move |source| Error::System { what, source }
}

/// A VM's console that is open, but that no guest uses yet.
#[derive(Debug)]
pub struct Console {
    stream: Option<File>,
    input: Option<Input>,
    joined: Joined,
    listener: Option<UnixListener>,
    wake: Arc<Wake>,
    notice: Option<String>,
}

impl Console {
    /// Opens a console there. Files and sockets are made now. Who calls it removes a socket's name
    /// in the end.
    ///
    /// # Errors
    ///
    /// When the file, the socket or the pseudo-terminal cannot be made.
    pub fn open(destination: &Destination) -> Result<Console, Error> {
        let wake = Arc::new(Wake::new().map_err(system("make an event descriptor"))?);
        let mut console = Console {
            stream: None,
            input: None,
            joined: Joined::new(Arc::clone(&wake)),
            listener: None,
            wake,
            notice: None,
        };
        match destination {
            Destination::Null => {}
            Destination::Stdio => {
                let duplicate = |fd| rustix::io::fcntl_dupfd_cloexec(fd, 3);
                let out = duplicate(rustix::stdio::stdout())
                    .map_err(|error| system("duplicate standard output")(error.into()))?;
                console.stream = Some(File::from(out));
                // Standard input may be closed: then there is no input.
                console.input =
                    duplicate(rustix::stdio::stdin()).ok().map(
                        |input| match rustix::termios::isatty(&input) {
                            true => Input::Terminal(input),
                            false => Input::Stream(input),
                        },
                    );
            }
            Destination::File(file) => {
                check_directory(file)?;
                let opened = create_output(file).map_err(|source| Error::Create {
                    file: file.clone(),
                    source,
                })?;
                console.stream = Some(opened);
            }
            Destination::Pty => {
                let (master, slave, name) =
                    open_pty().map_err(|error| system("make a pseudo-terminal")(error.into()))?;
                console.joined.add_pty(master, slave);
                console.notice = Some(format!("the console is {name}"));
            }
            Destination::Unix(socket) => {
                console.listener = Some(listen(socket)?);
                console.joined.keep_history();
                console.notice = Some(format!(
                    "the console is joined by: postern console {}",
                    socket.display()
                ));
            }
        }
        Ok(console)
    }

    /// Lets others join, besides what the console goes to: see [`Joiner`].
    pub fn joiner(&mut self) -> Joiner {
        self.joined.keep_history();
        Joiner(self.joined.clone())
    }

    /// Whether input comes from a terminal, so that [`Terminal`] and [`Escape`] are of use.
    pub fn on_terminal(&self) -> bool {
        matches!(self.input, Some(Input::Terminal(_)))
    }

    /// What people need to know of it, where the system chose a name.
    pub fn notice(&self) -> Option<&str> {
        self.notice.as_deref()
    }

    /// Takes it apart: what writes, what reads, and the event that says that the guest takes input.
    /// `stopped` is set when the VM is to end.
    pub fn split(self, stopped: Arc<AtomicBool>) -> (Writer, Pump, Arc<Wake>) {
        let stream = self
            .stream
            .map(|file| Stream::new(file, Arc::clone(&stopped)));
        let writer = Writer::new(stream, self.joined.clone());
        let pump = Pump::new(
            self.input,
            self.joined,
            self.listener,
            Arc::clone(&self.wake),
        );
        (writer, pump, self.wake)
    }
}

/// Lets others join a console while the VM runs.
#[derive(Clone, Debug)]
pub struct Joiner(Joined);

impl Joiner {
    /// The stream gets the last of what the guest wrote, then what it writes; what the stream sends
    /// is the guest's input.
    ///
    /// # Errors
    ///
    /// When the stream cannot be made non-blocking, or too many have joined.
    pub fn join(&self, stream: UnixStream) -> io::Result<()> {
        self.0.add_stream(stream)
    }
}

/// A pseudo-terminal in raw mode: else what the guest writes would be echoed to it as input.
fn open_pty() -> rustix::io::Result<(OwnedFd, OwnedFd, String)> {
    use rustix::fs::{Mode, OFlags, fchmod, fcntl_getfl, fcntl_setfl};
    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    grantpt(&master)?;
    unlockpt(&master)?;
    let flags = fcntl_getfl(&master)?;
    fcntl_setfl(&master, flags | OFlags::NONBLOCK)?;
    let name = ptsname(&master, Vec::new())?;
    let name = name.to_string_lossy().into_owned();
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let slave = rustix::fs::open(name.as_str(), flags, Mode::empty())?;
    // What is written to it is the guest's input. Elsewhere the group `tty` may write to terminals.
    fchmod(&slave, Mode::RUSR | Mode::WUSR)?;
    let mut attributes = rustix::termios::tcgetattr(&slave)?;
    attributes.make_raw();
    rustix::termios::tcsetattr(&slave, rustix::termios::OptionalActions::Now, &attributes)?;
    Ok((master, slave, name))
}

/// Refuses a file or socket where there is no directory for it.
fn check_directory(file: &std::path::Path) -> Result<(), Error> {
    match socket_path::missing_directory(file) {
        None => Ok(()),
        Some(directory) => Err(Error::NoDirectory {
            file: file.to_owned(),
            directory: directory.to_owned(),
        }),
    }
}

/// Listens at a socket that only this user can join. A socket that a VM left when it was killed is
/// replaced.
pub(crate) fn listen(socket: &std::path::Path) -> Result<UnixListener, Error> {
    socket_path::check(socket)?;
    check_directory(socket)?;
    let failed = |source| Error::Listen {
        socket: socket.to_owned(),
        source,
    };
    let stale = match UnixStream::connect(socket) {
        Ok(_) => return Err(Error::InUse(socket.to_owned())),
        Err(error) => error.kind() == io::ErrorKind::ConnectionRefused,
    };
    if stale {
        use std::os::unix::fs::FileTypeExt;
        let kind = std::fs::symlink_metadata(socket)
            .map_err(failed)?
            .file_type();
        if !kind.is_socket() {
            return Err(Error::InUse(socket.to_owned()));
        }
        std::fs::remove_file(socket).map_err(failed)?;
    }
    bind_private(socket).map_err(|errno| match errno {
        Errno::ADDRINUSE => Error::InUse(socket.to_owned()),
        _ => failed(errno.into()),
    })
}

/// A socket of mode 0600 that listens there and does not wait.
fn bind_private(socket: &std::path::Path) -> Result<UnixListener, Errno> {
    use rustix::fs::{Mode, fchmod};
    use rustix::net::{
        AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen, socket_with,
    };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let listener = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    // The name gets the mode of the socket (unix_bind() in net/unix/af_unix.c), so that there is no
    // moment at which others can connect.
    fchmod(&listener, Mode::RUSR | Mode::WUSR)?;
    bind(&listener, &SocketAddrUnix::new(socket)?)?;
    listen(&listener, 128)?;
    Ok(listener.into())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::sync::atomic::Ordering;

    use super::*;

    #[test]
    fn a_directory_that_is_missing_is_named() {
        for text in ["/nosuch/x", "unix:/nosuch/x"] {
            let destination: Destination = text.parse().unwrap();
            let error = Console::open(&destination).unwrap_err().to_string();
            let told =
                "cannot create /nosuch/x for the VM's console: there is no directory /nosuch";
            assert_eq!(error, told);
        }
    }

    #[test]
    fn a_pseudo_terminal_is_the_users_alone() {
        let console = Console::open(&Destination::Pty).unwrap();
        let name = console.notice().unwrap().rsplit(' ').next().unwrap();
        let mode = std::fs::metadata(name).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn nobody_else_can_connect_at_any_moment() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("socket");
        let (path, done) = (socket.clone(), Arc::new(AtomicBool::new(false)));
        let until = Arc::clone(&done);
        let looks = std::thread::spawn(move || {
            let mut seen = std::collections::BTreeSet::new();
            while !until.load(Ordering::Relaxed) {
                seen.extend(
                    path.metadata()
                        .map(|file| file.permissions().mode() & 0o777),
                );
            }
            seen
        });
        for _ in 0..1000 {
            let _listener = listen(&socket).unwrap();
        }
        done.store(true, Ordering::Relaxed);
        let seen = looks.join().unwrap();
        assert!(seen.iter().all(|mode| *mode == 0o600), "{seen:?}");
    }
}
