//! The MAC table: which port a station is behind.
//!
//! Buckets of [`WAYS`] entries, found by a keyed hash, so that nobody can aim at a victim's bucket. An
//! entry is one atomic word, so it is always whole. A full bucket gives a newcomer the way of the
//! port that holds most of it: a port that floods the table with addresses replaces its own
//! entries once each other port has its share, and never evicts a port that holds fewer than it does.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use postern_abi::window::{MAX_PORTS, PortId};

/// Entries of a bucket: as many as ports, so that each port's share is at least one.
pub const WAYS: usize = 16;
/// Buckets of the table.
pub const BUCKETS: usize = 256;

/// The 48 bits of a MAC address, first byte lowest.
pub const MAC_MASK: u64 = (1 << 48) - 1;
/// The bit that tells group addresses (multicast and broadcast) from stations'.
pub const GROUP_BIT: u64 = 1;

const VALID: u64 = 1 << 63;
const PORT_SHIFT: u32 = 48;

const _: () = assert!(WAYS >= MAX_PORTS as usize && BUCKETS.is_power_of_two());

/// What [`Table::learn`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Learned {
    /// The station was known to be there.
    Known,
    /// It is new.
    New,
    /// It was behind another port.
    Moved,
    /// Somebody else changed the same way at the same moment; the next frame tries again.
    Raced,
}

/// The table. All zero is empty.
#[repr(C, align(128))]
pub struct Table {
    buckets: [[AtomicU64; WAYS]; BUCKETS],
}

const fn entry(mac: u64, port: PortId) -> u64 {
    VALID | (port.number() as u64) << PORT_SHIFT | mac
}

/// Whether a word is the valid entry of a station.
const fn is(word: u64, mac: u64) -> bool {
    (word ^ (VALID | mac)) & (VALID | MAC_MASK) == 0
}

/// The port of a word; masked, for the word may hold anything.
const fn port_of(word: u64) -> usize {
    (word >> PORT_SHIFT) as usize & (MAX_PORTS as usize - 1)
}

impl Table {
    /// Folded multiplication with the key, as in wyhash, so that nobody without the key can predict
    /// buckets; a second multiplication spreads what a poor key would leave close together.
    #[inline]
    fn bucket(&self, key: [u64; 2], mac: u64) -> &[AtomicU64; WAYS] {
        let product = u128::from(mac ^ key[0]) * u128::from(key[1] | 1);
        let folded = (product >> 64) as u64 ^ product as u64;
        let hash = folded.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        &self.buckets[(hash >> (u64::BITS - BUCKETS.ilog2())) as usize & (BUCKETS - 1)]
    }

    /// Number of the port that the station is behind, if known. Below [`MAX_PORTS`], whatever the
    /// table holds.
    #[inline]
    pub fn find(&self, key: [u64; 2], mac: u64) -> Option<u32> {
        for way in self.bucket(key, mac) {
            let word = way.load(Relaxed);
            if is(word, mac) {
                return Some(port_of(word) as u32);
            }
        }
        None
    }

    /// Notes that a station (not a group) is behind a port.
    #[inline]
    pub fn learn(&self, key: [u64; 2], mac: u64, port: PortId) -> Learned {
        let bucket = self.bucket(key, mac);
        let new = entry(mac, port);
        for way in bucket {
            let word = way.load(Relaxed);
            if word == new {
                return Learned::Known;
            }
            if is(word, mac) {
                return replace(way, word, new, Learned::Moved);
            }
        }
        insert(bucket, new, port)
    }

    /// Removes all entries of a port.
    pub fn forget(&self, port: PortId) {
        for way in self.buckets.as_flattened() {
            let word = way.load(Relaxed);
            if word & VALID != 0 && port_of(word) == port.index() {
                replace(way, word, 0, Learned::Moved);
            }
        }
    }

    /// All entries, as address and port number.
    pub fn entries(&self) -> impl Iterator<Item = ([u8; 6], u32)> {
        self.buckets.as_flattened().iter().filter_map(|way| {
            let word = way.load(Relaxed);
            let [a, b, c, d, e, f, _, _] = word.to_le_bytes();
            (word & VALID != 0).then_some(([a, b, c, d, e, f], port_of(word) as u32))
        })
    }
}

fn replace(way: &AtomicU64, old: u64, new: u64, done: Learned) -> Learned {
    match way.compare_exchange(old, new, Relaxed, Relaxed) {
        Ok(_) => done,
        Err(_) => Learned::Raced,
    }
}

