//! The cache: the directory where everything that is built outlives a checkout.
//!
//! ```text
//!   $POSTERN_CACHE, $XDG_CACHE_HOME/postern or ~/.cache/postern
//!     locks/FAMILY         held while a step of the family is made: all steps whose names begin so
//!     download/            files from the network, checked
//!     log/STEP.log         what a step's programs printed last
//!     STEP/KEY/            what a step made of inputs with this key; `.done` says that it is whole
//!     kvm/                 trees in which kernel-patches/build.sh builds modules
//!     traffic/             what the demo captured
//!     apt/                 package lists of Debian's releases
//!     run/                 directories of machines that run
//! ```
//!
//! What is built of a checkout by cargo is in the checkout's own target directory, and goes with it.
//!
//! Whatever is written here by several runs at once is written under a lock, or under a name of its
//! own.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, bail};
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use sha2::{Digest, Sha256};

use super::progress::{Progress, Task};
use crate::interrupt;

/// The cache's directory.
#[derive(Clone, Debug)]
pub struct Cache(PathBuf);

/// The lock of a family, or of a checkout's target directory: released when it is dropped.
#[derive(Debug)]
pub struct CacheLock(#[allow(dead_code, reason = "it is unlocked when it is closed")] File);

/// File in a step's directory which says that the directory is whole.
pub(super) const DONE: &str = ".done";

/// Results of a step that stay in any case: those of the present and of the last state of the
/// sources.
const KEPT: usize = 2;

/// Time after which further results, which no run has used, are removed.
const UNUSED: Duration = Duration::from_secs(24 * 3600);

/// Time that a run waits for another one before it says so.
const QUIET_WAIT: Duration = Duration::from_secs(2);

impl Cache {
    /// Finds the cache, and makes it if there is none.
    ///
    /// # Errors
    ///
    /// A sentence that names the directory.
    pub fn open() -> Result<Self> {
        let from = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
        let path = if let Some(path) = from("POSTERN_CACHE") {
            PathBuf::from(path)
        } else if let Some(path) = from("XDG_CACHE_HOME") {
            PathBuf::from(path).join("postern")
        } else if let Some(path) = from("HOME") {
            PathBuf::from(path).join(".cache/postern")
        } else {
            bail!("no directory for the cache: set POSTERN_CACHE to one")
        };
        let path = std::path::absolute(&path).context("finding the cache")?;
        fs::create_dir_all(&path).with_context(|| {
            format!(
                "cannot make the cache {}; set POSTERN_CACHE to another directory",
                path.display()
            )
        })?;
        Ok(Self(path))
    }

    /// The cache in this directory.
    #[cfg(test)]
    pub(super) fn at(directory: &Path) -> Self {
        Self(directory.to_owned())
    }

    /// The path of a file or directory in the cache.
    pub fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Waits until no other run builds in this target directory of cargo. Cargo has a lock of its
    /// own, but lets go of it before its results are copied.
    ///
    /// # Errors
    ///
    /// A sentence that names the lock.
    pub fn lock_target(&self, progress: &Progress, target: &Path) -> Result<CacheLock> {
        wait_for_lock(progress, &target.join("postern/lock"), "programs")
    }

    /// Waits until no other run makes anything of this family.
    ///
    /// # Errors
    ///
    /// A sentence that names the lock.
    pub fn lock(&self, progress: &Progress, family: &str) -> Result<CacheLock> {
        wait_for_lock(progress, &self.path("locks").join(family), family)
    }

    /// The directory of a step's result, made by `build` unless it exists already. `build` may find
    /// what an interrupted run left there, and goes on from it.
    ///
    /// # Errors
    ///
    /// Those of `build`, and too little space.
    pub fn step(
        &self,
        progress: &Progress,
        step: &Step<'_>,
        build: impl FnOnce(&Path, &Task) -> Result<()>,
    ) -> Result<PathBuf> {
        let all = self.path(step.name);
        let directory = all.join(step.key.finish());
        if is_done(&directory) {
            return Ok(directory);
        }
        let family = step.name.split('-').next().unwrap_or(step.name);
        let _lock = self.lock(progress, family)?;
        // Another run may have made it meanwhile.
        if is_done(&directory) {
            return Ok(directory);
        }
        fs::create_dir_all(&directory)
            .with_context(|| format!("cannot make {}", directory.display()))?;
        self.check_space(step)?;
        let log = self.path("log").join(format!("{}.log", step.name));
        let title = match step.about {
            "" => step.title.to_owned(),
            about => format!("{} ({about})", step.title),
        };
        let task = progress.task(&title, &log)?;
        build(&directory, &task)?;
        fs::write(directory.join(DONE), "").context("marking a result as whole")?;
        task.done();
        remove_old(&all, UNUSED);
        Ok(directory)
    }

    fn check_space(&self, step: &Step<'_>) -> Result<()> {
        let stat = rustix::fs::statvfs(&self.0).context("asking for the space of the cache")?;
        let free_mb = stat.f_bavail * stat.f_frsize / (1 << 20);
        if free_mb < step.megabytes {
            bail!(
                "{} needs {} MB in {}, and {free_mb} MB are free; make room, or set POSTERN_CACHE \
                 to a directory on another disk",
                step.title,
                step.megabytes,
                self.0.display()
            );
        }
        Ok(())
    }
}

/// Waits until this file is locked. The family of what the lock is for is for people.
fn wait_for_lock(progress: &Progress, path: &Path, family: &str) -> Result<CacheLock> {
    let fail = || format!("cannot lock {}; may it be written?", path.display());
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory).with_context(fail)?;
    }
    let file = File::options()
        .create(true)
        .append(true)
        .open(path)
        .with_context(fail)?;
    let start = Instant::now();
    let mut said = false;
    loop {
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => break,
            Err(Errno::WOULDBLOCK | Errno::INTR) => {}
            // A file system without locks, for example: nobody will let go of it.
            Err(errno) => return Err(io::Error::from(errno)).with_context(fail),
        }
        interrupt::check()?;
        if !said && start.elapsed() > QUIET_WAIT {
            said = true;
            progress.say(&format!(
                "waiting for another run that makes {family} in the same place"
            ));
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(CacheLock(file))
}

