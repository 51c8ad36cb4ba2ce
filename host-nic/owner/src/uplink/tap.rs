//! A TAP: the host's network stack is the other side.
#![forbid(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use postern_tap::batch::Batch;
use postern_tap::{Kind, Tap, TapError};

use super::device::{Device, Flushed, Received};
use super::error::{UplinkError, failed};
use super::link::Link;
use crate::frame_port::{BATCH, Frame};

const NEEDS: &str = "CAP_NET_ADMIN";

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
        let features = tap
            .reset_features()
            .map_err(|source| failed("set up TAP", link.name(), NEEDS, source))?;
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
        let set = self.tap.set_features(features);
        set.map_err(|source| self.link.broken("set the offloads of TAP", source))
    }

    fn receive(&mut self, deliver: &mut dyn FnMut(&[Frame<'_>])) -> Result<Received, UplinkError> {
        self.read.clear();
        let found = self.tap.receive(&mut self.read);
        let found = found.map_err(|error| self.link.broken("read from TAP", error))?;
        if !self.read.is_empty() {
            let mut list = [Frame::default(); BATCH];
            let count = self.read.list(&mut list);
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
        let done = self.tap.flush(&mut self.staged);
        done.map_err(|error| self.link.broken("write to TAP", error))
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
