//! The state that an owner saves for the next one, beyond what lies in the NIC's memory.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use postern_abi::window::PortId;
use postern_nic_client::control::Format;
use postern_nic_client::mac::Mac;
use postern_nic_client::policy::port::PortPolicy;
use postern_nic_client::socket::MAX_DESCRIPTORS;
use serde::{Deserialize, Serialize};

use super::error::KeeperClientError;
use super::json_file::json_file;
use super::keeper_client::KeeperClient;
use super::kept;
use crate::installed_policies::Policies;

/// Size of the largest saved state in bytes: several times what the largest NIC needs.
const MAX_SIZE: u64 = 16 << 20;

/// The state that an owner saves. It is always saved before the owner does what it speaks of.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SavedState {
    /// Number of the last tenancy.
    pub(super) tenancy: u32,
    /// Ports that are let to nobody.
    pub(super) disabled: BTreeSet<u32>,
    /// Ports from whose frames no stations are learned, whoever has them.
    #[serde(default)]
    pub(super) unlearned: BTreeSet<u32>,
    /// Policies as people gave them, by port.
    pub(super) policies: BTreeMap<u32, PortPolicy>,
    /// Policies as ports have them: with what captures need.
    pub(super) applied: Policies,
    /// The port whose policy is being changed.
    pub(super) changing: Option<u32>,
    /// Addresses of ports' tenants that people have chosen.
    #[serde(default)]
    pub(super) macs: BTreeMap<u32, Mac>,
    /// Stations that people have told: VLAN, address and port.
    pub(super) stations: Vec<(u16, Mac, u32)>,
    /// Interfaces of uplinks by port, and whether their pumps look for frames all the time.
    pub(super) uplinks: BTreeMap<u32, (String, bool)>,
    /// Captures by the port through which their frames come.
    pub(super) captures: BTreeMap<u32, SavedCapture>,
    /// Templates by the number under which they are kept.
    #[serde(default)]
    pub(super) templates: BTreeMap<u32, SavedTemplate>,
}

/// A template.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct SavedTemplate {
    /// The rights that it was sealed with.
    pub(super) rights: u32,
    /// What tells its image from others.
    pub(super) image: u64,
}

/// A capture.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct SavedCapture {
    /// The port that is captured; all without one.
    pub(super) port: Option<u32>,
    pub(super) file: PathBuf,
    pub(super) format: Format,
    /// Most bytes kept of a frame.
    pub(super) snap: Option<u32>,
    /// Whether it looks for frames all the time.
    #[serde(default)]
    pub(super) busy: bool,
}

impl SavedState {
    /// The address of a port's tenant.
    pub(super) fn mac(&self, port: PortId) -> Mac {
        let chosen = self.macs.get(&port.number()).copied();
        chosen.unwrap_or(Mac::of_port(port.number()))
    }

    /// The state in a file.
    pub(super) fn read(file: &OwnedFd) -> io::Result<SavedState> {
        // An open file of its own, and so a position of its own.
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        let text = BufReader::new(File::open(path)?.take(MAX_SIZE));
        Ok(serde_json::from_reader(text)?)
    }
}

/// The saved state, and the keeper that holds it. Without a keeper there is no next owner, and
/// nothing is saved.
#[derive(Debug, Default)]
pub(super) struct StateSaver {
    pub(super) state: SavedState,
    pub(super) keeper: Option<KeeperClient>,
}

impl StateSaver {
    /// Has the keeper hold the state as it is now.
    pub(super) fn save(&mut self) -> Result<(), KeeperClientError> {
        let Some(keeper) = &mut self.keeper else {
            return Ok(());
        };
        let file = json_file("postern-nic-saved-state", &self.state);
        let file = file.map_err(|source| KeeperClientError::Lost {
            step: "write the saved state for it",
            source,
        })?;
        keeper.hold(kept::SAVED_STATE, &[file.as_fd()])
    }

    /// Has the keeper hold descriptors by a name.
    pub(super) fn hold(
        &mut self,
        name: &str,
        fds: &[BorrowedFd<'_>],
    ) -> Result<(), KeeperClientError> {
        match &mut self.keeper {
            Some(keeper) => keeper.hold(name, fds),
            None => Ok(()),
        }
    }

    /// Has the keeper hold descriptors in parts that fit a record, under names with that beginning.
    pub(super) fn hold_parts(
        &mut self,
        beginning: &str,
        fds: &[BorrowedFd<'_>],
    ) -> Result<(), KeeperClientError> {
        for (number, part) in fds.chunks(MAX_DESCRIPTORS).enumerate() {
            self.hold(&kept::part_name(beginning, number), part)?;
        }
        Ok(())
    }

    /// Has the keeper hold the descriptors of a client that has no answer yet.
    pub(super) fn offer(
        &mut self,
        name: &str,
        fds: &[BorrowedFd<'_>],
    ) -> Result<(), KeeperClientError> {
        match &mut self.keeper {
            Some(keeper) => keeper.offer(name, fds),
            None => Ok(()),
        }
    }

    /// Has the keeper hold descriptors that the NIC can go on without. A keeper that takes nothing
    /// is noticed elsewhere: its socket says so.
    pub(super) fn try_hold(&mut self, name: &str, fds: &[BorrowedFd<'_>]) {
        let _ = self.hold(name, fds);
    }

    /// Has the keeper close what it holds by a name. A keeper that does not is noticed elsewhere:
    /// its socket says so.
    pub(super) fn forget(&mut self, name: &str) {
        if let Some(keeper) = &mut self.keeper {
            let _ = keeper.forget(name);
        }
    }
}