/// Something to be made once. Steps whose names begin with the same word are made one at a time.
#[derive(Debug)]
pub struct Step<'a> {
    /// Name of its directory.
    pub name: &'a str,
    /// For people.
    pub title: &'a str,
    /// Time that it takes, roughly, on two processors: for people, or nothing if it is short.
    pub about: &'a str,
    /// Key of what it is made of.
    pub key: Key,
    /// Space that it takes, in MiB.
    pub megabytes: u64,
}

/// Stands for all inputs of a step.
#[derive(Clone, Debug, Default)]
pub struct Key(Sha256);

impl Key {
    /// No inputs yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds bytes.
    pub fn bytes(mut self, bytes: &[u8]) -> Self {
        self.0.update((bytes.len() as u64).to_le_bytes());
        self.0.update(bytes);
        self
    }

    /// Adds files, by name and content; of directories all that is in them.
    ///
    /// # Errors
    ///
    /// A file that cannot be read.
    pub fn files(mut self, paths: &[PathBuf]) -> Result<Self> {
        for path in paths {
            self = self.bytes(path.file_name().unwrap_or_default().as_encoded_bytes());
            if path.is_dir() {
                let mut entries: Vec<PathBuf> = fs::read_dir(path)
                    .and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect())
                    .with_context(|| format!("reading {}", path.display()))?;
                entries.sort();
                self = self.files(&entries)?;
            } else {
                let content =
                    fs::read(path).with_context(|| format!("reading {}", path.display()))?;
                self = self.bytes(&content);
            }
        }
        Ok(self)
    }

    /// Adds which file it is, rather than what is in it: for large ones that change seldom.
    ///
    /// # Errors
    ///
    /// A file that does not exist.
    pub fn identity(self, path: &Path) -> Result<Self> {
        use std::os::unix::fs::MetadataExt;
        let data = fs::metadata(path).with_context(|| format!("reading {}", path.display()))?;
        Ok(self.bytes(format!("{} {} {}", path.display(), data.size(), data.mtime()).as_bytes()))
    }

    /// The key as text: the name of a directory in the cache.
    pub fn finish(&self) -> String {
        hex(&self.0.clone().finalize()[..8])
    }
}

/// Bytes in hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Checks that a result is whole, and if so counts it as used.
fn is_done(directory: &Path) -> bool {
    let Ok(marker) = File::options().append(true).open(directory.join(DONE)) else {
        return false;
    };
    // If its time cannot be set, it may be removed earlier than it should.
    let _ = marker.set_modified(SystemTime::now());
    true
}

/// Time when a result was used last. One that was never finished is the oldest.
pub(super) fn last_use(directory: &Path) -> SystemTime {
    let marker = fs::metadata(directory.join(DONE)).and_then(|data| data.modified());
    marker.unwrap_or(SystemTime::UNIX_EPOCH)
}

