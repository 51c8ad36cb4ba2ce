//! The four rings that an AF_XDP socket shares with the kernel.
//!
//! ```text
//! | producer | ... | consumer | ... | flags | ... | entry 0 | entry 1 | ... | entry size-1 |
//! ```
//!
//! Positions count entries and run freely over 2^32; the size is a power of two. The producer's
//! release store of its position passes entries on, the consumer's passes them back.

use std::marker::PhantomData;
use std::mem::{align_of, size_of};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU32, Ordering, fence};

use rustix::io::Errno;
use rustix::net::xdp::XdpRingOffset;

use super::super::map::Map;

/// `XDP_RING_NEED_WAKEUP`: the kernel sleeps and wants a system call.
const NEED_WAKEUP: u32 = 1;

/// One ring of entries `T`, of which this process is the producer or the consumer.
#[derive(Debug)]
pub(super) struct Ring<T> {
    map: Map,
    producer: usize,
    consumer: usize,
    flags: usize,
    entries: usize,
    size: u32,
    /// This side's position, not yet published.
    position: u32,
    entry: PhantomData<T>,
}

impl<T: Copy> Ring<T> {
    /// Maps the ring of `size` entries, a power of two, that lies at `page_offset` of the socket.
    pub(super) fn map(
        socket: impl AsFd,
        page_offset: u64,
        at: &XdpRingOffset,
        size: u32,
    ) -> Result<Ring<T>, Errno> {
        let flags = at.flags.ok_or(Errno::OPNOTSUPP)?;
        let bytes = at.desc + u64::from(size) * size_of::<T>() as u64;
        let ring = Ring {
            map: Map::ring(socket, page_offset, bytes as usize)?,
            producer: at.producer as usize,
            consumer: at.consumer as usize,
            flags: flags as usize,
            entries: at.desc as usize,
            size,
            position: 0,
            entry: PhantomData,
        };
        // What the accessors below rely on.
        let words = [ring.producer, ring.consumer, ring.flags];
        let fits = words.iter().all(|&word| {
            word.is_multiple_of(align_of::<u32>()) && ring.map.at(word, size_of::<u32>()).is_some()
        });
        if fits && ring.entries.is_multiple_of(align_of::<T>()) && size.is_power_of_two() {
            Ok(ring)
        } else {
            Err(Errno::INVAL)
        }
    }

    fn word(&self, offset: usize) -> &AtomicU32 {
        // SAFETY: `map` checked that these words lie in the mapping, aligned; both sides access
        // them as one.
        unsafe { AtomicU32::from_ptr(self.map.base().add(offset).cast()) }
    }

    fn entry_at(&self, position: u32) -> *mut T {
        let index = (position & (self.size - 1)) as usize;
        // SAFETY: the index is below the size that was mapped.
        unsafe { self.map.base().add(self.entries).cast::<T>().add(index) }
    }

    /// Producer: entries that can be pushed.
    pub(super) fn free(&self) -> u32 {
        self.size.saturating_sub(self.held())
    }

    /// Producer: entries, published or not, that the kernel has not taken.
    pub(super) fn held(&self) -> u32 {
        let taken = self.word(self.consumer).load(Ordering::Acquire);
        self.position.wrapping_sub(taken)
    }

    /// Producer: adds an entry, unseen until [`Ring::publish`]; `false` when full.
    pub(super) fn push(&mut self, entry: T) -> bool {
        if self.free() == 0 {
            return false;
        }
        // SAFETY: the kernel does not read this entry before its position is published.
        unsafe { self.entry_at(self.position).write(entry) };
        self.position = self.position.wrapping_add(1);
        true
    }

    /// Producer: passes what was pushed to the kernel.
    pub(super) fn publish(&self) {
        self.word(self.producer)
            .store(self.position, Ordering::Release);
    }

    /// Consumer: entries that wait.
    pub(super) fn waiting(&self) -> u32 {
        let given = self.word(self.producer).load(Ordering::Acquire);
        given.wrapping_sub(self.position).min(self.size)
    }

