//! The forwarding database ([`Fdb`]; IEEE 802.1Q "Filtering Database"): which port a station is
//! behind.
//!
//! It has [`BUCKETS`] buckets of [`WAYS`] entries, each entry one atomic word. VLAN and MAC address
//! of a station together (60 bits) go through a keyed bijection. The upper bits of its result
//! choose the bucket and the entry holds the others, so that an entry is always whole and yet tells
//! the station apart from every other one. Without the key nobody can aim at a victim's bucket.
//!
//! ```text
//!   bit  63     62 .. 55   54 .. 50   49 .. 0
//!        valid  port       stamp      rest of the station
//! ```
//!
//! The stamp is the tick at which the station was last seen sending, or [`STATIC`]. The owner of
//! the NIC removes entries that are too old ([`Fdb::sweep`]). A static entry, such as a port's own
//! address, is neither moved nor evicted.
//!
//! The VLAN is 0 on a switch without VLANs. On one with VLANs, a static entry of VLAN 0 holds in all
//! VLANs of its port (IEEE 802.1Q "Static Filtering Entries", which know a wildcard for the VID).
//! Learned entries of VLAN 0 mean nothing there; whoever sets the first VLAN removes them
//! ([`Fdb::flush`]).
//!
//! A new station for which its bucket has no free way gets a way of the port that holds most of the
//! bucket, unless that port would be left with fewer ways than the new station's port. So a port
//! that floods the database with addresses replaces its own entries, and the last entry that a port
//! has in a bucket is never taken from it.
#![deny(unsafe_code)]

use crate::prefetch::prefetch;
use crate::sync::{AtomicU64, Ordering::Relaxed};

use postern_abi::window::PortId;

/// Number of entries of a bucket.
pub const WAYS: usize = 16;
/// Number of buckets of the database.
pub const BUCKETS: usize = 1 << BUCKET_BITS;
const BUCKET_BITS: u32 = 10;

/// The 48 bits of a MAC address, first byte lowest.
pub const MAC_MASK: u64 = (1 << 48) - 1;
/// The bit that tells group addresses (multicast and broadcast) from stations'.
pub const GROUP_BIT: u64 = 1;

/// Number of stamps of learned entries: they count modulo this number.
pub const STAMPS: u32 = 31;
/// The stamp of a static entry, which stays until it is removed by name.
pub const STATIC: u32 = 31;

const STATION_BITS: u32 = 60;
const STATION_MASK: u64 = (1 << STATION_BITS) - 1;
const REST_BITS: u32 = STATION_BITS - BUCKET_BITS;
const REST_MASK: u64 = (1 << REST_BITS) - 1;
const STAMP_SHIFT: u32 = REST_BITS;
const PORT_SHIFT: u32 = STAMP_SHIFT + 5;
const VALID: u64 = 1 << 63;

const _: () = assert!(PORT_SHIFT + 8 == 63);

/// A station: the MAC address of a network interface and the VLAN in which it was seen, 60 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Station(u64);

impl Station {
    /// The station with a MAC address, first byte lowest, in a VLAN. Of `vlan` 12 bits count, of
    /// `mac` 48.
    #[inline]
    pub const fn new(vlan: u32, mac: u64) -> Station {
        Station((vlan as u64 & 0xfff) << 48 | mac & MAC_MASK)
    }

    /// Its MAC address, first byte lowest.
    pub const fn mac(self) -> u64 {
        self.0 & MAC_MASK
    }

    /// Its VLAN.
    pub const fn vlan(self) -> u32 {
        (self.0 >> 48) as u32
    }
}

/// The key of the bijection from stations to words of 60 bits.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    add: u64,
    first: u64,
    second: u64,
}

impl Key {
    /// The key made from 16 random bytes.
    #[inline]
    pub const fn new(words: [u64; 2]) -> Key {
        Key {
            add: words[0],
            first: words[1] | 1,
            second: (words[0] ^ words[1].rotate_left(32)) | 1,
        }
    }

