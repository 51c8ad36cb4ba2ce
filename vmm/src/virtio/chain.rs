//! Descriptor chains of a split virtqueue, checked as a whole ("Split Virtqueues").
#![deny(unsafe_code)]

use virtio_queue::desc::split::Descriptor;
use virtio_queue::{Queue, QueueOwnedT, QueueT};
use vm_memory::GuestMemoryMmap;

use super::buffers::{Buffers, OutsideRam};

/// What a driver did to a queue that a driver must not do: the device cannot know what it means.
#[derive(Debug, thiserror::Error)]
pub(super) enum BrokenQueue {
    /// The rings cannot be read or written, or make no sense.
    #[error("{0}")]
    Ring(virtio_queue::Error),
    /// A chain that has no first descriptor, or one whose descriptor goes on to none.
    #[error(
        "descriptor chain {0} names a descriptor that does not exist, runs in a circle, is longer \
         than the queue or has more than 4 GiB"
    )]
    Chain(u16),
    /// A buffer to read comes after one to write.
    #[error("descriptor chain {0} has a device-readable buffer after a device-writable one")]
    Order(u16),
    /// A buffer is somewhere else.
    #[error("descriptor chain {head}: {source}")]
    Buffer {
        /// Index of the chain's first descriptor.
        head: u16,
        /// Which.
        source: OutsideRam,
    },
}

impl From<virtio_queue::Error> for BrokenQueue {
    fn from(error: virtio_queue::Error) -> BrokenQueue {
        BrokenQueue::Ring(error)
    }
}

/// Takes the next chain off the available ring and calls `visit` with its descriptors, in their order:
/// those of an indirect table in place of the one that refers to it. Gives the chain's head.
///
/// # Errors
///
/// Those of `visit`, at once, and of a chain or a ring that is broken. Descriptors of a chain that turns
/// out to be broken have been visited.
pub(super) fn walk_chain<E: From<BrokenQueue>>(
    queue: &mut Queue,
    memory: &GuestMemoryMmap,
    mut visit: impl FnMut(u16, &Descriptor) -> Result<(), E>,
) -> Result<Option<u16>, E> {
    let max = queue.max_size();
    let Some(chain) = queue.iter(memory).map_err(BrokenQueue::Ring)?.next() else {
        return Ok(None);
    };
    let head = chain.head_index();
    let mut count = 0;
    // What ends an iteration early ends it as the chain's end does: only the last descriptor tells.
    let mut goes_on = true;
    for descriptor in chain {
        goes_on = descriptor.has_next();
        count += 1;
        // A table may have more descriptors than the queue.
        if count > max {
            return Err(BrokenQueue::Chain(head).into());
        }
        visit(head, &descriptor)?;
    }
    match goes_on {
        true => Err(BrokenQueue::Chain(head).into()),
        false => Ok(Some(head)),
    }
}

/// Takes the next chain off the available ring: its head, with its bytes in `readable` and
/// `writable`. How they are spread over descriptors means nothing ("Message Framing").
pub(super) fn take_chain(
    queue: &mut Queue,
    memory: &GuestMemoryMmap,
    readable: &mut Buffers,
    writable: &mut Buffers,
) -> Result<Option<u16>, BrokenQueue> {
    readable.clear();
    writable.clear();
    let mut any_writable = false;
    walk_chain(queue, memory, |head, descriptor| {
        let to = if descriptor.is_write_only() {
            any_writable = true;
            &mut *writable
        } else if any_writable {
            return Err(BrokenQueue::Order(head));
        } else {
            &mut *readable
        };
        push(to, head, descriptor)
    })
}

/// Adds the buffer of a descriptor.
pub(super) fn push(
    buffers: &mut Buffers,
    head: u16,
    descriptor: &Descriptor,
) -> Result<(), BrokenQueue> {
    buffers
        .push(descriptor.addr(), descriptor.len())
        .map_err(|source| BrokenQueue::Buffer { head, source })
}
