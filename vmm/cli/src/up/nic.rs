//! The NIC of `postern up`: a thread of this process serves it.
#![deny(unsafe_code)]

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::mpsc::Sender;
use std::thread;

use anyhow::{Context, anyhow};
use postern_nic_owner::server::{Server, ServerOptions, Stopper};
use postern_vmm::socket_path;
use postern_vmm::topology::NicConfig;
use tempfile::TempDir;

use super::event::Event;
use crate::error::CommandError;
use crate::nic::serve;
use crate::output;

/// The NIC, served by a thread of this process.
pub struct NicThread {
    socket: PathBuf,
    stopper: Stopper,
    thread: thread::JoinHandle<Server>,
    stats: Option<(File, PathBuf)>,
    /// Holds the socket, if the topology names none; removed in the end.
    _directory: Option<TempDir>,
}

impl NicThread {
    /// Makes the NIC and begins to serve it.
    pub fn start(nic: &NicConfig, events: &Sender<Event>) -> Result<NicThread, CommandError> {
        let (socket, directory) = match &nic.socket {
            Some(socket) => (socket.clone(), None),
            None => {
                let directory = tempfile::Builder::new()
                    .prefix("postern-up-")
                    .tempdir()
                    .context("cannot make a private directory for the NIC's socket")
                    .map_err(CommandError::internal)?;
                (directory.path().join("nic"), Some(directory))
            }
        };
        socket_path::check(&socket).map_err(CommandError::configuration)?;
        let mut options = ServerOptions::new(&socket, nic.geometry);
        options.image.clone_from(&nic.image);
        options.unlearned.clone_from(&nic.no_learning);
        let mut server = serve::bind(&options)?;
        let stats = match &nic.stats {
            Some(path) => Some((output::create(path)?, path.clone())),
            None => None,
        };
        eprintln!("postern: {}", serve::describe(&server, &socket));
        let stopper = server.stopper();
        let events = events.clone();
        let thread = thread::Builder::new()
            .name("nic".to_owned())
            .spawn(move || {
                if let Err(error) = server.run(serve::print_event) {
                    let _ = events.send(Event::NicLost(format!("{:#}", anyhow!(error))));
                }
                server
            })
            .context("cannot start a thread for the NIC")
            .map_err(CommandError::internal)?;
        Ok(NicThread {
            socket,
            stopper,
            thread,
            stats,
            _directory: directory,
        })
    }

    /// The NIC's socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Ends the NIC, and writes its counters.
    pub fn finish(self) -> Result<(), CommandError> {
        self.stopper.stop();
        let server = self
            .thread
            .join()
            .map_err(|_| CommandError::internal(anyhow!("the NIC's thread panicked")))?;
        match self.stats {
            Some((file, path)) => output::write_json(file, &path, &server.counters()),
            None => Ok(()),
        }
    }
}
