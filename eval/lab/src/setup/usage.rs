//! What the cache takes, and what can go.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail};
use rustix::fs::{FlockOperation, flock};

use super::cache::{Cache, DONE, last_use};
use super::progress::Progress;

/// A directory of the cache and the space that it takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Usage {
    /// The directory.
    pub path: PathBuf,
    /// Its size on the disk, in bytes.
    pub bytes: u64,
}

/// Directories in which earlier versions of Postern had cargo build what is in a checkout: one
/// directory in them for each.
const OLD_BUILDS: [&str; 3] = ["target", "target-image", "target-kernel-object"];

/// Time after which a build of an earlier version that nobody has used is removed.
const OLD_BUILD: Duration = Duration::from_secs(7 * 24 * 3600);

/// Time after which a tree in which modules were built counts as unused.
const OLD_TREE: Duration = Duration::from_secs(24 * 3600);

/// The directories of the cache with their sizes, the largest first.
///
/// # Errors
///
/// The cache cannot be read.
pub fn usage(cache: &Cache) -> Result<Vec<Usage>> {
    let mut parts: Vec<Usage> = entries(&cache.path(""))?
        .into_iter()
        .map(measured)
        .collect();
    parts.sort_by_key(|part| std::cmp::Reverse(part.bytes));
    Ok(parts)
}

/// Removes builds that an earlier version of Postern made, and that nobody has used for a week.
pub fn remove_old_builds(cache: &Cache) {
    let all = OLD_BUILDS.iter().map(|name| cache.path(name));
    for build in all.flat_map(|directory| entries(&directory).unwrap_or_default()) {
        if is_unused(&build, OLD_BUILD) {
            // It only takes space.
            let _ = fs::remove_dir_all(build);
        }
    }
}

/// Removes all that the last run did not use: results made of older sources, builds of earlier
/// versions, trees in which modules were built, directories of machines that were kept, logs.
/// Returns what is gone.
///
/// # Errors
///
/// Something cannot be removed.
pub fn clean(cache: &Cache, progress: &Progress) -> Result<Vec<Usage>> {
    let mut removed = Vec::new();
    for step in entries(&cache.path(""))? {
        let name = step.file_name().unwrap_or_default().to_string_lossy();
        let results = entries(&step)?;
        if !results.iter().any(|result| result.join(DONE).exists()) {
            continue;
        }
        let family = name.split('-').next().unwrap_or_default();
        let _lock = cache.lock(progress, family)?;
        let last = results.iter().max_by_key(|result| last_use(result));
        for result in results.iter().filter(|result| Some(*result) != last) {
            removed.push(remove(result)?);
        }
    }
    for name in OLD_BUILDS.iter().chain(&["log"]) {
        let directory = cache.path(name);
        if directory.exists() {
            removed.push(remove(&directory)?);
        }
    }
    let trees = entries(&cache.path("kvm"))?.into_iter();
    for tree in trees.filter(|tree| tree.is_dir() && is_unused(tree, OLD_TREE)) {
        removed.push(remove(&tree)?);
    }
    let kept = entries(&cache.path("run"))?.into_iter();
    for machine in kept.filter(|path| path.extension().is_some()) {
        removed.push(remove(&machine)?);
    }
    Ok(removed)
}

/// Removes the whole cache. Returns what is gone.
///
/// # Errors
///
/// A machine runs, or something cannot be removed.
pub fn clean_all(cache: &Cache) -> Result<Vec<Usage>> {
    for machine in entries(&cache.path("run"))? {
        let lock = File::open(machine.join("lock"));
        if lock.is_ok_and(|lock| flock(lock, FlockOperation::NonBlockingLockExclusive).is_err()) {
            bail!(
                "a machine runs in {}; try again when it has ended",
                machine.display()
            );
        }
    }
    let entries = entries(&cache.path(""))?;
    entries.iter().map(|path| remove(path)).collect()
}

fn remove(path: &Path) -> Result<Usage> {
    let usage = measured(path.to_owned());
    let result = match path.is_dir() {
        true => fs::remove_dir_all(path),
        false => fs::remove_file(path),
    };
    result.with_context(|| format!("removing {}", path.display()))?;
    Ok(usage)
}

fn measured(path: PathBuf) -> Usage {
    let bytes = size(&path);
    Usage { path, bytes }
}

/// Size of a file, or of all files in a directory; of what vanishes meanwhile, nothing.
fn size(path: &Path) -> u64 {
    const BLOCK: u64 = 512;
    let Ok(data) = fs::symlink_metadata(path) else {
        return 0;
    };
    let inside = match data.is_dir() {
        true => entries(path).unwrap_or_default(),
        false => Vec::new(),
    };
    data.blocks() * BLOCK + inside.iter().map(|path| size(path)).sum::<u64>()
}

