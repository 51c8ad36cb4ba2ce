//! The part of a capture that taps and the writing thread share.
#![forbid(unsafe_code)]

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use serde::Serialize;

use super::queue::RecordQueue;

/// Numbers of frames of one interface of a capture.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct InterfaceStats {
    /// The interface's name.
    pub name: String,
    /// Frames in the file.
    pub written: u64,
    /// Frames that are not, because the queue was full or the file could not be written.
    pub lost: u64,
}

/// Numbers of frames of a capture.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct CaptureStats {
    /// Numbers of each interface, in the order in which they were added.
    pub interfaces: Vec<InterfaceStats>,
}

/// One interface of a capture.
#[derive(Debug)]
pub(super) struct Interface {
    pub(super) name: String,
    pub(super) written: AtomicU64,
    pub(super) lost: AtomicU64,
}

/// The part of a capture that taps and the writing thread share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) queue: RecordQueue,
    pub(super) interfaces: Mutex<Vec<Arc<Interface>>>,
    pub(super) snap: usize,
}

impl Shared {
    pub(super) fn interfaces(&self) -> Vec<Arc<Interface>> {
        self.interfaces
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    pub(super) fn stats(&self) -> CaptureStats {
        let stats = |interface: &Arc<Interface>| InterfaceStats {
            name: interface.name.clone(),
            written: interface.written.load(Relaxed),
            lost: interface.lost.load(Relaxed),
        };
        CaptureStats {
            interfaces: self.interfaces().iter().map(stats).collect(),
        }
    }
}

/// The time now, in nanoseconds since the epoch.
pub(super) fn now() -> u64 {
    let time = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    time.map_or(0, |time| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX))
}