    /// The word of a station. Each step can be undone: an exclusive or, a product with an odd
    /// number modulo 2^60, and an exclusive or with the word's own upper half.
    #[inline]
    const fn mix(self, station: Station) -> u64 {
        let mut word = (station.0 ^ self.add) & STATION_MASK;
        word = word.wrapping_mul(self.first) & STATION_MASK;
        word ^= word >> 30;
        word = word.wrapping_mul(self.second) & STATION_MASK;
        word ^ word >> 30
    }

    /// The station of a word: the inverse of [`Key::mix`].
    fn unmix(self, word: u64) -> Station {
        let word = word ^ word >> 30;
        let word = word.wrapping_mul(inverse(self.second)) & STATION_MASK;
        let word = word ^ word >> 30;
        let word = word.wrapping_mul(inverse(self.first));
        Station((word ^ self.add) & STATION_MASK)
    }
}

/// The inverse of an odd number modulo 2^64, by Newton's iteration.
const fn inverse(odd: u64) -> u64 {
    let mut inverse = odd;
    let mut step = 0;
    while step < 6 {
        inverse = inverse.wrapping_mul(2u64.wrapping_sub(odd.wrapping_mul(inverse)));
        step += 1;
    }
    inverse
}

/// The result of [`Fdb::learn`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Learned {
    /// The station was known to be behind the port.
    Known,
    /// The station was not known, and is now.
    New,
    /// The station was behind another port before.
    Moved,
    /// The station has a static entry with another port, or its bucket has no room for the port.
    Refused,
    /// Another call changed the same way at the same moment. The next frame tries again.
    Raced,
}

/// An entry as [`Fdb::entries`] lists it, for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The station.
    pub station: Station,
    /// Number of the port that it is behind.
    pub port: u32,
    /// Tick at which it was last seen, modulo [`STAMPS`], or [`STATIC`].
    pub stamp: u32,
}

/// The forwarding database. All zero is empty.
#[repr(C, align(128))]
pub struct Fdb {
    buckets: [[AtomicU64; WAYS]; BUCKETS],
}

impl core::fmt::Debug for Fdb {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Fdb").finish_non_exhaustive()
    }
}

/// Number of the port in an entry's word; below [`postern_abi::window::MAX_PORTS`], whatever the
/// word is.
const fn port_of(word: u64) -> u32 {
    (word >> PORT_SHIFT) as u32 & 0xff
}

/// The stamp in an entry's word.
const fn stamp_of(word: u64) -> u32 {
    (word >> STAMP_SHIFT) as u32 & 31
}

impl Fdb {
    /// The bucket of a station, and the bits of its entry that tell it apart from other stations
    /// there.
    #[inline]
    fn place(&self, key: Key, station: Station) -> (&[AtomicU64; WAYS], u64) {
        let mixed = key.mix(station);
        let bucket = (mixed >> REST_BITS) as usize & (BUCKETS - 1);
        (&self.buckets[bucket], VALID | mixed & REST_MASK)
    }

    /// Looks a station up: number of the port that it is behind, if known. The number is below
    /// [`postern_abi::window::MAX_PORTS`], whatever the database holds.
    #[inline]
    pub fn find(&self, key: Key, station: Station) -> Option<u32> {
        let (bucket, wanted) = self.place(key, station);
        for way in bucket {
            let word = way.load(Relaxed);
            if (word ^ wanted) & (VALID | REST_MASK) == 0 {
                return Some(port_of(word));
            }
        }
        None
    }

    /// Has the processor fetch what [`Fdb::find`] reads of a station that is looked up soon.
    #[inline]
    pub fn prefetch(&self, key: Key, station: Station) {
        prefetch(self.place(key, station).0);
    }