/// Removes results that were not used for a time, except for the last ones.
fn remove_old(all: &Path, unused: Duration) {
    let mut results: Vec<(SystemTime, PathBuf)> = fs::read_dir(all)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| (last_use(&entry.path()), entry.path()))
        .collect();
    results.sort();
    let count = results.len().saturating_sub(KEPT);
    for (used, path) in results.drain(..count) {
        if used.elapsed().is_ok_and(|time| time >= unused) {
            // It only takes space.
            let _ = fs::remove_dir_all(path);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn keys_differ_by_content_name_and_order() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str, content: &str| {
            let path = directory.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, content).unwrap();
            path
        };
        let (a, b) = (path("d/a", "1"), path("d/b", "2"));
        let key = |paths: &[PathBuf]| Key::new().files(paths).unwrap().finish();
        let all = [directory.path().join("d")];
        let before = key(&all);
        assert_eq!(before, key(&all));
        assert_ne!(key(&[a.clone(), b.clone()]), key(&[b, a.clone()]));
        fs::write(&a, "3").unwrap();
        assert_ne!(before, key(&all));
    }

    #[test]
    fn a_step_runs_once_and_again_after_a_failure() {
        let directory = tempfile::tempdir().unwrap();
        let cache = Cache::at(directory.path());
        let progress = Progress::silent();
        let step = |content: &[u8]| Step {
            name: "thing",
            title: "a thing",
            about: "",
            key: Key::new().bytes(content),
            megabytes: 0,
        };
        assert!(
            cache
                .step(&progress, &step(b"1"), |_, _| bail!("no"))
                .is_err()
        );
        let mut runs = 0;
        for _ in 0..2 {
            let build = |path: &Path, _: &Task| {
                runs += 1;
                Ok(fs::write(path.join("result"), "x")?)
            };
            let path = cache.step(&progress, &step(b"1"), build).unwrap();
            assert!(path.join("result").exists());
        }
        assert_eq!(runs, 1);
        for content in [b"2", b"3"] {
            cache
                .step(&progress, &step(content), |_, _| Ok(()))
                .unwrap();
        }
        let all = directory.path().join("thing");
        assert_eq!(fs::read_dir(&all).unwrap().count(), 3);
        remove_old(&all, Duration::ZERO);
        assert_eq!(fs::read_dir(&all).unwrap().count(), KEPT);
        assert!(is_done(&all.join(step(b"3").key.finish())));
    }

    /// Several runs of `cargo lab` from one checkout: each has opened the lock for itself.
    #[test]
    fn a_step_that_many_want_at_once_is_made_once() {
        let directory = tempfile::tempdir().unwrap();
        let cache = Cache::at(directory.path());
        let runs = AtomicUsize::new(0);
        let run = || {
            let step = Step {
                name: "thing",
                title: "a thing",
                about: "",
                key: Key::new(),
                megabytes: 0,
            };
            let build = |path: &Path, task: &Task| {
                runs.fetch_add(1, Ordering::Relaxed);
                // Fails where somebody else is at it.
                let script = "set -C; : > new && sleep 0.3 && mv new result";
                task.run(Command::new("sh").args(["-c", script]).current_dir(path))
            };
            let path = cache.step(&Progress::silent(), &step, build).unwrap();
            assert!(path.join("result").exists());
        };
        std::thread::scope(|scope| (0..8).for_each(|_| drop(scope.spawn(run))));
        assert_eq!(runs.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn one_run_at_a_time_builds_in_a_checkout() {
        let directory = tempfile::tempdir().unwrap();
        let cache = Cache::at(directory.path());
        let (one, other) = (directory.path().join("one"), directory.path().join("other"));
        let inside = AtomicUsize::new(0);
        let run = || {
            let _lock = cache.lock_target(&Progress::silent(), &one).unwrap();
            assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
            std::thread::sleep(Duration::from_millis(20));
            inside.fetch_sub(1, Ordering::SeqCst);
        };
        std::thread::scope(|scope| (0..8).for_each(|_| drop(scope.spawn(run))));
        let _lock = cache.lock_target(&Progress::silent(), &one).unwrap();
        drop(cache.lock_target(&Progress::silent(), &other).unwrap());
    }

    #[test]
    fn a_full_disk_is_told_before_it_is_full() {
        let directory = tempfile::tempdir().unwrap();
        let cache = Cache::at(directory.path());
        let step = Step {
            name: "x",
            title: "the kernel",
            about: "",
            key: Key::new(),
            megabytes: 1 << 40,
        };
        let error = cache
            .step(&Progress::silent(), &step, |_, _| Ok(()))
            .unwrap_err();
        assert!(error.to_string().contains("POSTERN_CACHE"), "{error}");
    }
}
