//! What an owner notes for the next one, beyond what lies in the NIC's memory.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::os::fd::OwnedFd;

use serde::{Deserialize, Serialize};

use super::json_file;
use crate::policies::Policies;
use postern_nic_client::control::{Format, Mac};
use postern_nic_client::policy::port::PortPolicy;

/// Most bytes of notes: several times what the largest NIC needs.
const MOST: u64 = 16 << 20;

/// The notes. They are always written before what they announce is done.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Notes {
    /// The last tenancy that was given.
    pub(super) tenancy: u32,
    /// Ports that nobody is to have.
    pub(super) disabled: BTreeSet<u32>,
    /// Policies as people gave them, by port.
    pub(super) policies: BTreeMap<u32, PortPolicy>,
    /// Policies as ports have them: with what captures need.
    pub(super) applied: Policies,
    /// The port whose policy is being changed.
    pub(super) changing: Option<u32>,
    /// Stations that people have told.
    pub(super) stations: Vec<(u16, Mac, u32)>,
    /// Interfaces by port, and whether their pumps look all the time.
    pub(super) uplinks: BTreeMap<u32, (String, bool)>,
    /// Captures by the port through which they come.
    pub(super) captures: BTreeMap<u32, CaptureNote>,
}

/// A capture.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct CaptureNote {
    pub(super) port: Option<u32>,
    pub(super) file: std::path::PathBuf,
    pub(super) format: Format,
    pub(super) snap: Option<u32>,
}

impl Notes {
    /// As a file.
    pub(super) fn write(&self) -> io::Result<File> {
        json_file("postern-nic-notes", self)
    }

    /// From a file.
    pub(super) fn read(file: &OwnedFd) -> io::Result<Notes> {
        // Its own description, and so its own position.
        let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(file));
        let text = BufReader::new(File::open(path)?.take(MOST));
        Ok(serde_json::from_reader(text)?)
    }
}
