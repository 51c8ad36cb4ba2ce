//! The run directory: what of this user's runs now, and by which sockets it is asked.
//!
//! ```text
//!   $XDG_RUNTIME_DIR/postern, or /run/postern, or /tmp/postern-UID      mode 0700
//!     NAME/            a topology, or a VM with a name
//!       lock           locked (flock(2)) by its process for as long as that lives
//!       info.json      an Info
//!       nic...         the sockets of its NICs
//!       VM.vm          the control socket of each VM
//! ```
//!
//! What is not locked was left by a process that was killed, and is removed by whoever sees it.
#![deny(unsafe_code)]

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, anyhow, bail};
use rustix::fs::{FlockOperation, OFlags, flock};
use serde::{Deserialize, Serialize};

/// Name of the file that is locked in a place.
const LOCK: &str = "lock";

/// What is known of something that runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Info {
    /// Its process.
    pub pid: u32,
    /// When it was started, in seconds since 1970.
    pub started: u64,
    /// The topology's file.
    pub file: Option<PathBuf>,
    /// Its NICs.
    pub nics: Vec<NicInfo>,
    /// Its VMs.
    pub vms: Vec<VmInfo>,
}

/// A NIC of a topology.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NicInfo {
    /// Its name, if it has one.
    pub name: Option<String>,
    /// Where it listens.
    pub socket: PathBuf,
    /// The program of its views.
    pub image: Option<PathBuf>,
}

/// A VM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmInfo {
    /// Its name.
    pub name: String,
    /// Number of its vCPUs.
    pub vcpus: usize,
    /// Its memory, in bytes.
    pub memory: u64,
    /// Its port: the NIC's name if it has one, number and path.
    pub port: Option<(Option<String>, u32, String)>,
    /// The socket of its port's NIC, where that is no NIC of the topology.
    #[serde(default)]
    pub nic: Option<PathBuf>,
}

/// Something that runs, as others see it.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Its name.
    pub name: String,
    /// What is known of it.
    pub info: Info,
    directory: PathBuf,
}

impl Entry {
    /// One that nobody runs.
    #[cfg(test)]
    pub fn sample(name: &str, vms: &[&str], file: Option<PathBuf>) -> Entry {
        let vm = |name: &&str| VmInfo {
            name: (*name).to_owned(),
            vcpus: 1,
            memory: 1 << 20,
            port: None,
            nic: None,
        };
        let info = Info {
            pid: 1,
            started: 0,
            file,
            nics: Vec::new(),
            vms: vms.iter().map(vm).collect(),
        };
        Entry {
            name: name.to_owned(),
            info,
            directory: PathBuf::from(name),
        }
    }

    /// The control socket of a VM.
    pub fn control(&self, vm: &str) -> PathBuf {
        self.directory.join(control_name(vm))
    }
}

fn control_name(vm: &str) -> String {
    format!("{vm}.vm")
}

/// Why a name cannot be had.
pub fn runs_already(name: &str) -> String {
    format!("{name} runs already: end it (postern down {name}), or choose another name")
}

/// The place of this process in the run directory; removed when this is dropped.
#[derive(Debug)]
pub struct Place {
    name: String,
    directory: PathBuf,
    base: PathBuf,
    _lock: File,
}

/// The run directory of this user.
fn base_path() -> PathBuf {
    let user = rustix::process::geteuid();
    match std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from) {
        Some(directory) if directory.is_absolute() && directory.is_dir() => {
            return directory.join("postern");
        }
        _ => {}
    }
    if user.is_root() && Path::new("/run").is_dir() {
        return PathBuf::from("/run/postern");
    }
    std::env::temp_dir().join(format!("postern-{}", user.as_raw()))
}

/// The run directory, made if it is not there, and locked until the file is closed.
fn lock_base() -> anyhow::Result<(PathBuf, File)> {
    let base = base_path();
    let locked = lock_directory(&base)?;
    Ok((base, locked))
}

