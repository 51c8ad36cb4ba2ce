//! The thread of a device beside its packets: answers commands, and passes on what the kernel's
//! backend cannot tell the driver by itself.
#![deny(unsafe_code)]

use vm_memory::GuestMemoryMmap;
use vmm_sys_util::eventfd::EventFd;

use super::control::{self, Commands};
use super::fault::Fault;
use super::ring::Ring;
use crate::virtio::poll::Poll;
use crate::virtio::relay::Relay;

/// What the thread looks after.
pub struct ControlThread {
    /// RAM of the guest.
    pub memory: GuestMemoryMmap,
    /// The control queue, if the driver has one, and the driver's notifications of it.
    pub queue: Option<(Ring, EventFd)>,
    /// What commands change.
    pub commands: Box<dyn Commands + Send>,
    /// What the kernel's backend cannot tell by itself.
    pub relay: Relay,
}

const STOP: u64 = 0;
const COMMANDS: u64 = 1;
const RELAY: u64 = 2;

impl ControlThread {
    /// Works until `stop` is readable.
    pub fn run(&mut self, stop: &EventFd) -> Result<(), Fault> {
        let host = |error| Fault::Host("wait for commands", error);
        let poll = Poll::new().map_err(host)?;
        poll.add(stop, STOP, false).map_err(host)?;
        if let Some((_, kick)) = &self.queue {
            poll.add(kick, COMMANDS, false).map_err(host)?;
        }
        self.relay.watch(&poll, RELAY).map_err(host)?;
        let (mut commands, mut stopped) = (true, false);
        while !stopped {
            if commands {
                commands = match &mut self.queue {
                    Some((ring, _)) => control::burst(ring, &self.memory, self.commands.as_mut())?,
                    None => false,
                };
            }
            let mut result = Ok(());
            poll.changes(!commands, &mut |change| match change.number {
                STOP => stopped = true,
                COMMANDS => commands = true,
                number => {
                    if let Err(fault) = self.relay.pass_on(number - RELAY) {
                        result = Err(fault);
                    }
                }
            })
            .map_err(host)?;
            result?;
        }
        Ok(())
    }
}
