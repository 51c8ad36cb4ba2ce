//! What is done to the disk.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use postern_words::mark;
use rustix::fs::OFlags;
use rustix::mount::{MountFlags, mount};
use rustix::thread::{CpuSet, sched_setaffinity};
use sha2::{Digest, Sha256};

/// The disk.
const DISK: &str = "/dev/vda";
/// Most bytes of a read.
const MAX_SIZE: usize = 1 << 17;

/// Memory for reads around the page cache.
#[repr(align(4096))]
struct Buffer([u8; MAX_SIZE]);

impl Buffer {
    fn new() -> Box<Buffer> {
        Box::new(Buffer([0; MAX_SIZE]))
    }
}

/// Opens the disk around the page cache.
pub fn disk(write: bool) -> Result<File> {
    open(write).with_context(|| format!("opening {DISK}"))
}

fn open(write: bool) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(write)
        .custom_flags(OFlags::DIRECT.bits() as i32)
        .open(DISK)
}

/// Reads between two marks.
pub fn count(what: &str, size: u64, reads: u64) -> Result<()> {
    let mut disk = disk(false)?;
    let blocks = disk.seek(SeekFrom::End(0)).context("asking for the size")? / size.max(1);
    let mut buffer = Buffer::new();
    let buffer = buffer.0.get_mut(..size as usize);
    let buffer = buffer.with_context(|| format!("no read has {size} bytes"))?;
    ensure!(blocks > 0, "the disk is smaller than a read");
    mark(&format!("{what} begin"));
    // A generator whose numbers look random (Knuth's MMIX).
    let mut state: u64 = 1;
    for number in 0..reads {
        let block = match what {
            "none" => break,
            "sequential" => number,
            "random" => {
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1_442_695_040_888_963_407);
                state >> 32
            }
            other => bail!("no kind of reads is called {other:?}"),
        };
        let offset = block % blocks * size;
        disk.read_exact_at(buffer, offset)
            .with_context(|| format!("reading at {offset}"))?;
    }
    mark(&format!("{what} end"));
    Ok(())
}

/// Prints the checksum of bytes of the disk.
pub fn sum_of_disk(mut offset: u64, length: u64) -> Result<()> {
    let disk = disk(false)?;
    let mut buffer = Buffer::new();
    let mut sum = Sha256::new();
    let end = offset + length;
    while offset < end {
        let size = (end - offset).min(MAX_SIZE as u64);
        let part = &mut buffer.0[..size as usize];
        disk.read_exact_at(part, offset)
            .with_context(|| format!("reading at {offset}"))?;
        sum.update(part);
        offset += size;
    }
    print(sum);
    Ok(())
}

/// Mounts the disk and prints the checksum of a file.
pub fn sum_of_file(kind: &str, file: &str) -> Result<()> {
    let place = Path::new("/disk");
    std::fs::create_dir_all(place).context("making a place to mount")?;
    mount(DISK, place, kind, MountFlags::RDONLY, None).context("mounting the disk")?;
    let path = place.join(file);
    let mut file = File::open(&path).with_context(|| format!("opening {}", path.display()))?;
    let mut sum = Sha256::new();
    let mut part = vec![0; MAX_SIZE];
    loop {
        match file.read(&mut part).context("reading the file")? {
            0 => break,
            count => sum.update(&part[..count]),
        }
    }
    print(sum);
    Ok(())
}

fn print(sum: Sha256) {
    let hex: String = sum
        .finalize()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    println!("SUM {hex}");
}

/// Writes bytes that a seed determines: byte by byte the high bits of a generator's state.
pub fn write(seed: u64, mut offset: u64, length: u64, flush: bool) -> Result<()> {
    let disk = disk(true)?;
    let mut buffer = Buffer::new();
    let mut state = seed;
    let end = offset + length;
    while offset < end {
        let size = (end - offset).min(MAX_SIZE as u64);
        let part = &mut buffer.0[..size as usize];
        for byte in part.iter_mut() {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            *byte = (state >> 56) as u8;
        }
        disk.write_all_at(part, offset)
            .with_context(|| format!("writing at {offset}"))?;
        offset += size;
    }
    match flush {
        true => disk.sync_all().context("flushing"),
        false => Ok(()),
    }
}

/// Reads from each of so many processors at once, and checks that each had a queue of its own: the
/// interrupts of queues have names.
pub fn queues(processors: u64) -> Result<()> {
    const READS: u64 = 64;
    let before = interrupts()?;
    std::thread::scope(|scope| {
        let reader = |processor: u64| -> Result<()> {
            let mut here = CpuSet::new();
            here.set(processor as usize);
            sched_setaffinity(None, &here).context("moving to a processor")?;
            let disk = disk(false)?;
            let mut buffer = Buffer::new();
            for number in 0..READS {
                let offset = (processor * READS + number) * 4096;
                disk.read_exact_at(&mut buffer.0[..4096], offset)
                    .with_context(|| format!("reading at {offset}"))?;
            }
            Ok(())
        };
        let threads: Vec<_> = (0..processors)
            .map(|processor| scope.spawn(move || reader(processor)))
            .collect();
        let mut done: Result<()> = Ok(());
        for thread in threads {
            let result = thread.join();
            done = done.and(result.unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        }
        done
    })?;
    let after = interrupts()?;
    ensure!(
        after.len() as u64 == processors,
        "there are queues {after:?}"
    );
    for (queue, count) in &after {
        let more = count - before.get(queue).unwrap_or(&0);
        ensure!(more > 0, "queue {queue} was not used");
        println!("QUEUE {queue} interrupted");
    }
    Ok(())
}

/// Interrupts of each queue of the disk so far, on all processors.
fn interrupts() -> Result<BTreeMap<String, u64>> {
    let text = std::fs::read_to_string("/proc/interrupts").context("reading /proc/interrupts")?;
    let queues = text.lines().filter_map(|line| {
        // NUMBER: COUNT... KIND... virtioN-req.QUEUE
        let (_, queue) = line.rsplit_once("-req.")?;
        let counts = line.split_ascii_whitespace().skip(1);
        let counts = counts.map_while(|word| word.parse::<u64>().ok());
        Some((queue.trim().to_owned(), counts.sum()))
    });
    Ok(queues.collect())
}

/// Checks that the disk cannot be written: some kernels refuse to open it, others to write.
pub fn readonly() -> Result<()> {
    let written = open(true).and_then(|disk| disk.write_all_at(&Buffer::new().0[..4096], 0));
    match written {
        Ok(()) => bail!("{DISK} can be written"),
        Err(error) => match error.kind() {
            ErrorKind::ReadOnlyFilesystem | ErrorKind::PermissionDenied => Ok(()),
            _ => Err(error).context("writing to the disk"),
        },
    }
}
