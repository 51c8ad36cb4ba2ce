//! Sets of ports and of RX queues: one bit for each number below 256, in four words.
#![forbid(unsafe_code)]
use core::marker::PhantomData;

use postern_abi::window::PortId;

/// A member of a [`Set`]: it has a number below 256.
pub trait Member: Copy {
    /// The number.
    fn number(self) -> u8;
    /// The member with that number.
    fn from_number(number: u8) -> Self;
}

impl Member for PortId {
    #[inline(always)]
    fn number(self) -> u8 {
        PortId::number(self) as u8
    }

    #[inline(always)]
    fn from_number(number: u8) -> PortId {
        PortId::from_number(number)
    }
}

/// An RX queue, numbered in the whole NIC: port times queues of a port, plus the queue of the port.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct RxQueueNumber(pub u8);

impl Member for RxQueueNumber {
    #[inline(always)]
    fn number(self) -> u8 {
        self.0
    }

    #[inline(always)]
    fn from_number(number: u8) -> RxQueueNumber {
        RxQueueNumber(number)
    }
}

/// A set of ports.
pub type PortSet = Set<PortId>;

/// A set of RX queues of the whole NIC.
pub type RxQueueSet = Set<RxQueueNumber>;

/// A set of members of one type.
#[derive(Clone, Copy)]
pub struct Set<T> {
    words: [u64; 4],
    member: PhantomData<T>,
}

impl<T> Default for Set<T> {
    /// The empty set.
    #[inline]
    fn default() -> Set<T> {
        Set::from_words([0; 4])
    }
}

impl<T> Set<T> {
    /// The set with these bits: bit `n % 64` of word `n / 64` stands for number `n`.
    #[inline]
    pub const fn from_words(words: [u64; 4]) -> Set<T> {
        Set {
            words,
            member: PhantomData,
        }
    }

    /// The set as bits, see [`Set::from_words`].
    #[inline]
    pub const fn words(&self) -> [u64; 4] {
        self.words
    }

    /// The members of both sets.
    #[inline]
    pub fn and(&self, other: Set<T>) -> Set<T> {
        let mut words = self.words;
        for (word, other) in words.iter_mut().zip(other.words) {
            *word &= other;
        }
        Set::from_words(words)
    }

    /// Takes the members of the other set out.
    #[inline]
    pub fn remove_all(&mut self, other: &Set<T>) {
        for (word, other) in self.words.iter_mut().zip(&other.words) {
            *word &= !other;
        }
    }

    /// Whether the set has no member.
    #[inline]
    pub const fn is_empty(&self) -> bool {
        let [a, b, c, d] = self.words;
        a | b | c | d == 0
    }

    /// Number of members.
    #[inline]
    pub const fn count(&self) -> u32 {
        let [a, b, c, d] = self.words;
        // Counting takes long where the processor's instruction for it may not be used.
        if b | c | d == 0 {
            return a.count_ones();
        }
        a.count_ones() + b.count_ones() + c.count_ones() + d.count_ones()
    }
}

impl<T: Member> Set<T> {
    /// The word and the bit in it that stand for a member.
    #[inline(always)]
    fn place(member: T) -> (usize, u64) {
        let number = member.number();
        (usize::from(number >> 6), 1 << (number & 63))
    }

    /// Whether a member is in the set.
    #[inline]
    pub fn has(&self, member: T) -> bool {
        let (word, bit) = Self::place(member);
        self.words[word] & bit != 0
    }

    /// Adds a member.
    #[inline]
    pub fn add(&mut self, member: T) {
        let (word, bit) = Self::place(member);
        self.words[word] |= bit;
    }

    /// Takes a member out.
    #[inline]
    pub fn remove(&mut self, member: T) {
        let (word, bit) = Self::place(member);
        self.words[word] &= !bit;
    }

    /// Calls a function for each member, in the order of their numbers.
    #[inline(always)]
    pub fn for_each(&self, mut function: impl FnMut(T)) {
        let mut base = 0u8;
        for word in &self.words {
            let mut word = *word;
            while word != 0 {
                function(T::from_number(base | word.trailing_zeros() as u8));
                word &= word.wrapping_sub(1);
            }
            base = base.wrapping_add(64);
        }
    }

    /// Takes the member with the lowest number out, if there is any.
    #[inline]
    pub fn pop(&mut self) -> Option<T> {
        for (word, base) in self.words.iter_mut().zip([0, 64, 128, 192]) {
            if *word != 0 {
                let bit = word.trailing_zeros() as u8;
                *word &= word.wrapping_sub(1);
                return Some(T::from_number(base | bit));
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_come_out_in_order() {
        let mut set = RxQueueSet::default();
        for number in [255, 0, 64, 63, 192, 7] {
            set.add(RxQueueNumber(number));
        }
        set.remove(RxQueueNumber(7));
        assert!(set.has(RxQueueNumber(192)) && !set.has(RxQueueNumber(7)));
        let mut other = set;
        other.remove(RxQueueNumber(64));
        assert_eq!(set.and(other).words(), other.words());
        let mut rest = set;
        rest.remove_all(&other);
        assert_eq!(rest.words(), [0, 1, 0, 0]);
        assert_eq!(set.count(), 5);
        let mut numbers = Vec::new();
        set.for_each(|queue| numbers.push(queue.0));
        assert_eq!(numbers, [0, 63, 64, 192, 255]);
        numbers.clear();
        while let Some(queue) = set.pop() {
            numbers.push(queue.0);
        }
        assert_eq!(numbers, [0, 63, 64, 192, 255]);
        assert!(set.is_empty());
    }
}