    /// Looks up the static entry of a station: number of the port that it is behind, as for
    /// [`Fdb::find`].
    #[inline]
    pub fn find_static(&self, key: Key, station: Station) -> Option<u32> {
        let (bucket, wanted) = self.place(key, station);
        let wanted = wanted | u64::from(STATIC) << STAMP_SHIFT;
        let mask = VALID | REST_MASK | u64::from(STATIC) << STAMP_SHIFT;
        for way in bucket {
            let word = way.load(Relaxed);
            if (word ^ wanted) & mask == 0 {
                return Some(port_of(word));
            }
        }
        None
    }

    /// Learns that a station was seen behind a port at a tick. The station must be no group
    /// address.
    #[inline]
    pub fn learn(&self, key: Key, station: Station, port: PortId, tick: u32) -> Learned {
        let (bucket, wanted) = self.place(key, station);
        let here = wanted | u64::from(port.number()) << PORT_SHIFT;
        let new = here | u64::from(tick & 31) << STAMP_SHIFT;
        for way in bucket {
            let word = way.load(Relaxed);
            if word == new {
                return Learned::Known;
            }
            if (word ^ wanted) & (VALID | REST_MASK) == 0 {
                return renew(way, word, new);
            }
        }
        insert(bucket, new, false)
    }

    /// Makes a static entry: the station is behind the port until [`Fdb::unpin`] or
    /// [`Fdb::forget`]. Only one thread of the host may do this at a time. [`Learned::Refused`] says
    /// that the bucket is full of static entries.
    pub fn pin(&self, key: Key, station: Station, port: PortId) -> Learned {
        let (bucket, wanted) = self.place(key, station);
        let here = wanted | u64::from(port.number()) << PORT_SHIFT;
        let new = here | u64::from(STATIC) << STAMP_SHIFT;
        for way in bucket {
            let word = way.load(Relaxed);
            if (word ^ wanted) & (VALID | REST_MASK) == 0 {
                way.store(new, Relaxed);
                return Learned::New;
            }
        }
        loop {
            let done = insert(bucket, new, true);
            // Where it has raced, a call has learned a station of this bucket meanwhile.
            if done != Learned::Raced {
                return done;
            }
        }
    }

    /// Removes the entry of a station, static or learned. Returns whether there was one.
    pub fn unpin(&self, key: Key, station: Station) -> bool {
        let (bucket, wanted) = self.place(key, station);
        let mut found = false;
        for way in bucket {
            let word = way.load(Relaxed);
            if (word ^ wanted) & (VALID | REST_MASK) == 0 {
                way.store(0, Relaxed);
                found = true;
            }
        }
        found
    }

    /// Removes learned entries: those of a port, or all of them.
    pub fn flush(&self, port: Option<PortId>) {
        self.remove(|word, _| {
            let here = port.is_none_or(|port| port_of(word) == port.number());
            here && stamp_of(word) != STATIC
        });
    }

    /// Removes the learned entries that the closure chooses by their station and the number of their
    /// port.
    pub fn flush_if(&self, key: Key, gone: impl Fn(Station, u32) -> bool) {
        self.remove(|word, bucket| {
            stamp_of(word) != STATIC && gone(station(key, bucket, word), port_of(word))
        });
    }

    /// Removes all entries of a port, static ones too.
    pub fn forget(&self, port: PortId) {
        self.remove(|word, _| port_of(word) == port.number());
    }

    /// Removes the entries of stations that were not seen for `age` ticks or more. `age` is below
    /// [`STAMPS`]. Call it at each tick, since stamps count modulo [`STAMPS`].
    ///
    /// Learned entries of stations that have a static one go, too: a call that found a way free
    /// before [`Fdb::pin`], and was stopped, fills the way when it goes on.
    pub fn sweep(&self, tick: u32, age: u32) {
        self.remove(|word, bucket| {
            let stamp = stamp_of(word);
            let old = || (tick + STAMPS - stamp) % STAMPS >= age;
            stamp != STATIC && (old() || self.is_static(bucket, word))
        });
    }

