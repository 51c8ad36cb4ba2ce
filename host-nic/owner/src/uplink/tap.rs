//! A TAP: the host's network stack is the other side.
#![forbid(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use postern_abi::window::{FEATURE_CSUM, FEATURE_TSO4, FEATURE_TSO6, FEATURE_USO};
use postern_tap::{Kind, Tap, TapError, offload as tap_offload};
use rustix::io::{Errno, read, write};

use super::batch::Batch;
use super::device::{Device, Flushed, Received};
use super::error::{UplinkError, failed};
use super::link::Link;
use super::offload::{self, Unusable};
use super::virtio_net;
use crate::frame_port::{BATCH, Frame};

const NEEDS: &str = "CAP_NET_ADMIN";

/// The features of TAPs before Linux 6.2, which do not know large UDP segments.
const FEATURES_WITHOUT_USO: u32 = FEATURE_CSUM | FEATURE_TSO4 | FEATURE_TSO6;

/// A TAP, up.
#[derive(Debug)]
pub struct TapDevice {
    link: Link,
    tap: Tap,
    features: u32,
    read: Batch,
    staged: Batch,
}

impl TapDevice {
    /// Makes the TAP `name`, or opens the persistent one of that name, brings it up and sets its
    /// MTU to `mtu` bytes if given. One that is made here is gone when this value is.
    ///
    /// # Errors
    ///
    /// The name is taken or impossible, or the kernel refuses.
    pub fn open(name: &str, mtu: Option<u32>) -> Result<TapDevice, UplinkError> {
        let tap = Tap::open(name, Kind::OneQueue).map_err(refused)?;
        let mut link = Link::find(tap.name())?;
        let features =
            reset(&tap).map_err(|source| failed("set up TAP", link.name(), NEEDS, source))?;
        if let Some(mtu) = mtu {
            link.set_mtu(mtu)?;
        }
        link.bring_up()?;
        link.look()?;
        Ok(TapDevice {
            link,
            tap,
            features,
            read: Batch::new(),
            staged: Batch::new(),
        })
    }
}

/// Sets what a former user of a TAP may have left behind; gives the features that it can have.
fn reset(tap: &Tap) -> io::Result<u32> {
    tap.reset(virtio_net::SIZE)?;
    let features = match set_offloads(tap, FEATURES_WITHOUT_USO | FEATURE_USO) {
        Ok(()) => FEATURES_WITHOUT_USO | FEATURE_USO,
        Err(_) => FEATURES_WITHOUT_USO,
    };
    set_offloads(tap, 0)?;
    Ok(features)
}

/// Tells the kernel which kinds of unfinished frames are read; it finishes the others itself.
fn set_offloads(tap: &Tap, features: u32) -> io::Result<()> {
    let flags = [
        (FEATURE_CSUM, tap_offload::CSUM),
        (FEATURE_TSO4, tap_offload::TSO4 | tap_offload::TSO_ECN),
        (FEATURE_TSO6, tap_offload::TSO6 | tap_offload::TSO_ECN),
        (FEATURE_USO, tap_offload::USO4 | tap_offload::USO6),
    ];
    let chosen = flags.iter().filter(|(feature, _)| features & feature != 0);
    tap.set_offloads(chosen.fold(0, |flags, (_, flag)| flags | flag))
}

/// The error of an uplink for one of a TAP.
fn refused(error: TapError) -> UplinkError {
    let step = "make or open TAP";
    match error {
        TapError::Name { name, reason } => UplinkError::Name { name, reason },
        TapError::NoDriver { name, source } => UplinkError::Unsupported {
            step,
            interface: name,
            remedy: "there is no /dev/net/tun; load the kernel module tun",
            source,
        },
        TapError::Busy { name } => UplinkError::Busy {
            step,
            interface: name,
            remedy: "end the program that uses it, or take another name",
        },
        TapError::OneQueue { name, .. } => UplinkError::Unsupported {
            step,
            interface: name,
            remedy: "it has one queue only",
            source: io::ErrorKind::InvalidInput.into(),
        },
        TapError::OtherKind { name, source } => UplinkError::Unsupported {
            step,
            interface: name,
            remedy: "an interface of this name exists and is no TAP of this kind (a TUN, or one \
                     with several queues); take another name",
            source,
        },
        TapError::Denied { step, name } => UplinkError::Denied {
            step,
            interface: name,
            needs: NEEDS,
        },
        TapError::System { step, name, source } => failed(step, &name, NEEDS, source),
    }
}

impl Device for TapDevice {
    fn link(&mut self) -> &mut Link {
        &mut self.link
    }

    fn descriptor(&self) -> BorrowedFd<'_> {
        self.tap.as_fd()
    }

    fn features(&self) -> u32 {
        self.features
    }

    fn accept(&mut self, features: u32) -> Result<(), UplinkError> {
        set_offloads(&self.tap, features)
            .map_err(|source| self.link.broken("set the offloads of TAP", source))
    }

    fn receive(&mut self, deliver: &mut dyn FnMut(&[Frame<'_>])) -> Result<Received, UplinkError> {
        let mut found = Received::default();
        self.read.clear();
        for _ in 0..BATCH {
            let Some(next) = self.read.next_with_header() else {
                break;
            };
            // The length is that of the whole frame, also of one that was cut to the memory's size,
            // which is at least one byte more than the longest frame.
            let length = match read(&self.tap, &mut *next) {
                Ok(length) => length.saturating_sub(virtio_net::SIZE),
                Err(Errno::AGAIN) => break,
                Err(Errno::INTR) => continue,
                Err(errno) => return Err(self.link.broken("read from TAP", errno.into())),
            };
            let parts = next.split_first_chunk_mut();
            let checked = match parts.map(|(header, rest)| (header, rest.get_mut(..length))) {
                Some((header, Some(frame))) => offload::check(virtio_net::decode(*header), frame),
                _ => Err(Unusable::TooLong),
            };
            match checked {
                Ok(header) => self.read.add(header, length),
                Err(reason) => found.count(reason),
            }
        }
        if !self.read.is_empty() {
            let mut list = [Frame::default(); BATCH];
            let count = self.read.list(&mut list);
            found.frames = count as u64;
            deliver(list.get(..count).unwrap_or_default());
        }
        Ok(found)
    }

    fn room(&mut self) -> usize {
        self.staged.room()
    }

    fn stage(&mut self, frame: Frame<'_>) {
        self.staged.push(frame);
    }

    fn flush(&mut self) -> Result<Flushed, UplinkError> {
        let mut done = Flushed::default();
        while let Some(bytes) = self.staged.front_with_header() {
            match write(&self.tap, bytes) {
                Ok(length) => {
                    done.frames += 1;
                    done.bytes += length.saturating_sub(virtio_net::SIZE) as u64;
                }
                Err(Errno::AGAIN) => break,
                Err(Errno::INTR) => continue,
                Err(Errno::INVAL | Errno::NOMEM | Errno::NOBUFS) => done.refused += 1,
                Err(errno) => return Err(self.link.broken("write to TAP", errno.into())),
            }
            self.staged.pop();
        }
        Ok(done)
    }

    fn discard(&mut self) -> u64 {
        let count = self.staged.len();
        self.staged.clear();
        count as u64
    }

    fn waits_to_send(&self) -> bool {
        !self.staged.is_empty()
    }

    /// Always 0: the interface's own counter (`tx_dropped` in `ip -s link`) has them, and also
    /// those of its time before this process.
    fn missed(&mut self) -> u64 {
        0
    }
}
