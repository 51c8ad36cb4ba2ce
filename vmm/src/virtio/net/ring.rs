//! One virtqueue, as a thread that moves packets uses it.
//!
//! What `virtio-queue` has is used where it is enough. Used buffers are published here: a packet in
//! several buffers must appear at once (virtio 1.2, "Device Requirements: Processing of Incoming
//! Packets"), and a burst needs only one notification, which a driver without
//! `VIRTIO_F_RING_EVENT_IDX` can turn off, too ("Used Buffer Notification Suppression").
#![deny(unsafe_code)]

use std::num::Wrapping;
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use virtio_bindings::virtio_ring::VRING_AVAIL_F_NO_INTERRUPT;
use virtio_queue::desc::split::Descriptor;
use virtio_queue::{Queue, QueueOwnedT, QueueT};
use vm_memory::{Address, Bytes, GuestAddress, GuestMemoryMmap};

use super::fault::Fault;
use crate::virtio::buffers::{Buffers, MAX_VECTORS};
use crate::virtio::chain::{self, walk_chain};
use crate::virtio::{ActiveQueue, Notifier};

/// Which way the buffers of a queue go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// The device writes them.
    Receive,
    /// The device reads them.
    Transmit,
}

/// A chain of buffers that the driver has made available.
#[derive(Clone, Copy, Debug)]
pub struct Chain {
    /// Index of its first descriptor.
    pub head: u16,
    /// Bytes in all.
    pub size: usize,
    /// Ranges of the VMM's memory that it is made of.
    pub vectors: usize,
}

/// A virtqueue, its memory, and used buffers that are not published yet.
pub struct Ring {
    memory: GuestMemoryMmap,
    queue: Queue,
    call: Arc<dyn Notifier>,
    /// Used buffers that the driver does not see yet.
    unpublished: Wrapping<u16>,
}

// Offsets in the available and used rings (virtio 1.2, "The Virtqueue Available Ring" and "The
// Virtqueue Used Ring").
const RING: u64 = 4;
const INDEX: u64 = 2;
const AVAILABLE_ELEMENT: u64 = 2;
const USED_ELEMENT: u64 = 8;

impl Ring {
    /// Takes a queue that the driver has enabled.
    pub fn new(memory: &GuestMemoryMmap, active: ActiveQueue) -> Ring {
        Ring {
            memory: memory.clone(),
            queue: active.queue,
            call: active.call,
            unpublished: Wrapping(0),
        }
    }

    /// Number of descriptors.
    pub fn size(&self) -> u16 {
        self.queue.size()
    }

    /// Takes the next chain that the driver has made available, if there is one, and calls `visit` with
    /// its descriptors; gives the chain's head.
    pub fn pop(
        &mut self,
        mut visit: impl FnMut(&Descriptor) -> Result<(), Fault>,
    ) -> Result<Option<u16>, Fault> {
        walk_chain(&mut self.queue, &self.memory, |_, descriptor| {
            visit(descriptor)
        })
    }

    /// Gives the last chain back, to be popped again.
    pub fn undo_pop(&mut self) {
        self.queue.go_to_previous_position();
    }

    /// Takes the next chain, if there is one, and adds all that it consists of to `buffers`.
    pub fn gather(
        &mut self,
        direction: Direction,
        buffers: &mut Buffers,
    ) -> Result<Option<Chain>, Fault> {
        let (vectors, size) = (buffers.vectors(), buffers.len());
        let head = walk_chain(&mut self.queue, &self.memory, |head, descriptor| {
            if descriptor.is_write_only() != (direction == Direction::Receive) {
                return Err(Fault::WrongWay);
            }
            Ok(chain::push(buffers, head, descriptor)?)
        })?;
        let Some(head) = head else {
            return Ok(None);
        };
        if buffers.vectors() > MAX_VECTORS {
            return Err(Fault::Vectors(head));
        }
        Ok(Some(Chain {
            head,
            size: (buffers.len() - size) as usize,
            vectors: buffers.vectors() - vectors,
        }))
    }

    /// Puts a chain into the used ring, of which the device has written `written` bytes. The driver
    /// sees it when it is published.
    pub fn push_used(&mut self, head: u16, written: u32) -> Result<(), Fault> {
        let size = self.queue.size();
        if head >= size {
            return Err(virtio_queue::Error::InvalidDescriptorIndex.into());
        }
        let slot = (Wrapping(self.queue.next_used()) + self.unpublished).0 % size;
        let offset = RING + u64::from(slot) * USED_ELEMENT;
        // `struct virtq_used_elem`: the index, and after it the length.
        let element = (u64::from(head) | u64::from(written) << 32).to_le();
        let address = at(self.queue.used_ring(), offset)?;
        self.memory.write_obj(element, address)?;
        self.unpublished += 1;
        Ok(())
    }

    /// Lets the driver see all used buffers, and notifies it if it wants to be.
    pub fn publish(&mut self) -> Result<(), Fault> {
        let count = self.unpublished;
        if count.0 == 0 {
            return Ok(());
        }
        self.unpublished = Wrapping(0);
        let old = Wrapping(self.queue.next_used());
        let new = old + count;
        self.queue.set_next_used(new.0);
        let address = at(self.queue.used_ring(), INDEX)?;
        self.memory
            .store(new.0.to_le(), address, Ordering::Release)?;
        // What the driver wants is read after it can see the buffers.
        fence(Ordering::SeqCst);
        if self.wants_call(old, new)? {
            self.call.notify().map_err(Fault::Call)?;
        }
        Ok(())
    }

    /// Whether the driver wants to be told that the used index went from `old` to `new`.
    fn wants_call(&self, old: Wrapping<u16>, new: Wrapping<u16>) -> Result<bool, Fault> {
        let available = self.queue.avail_ring();
        if self.queue.event_idx_enabled() {
            let offset = RING + u64::from(self.queue.size()) * AVAILABLE_ELEMENT;
            let event = self.load(at(available, offset)?)?;
            return Ok(new - Wrapping(event) - Wrapping(1) < new - old);
        }
        let flags = self.load(at(available, 0)?)?;
        Ok(u32::from(flags) & VRING_AVAIL_F_NO_INTERRUPT == 0)
    }

    fn load(&self, address: GuestAddress) -> Result<u16, Fault> {
        let value: u16 = self.memory.load(address, Ordering::Relaxed)?;
        Ok(u16::from_le(value))
    }

    /// Asks the driver to notify the device of more buffers; whether there are more already.
    pub fn enable_kicks(&mut self) -> Result<bool, Fault> {
        Ok(self.queue.enable_notification(&self.memory)?)
    }

    /// Asks the driver not to notify the device, as long as it looks by itself.
    pub fn disable_kicks(&mut self) -> Result<(), Fault> {
        Ok(self.queue.disable_notification(&self.memory)?)
    }
}

fn at(ring: u64, offset: u64) -> Result<GuestAddress, Fault> {
    let address = GuestAddress(ring).checked_add(offset);
    Ok(address.ok_or(virtio_queue::Error::AddressOverflow)?)
}
