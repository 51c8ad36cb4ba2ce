//! The control socket of a running VM: who may connect asks for its state, its statistics, or its
//! console, by one word in a line.
//!
//! | line | answer |
//! | --- | --- |
//! | `stat` | one line of JSON, a [`VmReport`]; then the connection ends |
//! | `console` | the line `ok`; from then on the connection is the console, in both directions |
//!
//! Anything else is answered by a line that begins with `error: `. The socket has mode 0600: it is
//! for the user of the VMM alone.
#![deny(unsafe_code)]

use std::io::{self, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use postern_confine::Kind;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::bells::BellCounts;
use crate::console::{self, Joiner, is_hidden};
use crate::kvm_stats::{self, KvmStats};
use crate::pci::Bell;

/// What a VM tells of itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct VmReport {
    /// Process of the VMM.
    pub pid: u32,
    /// Seconds since the VM was started.
    pub uptime: u64,
    /// KVM's statistics of the VM (`KVM_GET_STATS_FD`), by KVM's names.
    pub vm: Map<String, Value>,
    /// Those of each vCPU.
    pub vcpus: Vec<Map<String, Value>>,
    /// What the bells of its port of the NIC have rung, if that has a doorbell.
    #[serde(default)]
    pub bells: Option<BellCounts>,
}

/// KVM's statistics of a VM that runs.
#[derive(Debug)]
pub struct LiveStats {
    vm: KvmStats,
    vcpus: Vec<KvmStats>,
    bell: Option<Arc<Bell>>,
}

impl LiveStats {
    pub(crate) fn new(vm: KvmStats, vcpus: Vec<KvmStats>, bell: Option<Arc<Bell>>) -> LiveStats {
        LiveStats { vm, vcpus, bell }
    }

    /// What the VM tells of itself.
    ///
    /// # Errors
    ///
    /// When KVM's files cannot be read.
    fn report(&self, started: Instant) -> Result<VmReport, kvm_stats::Error> {
        let named = |stats: &KvmStats| {
            let mut words = vec![0; stats.layout().words()];
            stats.snapshot(&mut words)?;
            Ok(stats.layout().named(&words))
        };
        Ok(VmReport {
            pid: std::process::id(),
            uptime: started.elapsed().as_secs(),
            vm: named(&self.vm)?,
            vcpus: self.vcpus.iter().map(named).collect::<Result<_, _>>()?,
            bells: self.bell.as_ref().map(|bell| bell.counters().read()),
        })
    }
}

/// How long a client has to say what it wants, and to take the answer.
const CLIENT_TIMEOUT: Duration = Duration::from_secs(2);

/// Longest line of a client.
const MAX_LINE: u64 = 64;

/// The control socket of a VM; removed when this is dropped.
#[derive(Debug)]
pub struct ControlSocket {
    path: PathBuf,
    listener: UnixListener,
}

/// Removes the socket.
#[derive(Debug)]
pub struct ControlGuard(PathBuf);

impl Drop for ControlGuard {
    fn drop(&mut self) {
        // Somebody may have removed it.
        let _ = std::fs::remove_file(&self.0);
    }
}

impl ControlSocket {
    /// Listens there.
    ///
    /// # Errors
    ///
    /// When the socket cannot be made, or another process listens there.
    pub fn open(path: &Path) -> Result<ControlSocket, console::Error> {
        let listener = console::listen(path)?;
        Ok(ControlSocket {
            path: path.to_owned(),
            listener,
        })
    }

    /// Answers on a thread of its own until the process ends; the socket goes with the guard.
    ///
    /// # Errors
    ///
    /// When no thread can be started.
    pub fn serve(self, stats: LiveStats, joiner: Joiner) -> io::Result<ControlGuard> {
        let ControlSocket { path, listener } = self;
        listener.set_nonblocking(false)?;
        let started = Instant::now();
        let run = move || {
            for client in listener.incoming().flatten() {
                // A client that goes, or asks for nothing, is its own affair.
                let _ = answer(client, &stats, started, &joiner);
            }
        };
        postern_confine::spawn(Kind::Control, "control", run)?;
        Ok(ControlGuard(path))
    }
}

fn answer(
    mut client: UnixStream,
    stats: &LiveStats,
    started: Instant,
    joiner: &Joiner,
) -> io::Result<()> {
    client.set_read_timeout(Some(CLIENT_TIMEOUT))?;
    client.set_write_timeout(Some(CLIENT_TIMEOUT))?;
    // Byte by byte: what follows the line is the console's.
    let mut line = Vec::new();
    let mut byte = [0];
    while byte != *b"\n" && line.len() < MAX_LINE as usize {
        client.read_exact(&mut byte)?;
        line.extend(byte);
    }
    match line.trim_ascii() {
        b"stat" => {
            let text = match stats.report(started) {
                Ok(report) => serde_json::to_string(&report)?,
                Err(error) => format!("error: {error}"),
            };
            client.write_all(format!("{text}\n").as_bytes())
        }
        b"console" => {
            client.write_all(b"ok\n")?;
            client.set_read_timeout(None)?;
            client.set_write_timeout(None)?;
            joiner.join(client)
        }
        _ => client.write_all(b"error: there are stat and console\n"),
    }
}

/// Why a VM does not tell.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// Nobody answers.
    #[error("the VM's control socket {} does not answer", socket.display())]
    Socket {
        /// The socket.
        socket: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The VM refuses.
    #[error("the VM at {} says: {answer}", socket.display())]
    Refused {
        /// The socket.
        socket: PathBuf,
        /// Its answer.
        answer: String,
    },
}