/// What is in a directory; nothing, if there is none.
fn entries(directory: &Path) -> Result<Vec<PathBuf>> {
    let read = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => return Ok(Vec::new()),
        other => other.with_context(|| format!("reading {}", directory.display()))?,
    };
    let mut entries: Vec<PathBuf> = read.flatten().map(|entry| entry.path()).collect();
    entries.sort();
    Ok(entries)
}

/// True if neither the directory, nor anything in it, nor in a directory of it, has changed for
/// this time.
fn is_unused(directory: &Path, time: Duration) -> bool {
    let changed = |path: &Path| -> SystemTime {
        let data = fs::symlink_metadata(path).and_then(|data| data.modified());
        // What vanishes is in use.
        data.unwrap_or_else(|_| SystemTime::now())
    };
    let inside = entries(directory).unwrap_or_default();
    let below = inside
        .iter()
        .flat_map(|path| entries(path).unwrap_or_default());
    let newest = inside.iter().cloned().chain(below);
    let newest = newest.map(|path| changed(&path)).max();
    let newest = newest
        .unwrap_or(SystemTime::UNIX_EPOCH)
        .max(changed(directory));
    newest.elapsed().is_ok_and(|unused| unused >= time)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(path: &Path, bytes: usize) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, vec![1; bytes]).unwrap();
    }

    fn age(path: &Path, by: Duration) {
        let file = File::open(path).unwrap();
        file.set_modified(SystemTime::now() - by).unwrap();
    }

    #[test]
    fn sizes_are_those_of_everything_inside() {
        let directory = tempfile::tempdir().unwrap();
        let cache = Cache::at(directory.path());
        write(&directory.path().join("small/a"), 1);
        write(&directory.path().join("large/a/b"), 1 << 20);
        let usage = usage(&cache).unwrap();
        assert_eq!(usage.len(), 2);
        assert!(usage[0].path.ends_with("large") && usage[0].bytes >= 1 << 20);
        assert!(usage[1].path.ends_with("small") && usage[1].bytes < 1 << 20);
    }

    #[test]
    fn old_builds_go_and_used_ones_stay() {
        let directory = tempfile::tempdir().unwrap();
        let cache = Cache::at(directory.path());
        let [used, unused] =
            ["used", "unused"].map(|name| directory.path().join("target").join(name));
        for build in [&used, &unused] {
            write(&build.join("release/x"), 1);
        }
        for path in ["release/x", "release", ""] {
            age(&unused.join(path), OLD_BUILD);
        }
        remove_old_builds(&cache);
        assert!(used.exists() && !unused.exists());
    }

    #[test]
    fn cleaning_leaves_the_last_result_of_each_step() {
        let directory = tempfile::tempdir().unwrap();
        let cache = Cache::at(directory.path());
        let path = |name: &str| directory.path().join(name);
        for name in [
            "linux/old/.done",
            "linux/new/.done",
            "linux/unfinished/x",
            "target/1/x",
        ] {
            write(&path(name), 1);
        }
        for name in ["download/x", "run/1-0.kept/x", "run/2-0/x", "kvm/build-1/x"] {
            write(&path(name), 1);
        }
        age(&path("linux/old/.done"), Duration::from_secs(60));
        let removed = clean(&cache, &Progress::silent()).unwrap();
        let gone = ["linux/old", "linux/unfinished", "target", "run/1-0.kept"];
        assert_eq!(
            removed.iter().map(|usage| &usage.path).collect::<Vec<_>>(),
            gone.map(path).iter().collect::<Vec<_>>()
        );
        assert!(gone.iter().all(|name| !path(name).exists()));
        for name in [
            "linux/new/.done",
            "download/x",
            "run/2-0/x",
            "kvm/build-1/x",
        ] {
            assert!(path(name).exists(), "{name}");
        }
        clean_all(&cache).unwrap();
        assert_eq!(entries(directory.path()).unwrap(), Vec::<PathBuf>::new());
    }

    #[test]
    fn the_cache_of_a_running_machine_stays() {
        let directory = tempfile::tempdir().unwrap();
        let cache = Cache::at(directory.path());
        let lock = directory.path().join("run/1-0/lock");
        write(&lock, 0);
        let running = File::open(&lock).unwrap();
        flock(&running, FlockOperation::NonBlockingLockExclusive).unwrap();
        assert!(clean_all(&cache).unwrap_err().to_string().contains("1-0"));
        assert!(lock.exists());
    }
}
