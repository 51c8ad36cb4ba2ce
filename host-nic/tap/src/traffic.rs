//! Frames through a queue of a TAP, a batch at a time, and the work on them that is left to others.
#![forbid(unsafe_code)]

use std::io;

use postern_abi::window::{FEATURE_CSUM, FEATURE_TSO4, FEATURE_TSO6, FEATURE_USO};
use rustix::io::{Errno, read, write};

use crate::batch::Batch;
use crate::frame::{BATCH, Flushed, Received, Unusable};
use crate::tap::{Tap, offload};
use crate::virtio_net;
use crate::work;

/// The features of TAPs before Linux 6.2, which do not know large UDP segments.
const FEATURES_WITHOUT_USO: u32 = FEATURE_CSUM | FEATURE_TSO4 | FEATURE_TSO6;

impl Tap {
    /// Sets what a former user may have left behind ([`Tap::reset`]), with headers of
    /// [`virtio_net::SIZE`] bytes. Gives the features (`FEATURE_*` of [`postern_abi::window`]) that
    /// the TAP can have.
    ///
    /// # Errors
    ///
    /// As [`Tap::reset`].
    pub fn reset_features(&self) -> io::Result<u32> {
        self.reset(virtio_net::SIZE)?;
        let features = match self.set_features(FEATURES_WITHOUT_USO | FEATURE_USO) {
            Ok(()) => FEATURES_WITHOUT_USO | FEATURE_USO,
            Err(_) => FEATURES_WITHOUT_USO,
        };
        self.set_features(0)?;
        Ok(features)
    }

    /// Tells the kernel which kinds of unfinished frames are read, as features; it finishes the
    /// others itself.
    ///
    /// # Errors
    ///
    /// As [`Tap::set_offloads`].
    pub fn set_features(&self, features: u32) -> io::Result<()> {
        let flags = [
            (FEATURE_CSUM, offload::CSUM),
            (FEATURE_TSO4, offload::TSO4 | offload::TSO_ECN),
            (FEATURE_TSO6, offload::TSO6 | offload::TSO_ECN),
            (FEATURE_USO, offload::USO4 | offload::USO6),
        ];
        let chosen = flags.iter().filter(|(feature, _)| features & feature != 0);
        self.set_offloads(chosen.fold(0, |flags, (_, flag)| flags | flag))
    }

    /// Reads the frames that wait, as many as `batch` has room for and at most [`BATCH`], and adds
    /// them to it. Each was checked against its header.
    ///
    /// # Errors
    ///
    /// The TAP is gone or down. What was read before is in `batch`.
    pub fn receive(&self, batch: &mut Batch) -> io::Result<Received> {
        let mut found = Received::default();
        for _ in 0..BATCH {
            let Some(next) = batch.next_with_header() else {
                break;
            };
            // The length is that of the whole frame, also of one that was cut to the memory's size,
            // which is at least one byte more than the longest frame.
            let length = match read(self, &mut *next) {
                Ok(length) => length.saturating_sub(virtio_net::SIZE),
                Err(Errno::AGAIN) => break,
                Err(Errno::INTR) => continue,
                Err(errno) => return Err(errno.into()),
            };
            let parts = next.split_first_chunk_mut();
            let checked = match parts.map(|(header, rest)| (header, rest.get_mut(..length))) {
                Some((header, Some(frame))) => work::check(virtio_net::decode(*header), frame),
                _ => Err(Unusable::TooLong),
            };
            match checked {
                Ok(header) => {
                    batch.add(header, length);
                    found.frames += 1;
                }
                Err(reason) => found.count(reason),
            }
        }
        Ok(found)
    }

    /// Writes the frames of a batch in order, and removes them from it. Those that the kernel has no
    /// room for stay.
    ///
    /// # Errors
    ///
    /// The TAP is gone or down. The frames that were not written are in `staged`.
    pub fn flush(&self, staged: &mut Batch) -> io::Result<Flushed> {
        let mut done = Flushed::default();
        while let Some(bytes) = staged.front_with_header() {
            match write(self, bytes) {
                Ok(length) => {
                    done.frames += 1;
                    done.bytes += length.saturating_sub(virtio_net::SIZE) as u64;
                }
                Err(Errno::AGAIN) => break,
                Err(Errno::INTR) => continue,
                Err(Errno::INVAL | Errno::NOMEM | Errno::NOBUFS) => done.refused += 1,
                Err(errno) => return Err(errno.into()),
            }
            staged.pop();
        }
        Ok(done)
    }
}
