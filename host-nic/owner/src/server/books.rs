//! Notes and their keeper, if the NIC has one.

use std::os::fd::{AsFd, BorrowedFd};

use super::notes::Notes;
use super::store::{Store, StoreError};

/// What the next owner will know. Without a keeper there is none, and nothing here does anything.
#[derive(Debug, Default)]
pub(super) struct Books {
    pub(super) notes: Notes,
    pub(super) store: Option<Store>,
}

/// What a keeper calls the notes.
pub(super) const NOTES: &str = "notes";

impl Books {
    /// Has the keeper hold the notes as they are now.
    pub(super) fn save(&mut self) -> Result<(), StoreError> {
        let Some(store) = &mut self.store else {
            return Ok(());
        };
        let file = self.notes.write().map_err(|source| StoreError::Lost {
            step: "write notes for it",
            source,
        })?;
        store.hold(NOTES, &[file.as_fd()])
    }

    /// Has the keeper hold descriptors.
    pub(super) fn hold(&mut self, name: &str, fds: &[BorrowedFd<'_>]) -> Result<(), StoreError> {
        match &mut self.store {
            Some(store) => store.hold(name, fds),
            None => Ok(()),
        }
    }

    /// As [`Books::hold`], for what must go on without. A keeper that takes nothing is noticed elsewhere: its socket
    /// says so.
    pub(super) fn try_hold(&mut self, name: &str, fds: &[BorrowedFd<'_>]) {
        let _ = self.hold(name, fds);
    }

    /// Has the keeper close what it has by that name, likewise.
    pub(super) fn forget(&mut self, name: &str) {
        if let Some(store) = &mut self.store {
            let _ = store.forget(name);
        }
    }
}