    /// Whether the station of an entry's word has a static entry in its bucket.
    fn is_static(&self, bucket: u64, word: u64) -> bool {
        let ways = &self.buckets[bucket as usize & (BUCKETS - 1)];
        let mut ways = ways.iter().map(|way| way.load(Relaxed));
        ways.any(|other| (word ^ other) & (VALID | REST_MASK) == 0 && stamp_of(other) == STATIC)
    }

    /// Removes the entries whose words the closure chooses. It gets the number of the bucket, too.
    fn remove(&self, mut which: impl FnMut(u64, u64) -> bool) {
        for (bucket, number) in self.buckets.iter().zip(0u64..) {
            for way in bucket {
                let word = way.load(Relaxed);
                if word & VALID != 0 && which(word, number) {
                    // An entry that has just been renewed or replaced stays.
                    let _ = way.compare_exchange(word, 0, Relaxed, Relaxed);
                }
            }
        }
    }

    /// All entries, in the order of the buckets.
    pub fn entries(&self, key: Key) -> impl Iterator<Item = Entry> {
        let numbered = self.buckets.iter().zip(0u64..);
        let ways =
            numbered.flat_map(|(bucket, number)| bucket.iter().map(move |way| (way, number)));
        ways.filter_map(move |(way, number)| {
            let word = way.load(Relaxed);
            (word & VALID != 0).then(|| Entry {
                station: station(key, number, word),
                port: port_of(word),
                stamp: stamp_of(word),
            })
        })
    }
}

/// The station of an entry's word in a bucket of this number.
fn station(key: Key, bucket: u64, word: u64) -> Station {
    key.unmix(bucket << REST_BITS | word & REST_MASK)
}

/// Replaces a word by another, unless it has changed: then the result is [`Learned::Raced`].
fn replace(way: &AtomicU64, old: u64, new: u64, done: Learned) -> Learned {
    match way.compare_exchange(old, new, Relaxed, Relaxed) {
        Ok(_) => done,
        Err(_) => Learned::Raced,
    }
}

/// Renews the entry of a station that is known, but behind another port or with an older stamp.
#[cold]
#[inline(never)]
fn renew(way: &AtomicU64, old: u64, new: u64) -> Learned {
    match (stamp_of(old) == STATIC, port_of(old) == port_of(new)) {
        (true, true) => Learned::Known,
        (true, false) => Learned::Refused,
        (false, true) => replace(way, old, new, Learned::Known),
        (false, false) => replace(way, old, new, Learned::Moved),
    }
}

/// Puts an entry into a free way, or into one that may be taken from its port. `force` takes one
/// from whichever port holds most.
#[cold]
#[inline(never)]
fn insert(bucket: &[AtomicU64; WAYS], new: u64, force: bool) -> Learned {
    let mut words = [0; WAYS];
    for (word, way) in words.iter_mut().zip(bucket) {
        *word = way.load(Relaxed);
        if *word & VALID == 0 {
            return replace(way, *word, new, Learned::New);
        }
    }
    let held = |port: u32| {
        let mut count = 0u32;
        for word in &words {
            let evictable = stamp_of(*word) != STATIC;
            count = count.wrapping_add(u32::from(evictable && port_of(*word) == port));
        }
        count
    };
    let own = held(port_of(new));
    // The victim's port must have more ways than the new entry's port would have, or be that port.
    let mut victim = None;
    let mut most = 0;
    // The search begins at a way that depends on the address, so that a port with several uses all
    // of them.
    for (step, _) in bucket.iter().enumerate() {
        let at = (new as usize).wrapping_add(step) & (WAYS - 1);
        let word = words[at];
        let count = held(port_of(word));
        let fits = force || count > own.wrapping_add(1) || port_of(word) == port_of(new);
        if stamp_of(word) != STATIC && fits && count > most {
            most = count;
            victim = Some((at, word));
        }
    }
    match victim {
        Some((at, word)) => replace(&bucket[at & (WAYS - 1)], word, new, Learned::New),
        None => Learned::Refused,
    }
}

#[cfg(test)]
mod tests;