/// Puts an entry into a free way, or else into one of the port that holds most of the bucket; among
/// equals, and if that is the newcomer's own port, into one of its own.
#[cold]
#[inline(never)]
fn insert(bucket: &[AtomicU64; WAYS], new: u64, port: PortId) -> Learned {
    let mut held = [0u8; MAX_PORTS as usize];
    for way in bucket {
        let word = way.load(Relaxed);
        if word & VALID == 0 {
            return replace(way, word, new, Learned::New);
        }
        let count = &mut held[port_of(word)];
        *count = count.wrapping_add(1);
    }
    let mut most = port.index();
    for (candidate, count) in held.iter().enumerate() {
        if *count > held[most & (MAX_PORTS as usize - 1)] {
            most = candidate;
        }
    }
    // Start at a place that depends on the address, so that a port with several ways uses all.
    for step in 0..WAYS {
        let way = &bucket[(new as usize).wrapping_add(step) & (WAYS - 1)];
        let word = way.load(Relaxed);
        if port_of(word) == most {
            return replace(way, word, new, Learned::New);
        }
    }
    Learned::Raced
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: [u64; 2] = [0x0123_4567_89ab_cdef, 0xfedc_ba98_7654_3211];

    fn empty() -> Box<Table> {
        // SAFETY: all zero is a valid table.
        unsafe { Box::<Table>::new_zeroed().assume_init() }
    }

    fn port(number: u32) -> PortId {
        PortId::new(number).unwrap()
    }

    /// Even addresses: the group bit is clear.
    fn mac(number: u64) -> u64 {
        number << 1
    }

    #[test]
    fn stations_are_found_moved_and_forgotten() {
        let table = empty();
        assert_eq!(table.find(KEY, mac(7)), None);
        assert_eq!(table.learn(KEY, mac(7), port(3)), Learned::New);
        assert_eq!(table.learn(KEY, mac(7), port(3)), Learned::Known);
        assert_eq!(table.find(KEY, mac(7)), Some(3));
        assert_eq!(table.learn(KEY, mac(7), port(15)), Learned::Moved);
        assert_eq!(table.find(KEY, mac(7)), Some(15));
        assert_eq!(table.entries().count(), 1);
        table.forget(port(3));
        assert_eq!(table.find(KEY, mac(7)), Some(15));
        table.forget(port(15));
        assert_eq!(table.find(KEY, mac(7)), None);
    }

    #[test]
    fn address_zero_is_not_an_empty_entry() {
        let table = empty();
        assert_eq!(table.find(KEY, 0), None);
        table.learn(KEY, 0, port(1));
        assert_eq!(table.find(KEY, 0), Some(1));
    }

    #[test]
    fn a_flood_evicts_nobody_who_holds_less() {
        let table = empty();
        // Port 0 floods first and takes everything it can get.
        for number in 0..100_000 {
            table.learn(KEY, mac(number), port(0));
        }
        assert_eq!(table.entries().count(), WAYS * BUCKETS);
        // Fourteen quiet ports still find a place, each for an address of its own,
        for quiet in 1..15 {
            let station = mac(1_000_000 + u64::from(quiet));
            assert_eq!(table.learn(KEY, station, port(quiet)), Learned::New);
        }
        // and keep it through another flood, by two ports at once.
        for number in 200_000..300_000 {
            table.learn(KEY, mac(number), port(0));
            table.learn(KEY, mac(number + 1_000_000), port(15));
        }
        for quiet in 1..15 {
            let station = mac(1_000_000 + u64::from(quiet));
            assert_eq!(table.find(KEY, station), Some(quiet));
        }
    }

    #[test]
    fn every_port_gets_its_share_of_one_bucket() {
        let table = empty();
        let bucket = table.bucket(KEY, 0).as_ptr();
        let alike: Vec<u64> = (0..)
            .map(mac)
            .filter(|mac| core::ptr::eq(table.bucket(KEY, *mac).as_ptr(), bucket))
            .take(WAYS * 4)
            .collect();
        for mac in &alike[..WAYS * 2] {
            table.learn(KEY, *mac, port(0));
        }
        for number in (0..16).rev() {
            table.learn(KEY, alike[WAYS * 2 + number as usize], port(number));
        }
        for number in 0..16 {
            let found = table.find(KEY, alike[WAYS * 2 + number as usize]);
            assert_eq!(found, Some(number), "one way each");
        }
    }
}