    /// Consumer: the entry `ahead` of the first one that waits; `ahead` is below [`Ring::waiting`].
    pub(super) fn peek(&self, ahead: u32) -> T {
        // SAFETY: the entry lies in the mapping; the kernel wrote it before it published it. Any
        // bytes are valid in the types used here: numbers and structures of numbers.
        unsafe { self.entry_at(self.position.wrapping_add(ahead)).read() }
    }

    /// Consumer: passes `count` entries back to the kernel.
    pub(super) fn release(&mut self, count: u32) {
        self.position = self.position.wrapping_add(count);
        self.word(self.consumer)
            .store(self.position, Ordering::Release);
    }

    /// Producer: whether the kernel waits for a system call.
    pub(super) fn needs_wakeup(&self) -> bool {
        // The kernel sets the flag and looks at the ring again; here the other way around.
        fence(Ordering::SeqCst);
        self.word(self.flags).load(Ordering::Relaxed) & NEED_WAKEUP != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{MemfdFlags, ftruncate, memfd_create};

    const SIZE: u32 = 8;

    /// Both ends of one ring whose positions begin at `position`.
    fn ends(position: u32) -> (Ring<u64>, Ring<u64>) {
        let file = memfd_create("ring", MemfdFlags::CLOEXEC).unwrap();
        ftruncate(&file, 4096).unwrap();
        let at = XdpRingOffset {
            producer: 0,
            consumer: 64,
            desc: 256,
            flags: Some(128),
        };
        let end = || Ring::<u64>::map(&file, 0, &at, SIZE).unwrap();
        let (mut producer, mut consumer) = (end(), end());
        for word in [0, 64] {
            producer.word(word).store(position, Ordering::Relaxed);
        }
        producer.position = position;
        consumer.position = position;
        (producer, consumer)
    }

    #[test]
    fn entries_pass_in_order_also_where_positions_wrap() {
        let (mut producer, mut consumer) = ends(u32::MAX - 20);
        let (mut pushed, mut found) = (0u64, 0u64);
        for round in 0..40u64 {
            for _ in 0..1 + round % u64::from(SIZE) {
                assert!(producer.push(pushed));
                pushed += 1;
            }
            assert_eq!(consumer.waiting(), 0, "not yet published");
            producer.publish();
            let waiting = consumer.waiting();
            assert_eq!(u64::from(waiting), pushed - found);
            assert_eq!(producer.held(), waiting);
            for ahead in 0..waiting {
                assert_eq!(consumer.peek(ahead), found);
                found += 1;
            }
            consumer.release(waiting);
            assert_eq!((producer.held(), producer.free()), (0, SIZE));
        }
        assert!(pushed > 100, "the positions have wrapped");
    }

    #[test]
    fn a_full_ring_takes_no_more() {
        let (mut producer, mut consumer) = ends(u32::MAX - 3);
        for number in 0..u64::from(SIZE) {
            assert!(producer.push(number));
        }
        assert!(!producer.push(99));
        producer.publish();
        assert_eq!(consumer.waiting(), SIZE);
        consumer.release(1);
        assert!(producer.push(8));
        assert!(!producer.push(99));
    }

    #[test]
    fn a_ring_that_does_not_fit_is_refused() {
        let file = memfd_create("ring", MemfdFlags::CLOEXEC).unwrap();
        ftruncate(&file, 4096).unwrap();
        let at = |producer, flags| XdpRingOffset {
            producer,
            consumer: 64,
            desc: 256,
            flags,
        };
        assert!(
            Ring::<u64>::map(&file, 0, &at(0, None), SIZE).is_err(),
            "no flags"
        );
        assert!(
            Ring::<u64>::map(&file, 0, &at(2, Some(128)), SIZE).is_err(),
            "unaligned"
        );
        assert!(
            Ring::<u64>::map(&file, 0, &at(4096, Some(128)), SIZE).is_err(),
            "outside"
        );
        assert!(
            Ring::<u64>::map(&file, 0, &at(0, Some(128)), 7).is_err(),
            "size"
        );
    }
}