/// How long all of an answer may take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// Longest answer in bytes: what 254 vCPUs have to tell, several times.
const MAX_ANSWER: usize = 16 << 20;

/// Most characters of an answer that are shown to people.
const MAX_SHOWN: usize = 200;

/// What people are shown of an answer. A VMM that its guest has taken over may answer anything.
fn shown(answer: &str) -> String {
    let visible = answer.chars().filter(|&c| !is_hidden(c));
    visible.take(MAX_SHOWN).collect()
}

/// The line that a VM answers, without its end; `at_once` bytes are taken at once at most, so that with
/// 1 nothing is taken of what follows the line.
fn read_line(mut stream: &UnixStream, at_once: usize) -> io::Result<String> {
    let until = Instant::now() + ANSWER_TIMEOUT;
    let (mut line, mut part) = (Vec::new(), vec![0; at_once]);
    while !line.ends_with(b"\n") {
        if Instant::now() > until {
            return Err(io::ErrorKind::TimedOut.into());
        }
        match stream.read(&mut part) {
            Ok(0) => break,
            Ok(count) => line.extend_from_slice(&part[..count]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
        if line.len() > MAX_ANSWER {
            return Err(io::Error::other("its answer does not end"));
        }
    }
    let line = String::from_utf8(line).map_err(|_| io::ErrorKind::InvalidData)?;
    Ok(line.trim_end().to_owned())
}

fn ask(socket: &Path, word: &str, at_once: usize) -> Result<(UnixStream, String), AskError> {
    let failed = |source| AskError::Socket {
        socket: socket.to_owned(),
        source,
    };
    let mut stream = UnixStream::connect(socket).map_err(failed)?;
    stream
        .set_read_timeout(Some(CLIENT_TIMEOUT))
        .map_err(failed)?;
    stream
        .write_all(format!("{word}\n").as_bytes())
        .map_err(failed)?;
    let answer = read_line(&stream, at_once).map_err(failed)?;
    match answer.is_empty() || answer.starts_with("error: ") {
        false => Ok((stream, answer)),
        true => Err(AskError::Refused {
            socket: socket.to_owned(),
            answer: shown(&answer),
        }),
    }
}

impl VmReport {
    /// Forgets what no statistic of KVM's is called: names are shown to people.
    fn without_strange_names(mut self) -> VmReport {
        let known = |name: &str| {
            let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
            name.len() <= kvm_stats::MAX_NAME as usize && name.bytes().all(plain)
        };
        for map in self.vcpus.iter_mut().chain([&mut self.vm]) {
            map.retain(|name, _| known(name));
        }
        self
    }
}

/// What the VM behind a control socket tells of itself.
///
/// # Errors
///
/// When nobody answers there.
pub fn report(socket: &Path) -> Result<VmReport, AskError> {
    let (_, answer) = ask(socket, "stat", 64 << 10)?;
    serde_json::from_str(&answer)
        .map(VmReport::without_strange_names)
        .map_err(|_| AskError::Refused {
            socket: socket.to_owned(),
            answer: shown(&answer),
        })
}

/// The console of the VM behind a control socket.
///
/// # Errors
///
/// When nobody answers there.
pub fn console(socket: &Path) -> Result<UnixStream, AskError> {
    let (stream, _) = ask(socket, "console", 1)?;
    let unlimited = stream.set_read_timeout(None);
    unlimited.map_err(|source| AskError::Socket {
        socket: socket.to_owned(),
        source,
    })?;
    Ok(stream)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a VMM is taken to say that answers with the parts, again and again if `endless`.
    fn asked(answer: &'static [u8], endless: bool) -> Result<VmReport, String> {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("vm");
        let listener = UnixListener::bind(&socket).unwrap();
        let vmm = std::thread::spawn(move || {
            let (mut client, _) = listener.accept().unwrap();
            client.read_exact(&mut [0; 5]).unwrap();
            while client.write_all(answer).is_ok() && endless {}
        });
        let told = report(&socket).map_err(|error| match &error {
            AskError::Socket { source, .. } => format!("{error}: {source}"),
            AskError::Refused { .. } => error.to_string(),
        });
        vmm.join().unwrap();
        told
    }

    #[test]
    fn an_answer_writes_nothing_to_terminals_but_text() {
        for answer in [
            &b"error: \x1b]0;title\x07\xc2\x9b2J text\n"[..],
            // U+202E turns the direction of writing.
            b"error: \xe2\x80\xae text\n",
            b"{\x1b[2J text\n",
        ] {
            let error = asked(answer, false).unwrap_err();
            assert!(error.contains("text"), "{error:?}");
            assert!(!error.contains(is_hidden), "{error:?}");
        }
        let long = [b"error: ".as_slice(), &[b'x'; 10_000], b"\n"].concat();
        let error = asked(Box::leak(long.into()), false).unwrap_err();
        assert!(error.len() < 1000, "{error}");
        let names =
            br#"{"pid":1,"uptime":2,"vm":{"\u001b[2J":1},"vcpus":[{"exits":3,"a\nb_exits":4}]}"#;
        let line = [names.as_slice(), b"\n"].concat();
        let report = asked(Box::leak(line.into()), false).unwrap();
        assert!(report.vm.is_empty());
        assert_eq!(report.vcpus[0].keys().collect::<Vec<_>>(), ["exits"]);
    }

    #[test]
    fn an_answer_without_an_end_is_given_up() {
        let error = asked(&[b'x'; 4096], true).unwrap_err();
        assert!(error.contains("does not end"), "{error}");
    }
}
