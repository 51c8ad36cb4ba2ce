//! The NIC of `postern up`: a thread of this process serves it.
#![deny(unsafe_code)]

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::mpsc::Sender;
use std::thread;
use std::time::Duration;

use anyhow::{Context, anyhow};
use postern_confine::Kind;
use postern_nic_client::request::{self, ClientError};
use postern_nic_owner::server::{Server, ServerOptions, Stopper};
use postern_vmm::socket_path;
use postern_vmm::topology::NicConfig;
use serde::de::IgnoredAny;

use super::event::Event;
use crate::error::CommandError;
use crate::nic::serve;
use crate::output;
use crate::run_dir::Place;

/// The NIC, served by a thread of this process.
pub struct NicThread {
    socket: PathBuf,
    stopper: Stopper,
    thread: thread::JoinHandle<Server>,
    stats: Option<(File, PathBuf)>,
}

impl NicThread {
    /// Makes the NIC and begins to serve it.
    pub fn start(
        nic: &NicConfig,
        place: &Place,
        events: &Sender<Event>,
    ) -> Result<NicThread, CommandError> {
        let socket = match &nic.socket {
            Some(socket) => socket.clone(),
            None => place.nic(nic.name.as_deref()),
        };
        socket_path::check(&socket).map_err(CommandError::configuration)?;
        let mut options = ServerOptions::new(&socket, nic.geometry);
        options.image.clone_from(&nic.image);
        options.unlearned.clone_from(&nic.no_learning);
        if !nic.paths.is_empty() {
            options.paths.clone_from(&nic.paths);
        }
        if let Some(seconds) = nic.ageing {
            options.ageing = Duration::from_secs(seconds);
        }
        let mut server = serve::bind(&options)?;
        let stats = match &nic.stats {
            Some(path) => Some((output::create(path)?, path.clone())),
            None => None,
        };
        let name = match &nic.name {
            Some(name) => format!("NIC {name}: "),
            None => String::new(),
        };
        eprintln!("postern: {name}{}", serve::describe(&server, &socket));
        let stopper = server.stopper();
        let events = events.clone();
        let serve = move |()| {
            if let Err(error) = server.run(serve::print_event) {
                let _ = events.send(Event::NicLost(format!("{:#}", anyhow!(error))));
            }
            server
        };
        let thread = postern_confine::spawn_prepared(Kind::NicServer, "nic", || (), serve)
            .context("cannot start a thread for the NIC")
            .map_err(CommandError::internal)?;
        Ok(NicThread {
            socket,
            stopper,
            thread,
            stats,
        })
    }

    /// Sets what the topology says of ports and captures; an error comes with its key, below that of
    /// the NIC.
    pub fn set_up(&self, nic: &NicConfig) -> Result<(), (String, ClientError)> {
        for (key, control) in nic.controls() {
            request::control::<IgnoredAny>(&self.socket, &control).map_err(|error| (key, error))?;
        }
        Ok(())
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