/// Makes the run directory, if it is not there, and locks it until the file is closed. Others may be
/// able to write where it lies: what they put in its place is neither followed nor waited for.
fn lock_directory(base: &Path) -> anyhow::Result<File> {
    let shown = base.display();
    let foreign = || {
        anyhow!(
            "the run directory {shown} is not this user's alone: remove it, or name another place by \
             XDG_RUNTIME_DIR"
        )
    };
    for _ in 0..100 {
        match DirBuilder::new().mode(0o700).create(base) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(error)
                    .with_context(|| format!("cannot make the run directory {shown}"));
            }
            _ => {}
        }
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW;
        let mut options = File::options();
        let options = options.read(true).custom_flags(flags.bits() as i32);
        let opened = match options.open(base) {
            // Its last user has just removed it.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENOTDIR | libc::ELOOP)) => {
                return Err(foreign());
            }
            opened => opened.with_context(|| format!("cannot open the run directory {shown}"))?,
        };
        let own = opened
            .metadata()
            .with_context(|| format!("cannot look at the run directory {shown}"))?;
        // Before it is locked: whose directory it is may keep it locked for ever.
        if own.uid() != rustix::process::geteuid().as_raw() || own.mode() & 0o077 != 0 {
            return Err(foreign());
        }
        flock(&opened, FlockOperation::LockExclusive)
            .with_context(|| format!("cannot lock the run directory {shown}"))?;
        match fs::symlink_metadata(base) {
            Ok(found) if (found.dev(), found.ino()) == (own.dev(), own.ino()) => {
                return Ok(opened);
            }
            _ => {}
        }
    }
    bail!("the run directory {shown} comes and goes")
}

/// Whether a process holds a place; if not, it is removed. The run directory is locked.
fn is_live(directory: &Path) -> bool {
    let locked = match File::open(directory.join(LOCK)) {
        Ok(lock) => flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err(),
        Err(_) => false,
    };
    if !locked {
        // If it cannot be removed now, the next who looks tries again.
        let _ = fs::remove_dir_all(directory);
    }
    locked
}

