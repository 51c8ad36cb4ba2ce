//! The queues of a device served once, without threads: for tests of what drivers may write.
#![deny(unsafe_code)]

use std::os::fd::AsFd;

use super::control::{self, Commands};
use super::fault::Fault;
use super::features::bit;
use super::receive::Receive;
use super::ring::Ring;
use super::transmit::Transmit;
use crate::virtio::buffers::Buffers;
use crate::virtio::{Activation, ActiveQueue};
use virtio_bindings::virtio_net as net;

/// Serves what is in the first three queues, those that receive, transmit and control, as far as they
/// are there: one burst each, over any file that keeps datagrams apart, which does not wait. Commands
/// are all refused. A fault is told to the status.
pub fn serve_once(activation: Activation, tap: impl AsFd) {
    let Activation {
        memory,
        features,
        queues,
        config_changed: _,
        status,
    } = activation;
    let mut queues = queues.into_iter();
    let mut next = || -> Option<ActiveQueue> { queues.next().flatten() };
    let (receive, transmit, control) = (next(), next(), next());
    let buffers = || Buffers::new(memory.clone());
    let serve = || -> Result<(), Fault> {
        if let Some(queue) = transmit {
            Transmit::new(Ring::new(&memory, queue), buffers()).burst(tap.as_fd())?;
        }
        if let Some(queue) = receive {
            let mergeable = features & bit(net::VIRTIO_NET_F_MRG_RXBUF) != 0;
            Receive::new(Ring::new(&memory, queue), buffers(), mergeable).burst(tap.as_fd())?;
        }
        if let Some(queue) = control {
            control::burst(&mut Ring::new(&memory, queue), &memory, &mut Refused)?;
        }
        Ok(())
    };
    if let Err(fault) = serve() {
        status.needs_reset(&fault.to_string());
    }
}

/// Refuses commands.
struct Refused;

impl Commands for Refused {
    fn set_pairs(&mut self, _: u16) -> bool {
        false
    }

    fn set_mac(&mut self, _: [u8; 6]) -> bool {
        false
    }

    fn set_offloads(&mut self, _: u64) -> bool {
        false
    }
}
