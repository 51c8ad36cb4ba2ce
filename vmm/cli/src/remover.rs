//! Removing what a VMM leaves in directories when it has ended, however it ends: by a process of its
//! own, since a confined VMM can remove no file, and one that is killed does nothing.
#![deny(unsafe_code)]

use std::io::{self, PipeWriter, Read};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::Context;
use clap::Args as ClapArgs;

use crate::error::CommandError;
use crate::run_dir::{self, Place};

/// A process that removes names of sockets, and a place in the run directory, when this process has
/// ended, or this is dropped.
#[derive(Debug)]
pub struct Remover {
    /// Closed when this process is gone, at the latest.
    until: Option<PipeWriter>,
    process: Child,
}

impl Remover {
    /// Starts it for sockets and a place that are there; without any there is none.
    pub fn start(
        sockets: &[&Path],
        place: Option<&Place>,
    ) -> Result<Option<Remover>, CommandError> {
        if sockets.is_empty() && place.is_none() {
            return Ok(None);
        }
        start(sockets, place)
            .map(Some)
            .context("cannot start the process that removes the VM's sockets in the end")
            .map_err(CommandError::internal)
    }
}

fn start(sockets: &[&Path], place: Option<&Place>) -> io::Result<Remover> {
    let mut command = Command::new("/proc/self/exe");
    command.arg("remove");
    // The place is known by its lock, which the process has as its standard output.
    let lock = match place {
        Some(place) => {
            let directories = place.directories();
            for directory in directories {
                command.arg("--place").arg(directory);
            }
            run_dir::open_lock(directories[0])?.into()
        }
        None => Stdio::null(),
    };
    for socket in sockets {
        let socket = std::path::absolute(socket)?;
        let inode = std::fs::symlink_metadata(&socket)?.ino();
        command.arg("--inode").arg(inode.to_string());
        command.arg("--socket").arg(socket);
    }
    let (ended, until) = io::pipe()?;
    let process = command
        .stdin(ended)
        .stdout(lock)
        .stderr(Stdio::null())
        .current_dir("/")
        // Signals of the terminal are not for it.
        .process_group(0)
        .spawn()?;
    let until = Some(until);
    Ok(Remover { until, process })
}

impl Drop for Remover {
    fn drop(&mut self) {
        self.until = None;
        // It ends soon; if it has been killed, there is nothing to be done.
        let _ = self.process.wait();
    }
}

/// Arguments of the process.
#[derive(ClapArgs)]
pub struct Args {
    /// A socket
    #[arg(long)]
    socket: Vec<PathBuf>,
    /// Its inode's number
    #[arg(long)]
    inode: Vec<u64>,
    /// A place in the run directory, and then that directory
    #[arg(long)]
    place: Vec<PathBuf>,
}

/// Waits until standard input ends, and removes the sockets that are still the same, and the place
/// whose lock is standard output; returns the exit status.
pub fn run(args: &Args) -> u8 {
    // Whoever could write to it is gone if it cannot be read.
    let _ = io::stdin().lock().read_to_end(&mut Vec::new());
    for (socket, inode) in args.socket.iter().zip(&args.inode) {
        let file = std::fs::symlink_metadata(socket);
        if file.is_ok_and(|file| file.file_type().is_socket() && file.ino() == *inode) {
            // Nobody would be told.
            let _ = std::fs::remove_file(socket);
        }
    }
    if let [place, base] = &args.place[..] {
        run_dir::remove_own(place, base, io::stdout());
    }
    0
}