impl Place {
    /// Takes a place of that name; if it need not be that one, one like it.
    pub fn take(name: &str, exactly: bool) -> anyhow::Result<Place> {
        let (base, _locked) = lock_base()?;
        for number in 1.. {
            let name = match number {
                1 => name.to_owned(),
                number => format!("{name}-{number}"),
            };
            let directory = base.join(&name);
            if directory.exists() && is_live(&directory) {
                if exactly {
                    bail!(runs_already(&name));
                }
                continue;
            }
            let made = DirBuilder::new().mode(0o700).create(&directory);
            made.with_context(|| format!("cannot make {}", directory.display()))?;
            let lock = File::create_new(directory.join(LOCK));
            let lock = lock.with_context(|| format!("cannot lock {}", directory.display()))?;
            flock(&lock, FlockOperation::NonBlockingLockExclusive)
                .with_context(|| format!("cannot lock {}", directory.display()))?;
            return Ok(Place {
                name,
                directory,
                base,
                _lock: lock,
            });
        }
        unreachable!("a number is free")
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its directory, and that of all.
    pub fn directories(&self) -> [&Path; 2] {
        [&self.directory, &self.base]
    }

    /// A name for a socket of a NIC.
    pub fn nic(&self, name: Option<&str>) -> PathBuf {
        match name {
            Some(name) => self.directory.join(format!("{name}.nic")),
            None => self.directory.join("nic"),
        }
    }

    /// The name of a VM's control socket.
    pub fn control(&self, vm: &str) -> PathBuf {
        self.directory.join(control_name(vm))
    }

    /// Tells others.
    pub fn publish(
        &self,
        file: Option<PathBuf>,
        nics: Vec<NicInfo>,
        vms: Vec<VmInfo>,
    ) -> anyhow::Result<()> {
        let started = SystemTime::now().duration_since(UNIX_EPOCH);
        let info = Info {
            pid: std::process::id(),
            started: started.map_or(0, |since| since.as_secs()),
            file,
            nics,
            vms,
        };
        let new = self.directory.join("info.new");
        let text = serde_json::to_vec(&info).context("cannot describe what runs")?;
        fs::write(&new, text)
            .and_then(|()| fs::rename(&new, self.directory.join("info.json")))
            .with_context(|| format!("cannot write to {}", self.directory.display()))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        remove(&self.directory, &self.base);
    }
}

/// The file that is locked in a place, by which [`remove_own`] knows the place.
pub fn open_lock(place: &Path) -> io::Result<File> {
    File::open(place.join(LOCK))
}

/// Removes a place from the run directory, if it is still the one with that file, and not of one who
/// has taken the name since.
pub fn remove_own(place: &Path, base: &Path, lock: impl AsFd) {
    let _locked = lock_directory(base);
    let there = fs::symlink_metadata(place.join(LOCK));
    // An inode has one number as long as somebody has it open.
    if let (Ok(there), Ok(own)) = (there, rustix::fs::fstat(lock))
        && (there.dev(), there.ino()) == (own.st_dev, own.st_ino)
    {
        remove_locked(place, base);
    }
}

/// Removes a place from the run directory, which goes with its last one.
fn remove(place: &Path, base: &Path) {
    let _locked = lock_directory(base);
    remove_locked(place, base);
}

fn remove_locked(place: &Path, base: &Path) {
    // Whoever looks next removes what cannot be removed now.
    let _ = fs::remove_dir_all(place);
    // The last one takes the directory with it.
    let _ = fs::remove_dir(base);
}

/// All that runs, by name. What killed processes left is removed.
pub fn entries() -> anyhow::Result<Vec<Entry>> {
    let base = base_path();
    if !base.exists() {
        return Ok(Vec::new());
    }
    let (base, _locked) = lock_base()?;
    let shown = base.display();
    let mut found = Vec::new();
    for entry in fs::read_dir(&base).with_context(|| format!("cannot read {shown}"))? {
        let entry = entry.with_context(|| format!("cannot read {shown}"))?;
        let directory = entry.path();
        if !is_live(&directory) {
            continue;
        }
        // It may be about to be published.
        let info = fs::read(directory.join("info.json"));
        if let (Ok(info), Ok(name)) = (info, entry.file_name().into_string())
            && let Ok(info) = serde_json::from_slice(&info)
        {
            found.push(Entry {
                name,
                info,
                directory,
            });
        }
    }
    found.sort_by(|one, other| one.name.cmp(&other.name));
    // If nothing was live, the directory goes, too.
    let _ = fs::remove_dir(&base);
    Ok(found)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failure is a failed test")]

    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::sync::mpsc;
    use std::thread;
    use std::time::Duration;

    use super::*;

    /// What locking that directory comes to, which must be soon.
    fn locked(base: &Path) -> Result<File, String> {
        let (done, end) = mpsc::channel();
        let base = base.to_owned();
        thread::spawn(move || {
            let locked = lock_directory(&base).map_err(|error| format!("{error:#}"));
            let _ = done.send(locked);
        });
        end.recv_timeout(Duration::from_secs(10))
            .expect("it is waited for")
    }

    #[test]
    fn what_others_put_in_place_of_the_run_directory_is_refused_at_once() {
        let directory = tempfile::tempdir().unwrap();
        let (own, base) = (directory.path().join("own"), directory.path().join("base"));
        let lock = locked(&own).unwrap();
        drop(lock);
        let refused = |base: &Path| {
            let error = locked(base).unwrap_err();
            assert!(error.contains("not this user's alone"), "{error}");
        };
        symlink(&own, &base).unwrap();
        refused(&base);
        fs::remove_file(&base).unwrap();
        let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
        rustix::fs::mknodat(rustix::fs::CWD, &base, rustix::fs::FileType::Fifo, mode, 0).unwrap();
        refused(&base);
        fs::remove_file(&base).unwrap();
        fs::create_dir(&base).unwrap();
        fs::set_permissions(&base, fs::Permissions::from_mode(0o755)).unwrap();
        let other = File::open(&base).unwrap();
        flock(&other, FlockOperation::LockExclusive).unwrap();
        refused(&base);
    }

    #[test]
    fn a_place_that_another_has_taken_stays() {
        let directory = tempfile::tempdir().unwrap();
        let base = directory.path().join("base");
        drop(lock_directory(&base).unwrap());
        let place = base.join("vm");
        let take = || {
            fs::create_dir(&place).unwrap();
            File::create_new(place.join(LOCK)).unwrap();
            open_lock(&place).unwrap()
        };
        // The process was killed, and another came before what it left was removed.
        let former = take();
        fs::remove_dir_all(&place).unwrap();
        let present = take();
        remove_own(&place, &base, &former);
        assert!(place.exists());
        remove_own(&place, &base, &present);
        assert!(!place.exists() && !base.exists());
    }
}
