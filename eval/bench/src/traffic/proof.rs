//! The proof that every frame arrived: once, in order, byte for byte.
//!
//! Two lists are compared by content alone; nothing is added to the frames. Identical frames (a
//! capture that is sent several times over) are told apart by their position only as far as that is
//! possible. With *s* and *r* the number of times that one content was sent and received:
//!
//! | count | is |
//! | --- | --- |
//! | duplicated | sum of *r* - *s*, where more copies of a sent content arrived than were sent |
//! | altered | received frames whose content was never sent, as many as sent ones are missing |
//! | lost | sum of *s* - *r*, where fewer arrived, less the altered |
//! | foreign | received frames whose content was never sent, beyond the altered ones |
//! | reordered | the fewest arrived frames that would have to move to restore the order |
//!
//! All five are zero exactly when the two lists are equal.

use std::collections::HashMap;
use std::fmt;

/// Outcome of [`compare`], in frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Comparison {
    /// Frames sent.
    pub sent: usize,
    /// Frames received.
    pub received: usize,
    /// Frames that did not arrive.
    pub lost: usize,
    /// Frames that arrived out of order.
    pub reordered: usize,
    /// Copies that arrived beyond those sent.
    pub duplicated: usize,
    /// Frames that arrived with other bytes.
    pub altered: usize,
    /// Frames that nobody sent.
    pub foreign: usize,
    /// Place of the first difference, counted from 1 in both lists.
    pub first_difference: Option<usize>,
}

impl Comparison {
    /// Whether every frame arrived once, in order and unaltered, and nothing else did.
    pub fn is_intact(&self) -> bool {
        self.first_difference.is_none()
    }
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} sent, {} received", self.sent, self.received)?;
        let Some(position) = self.first_difference else {
            return write!(f, ": every frame once, in order, byte for byte");
        };
        let counts = [
            (self.lost, "lost"),
            (self.reordered, "reordered"),
            (self.duplicated, "duplicated"),
            (self.altered, "altered"),
            (self.foreign, "never sent"),
        ];
        for (n, (count, what)) in counts.into_iter().filter(|(n, _)| *n > 0).enumerate() {
            write!(f, "{} {count} {what}", if n == 0 { ":" } else { "," })?;
        }
        write!(f, "; first difference at frame {position}")
    }
}

/// Compares the frames sent with the frames received.
pub fn compare<S: AsRef<[u8]>, R: AsRef<[u8]>>(sent: &[S], received: &[R]) -> Comparison {
    let mut comparison = Comparison {
        sent: sent.len(),
        received: received.len(),
        ..Comparison::default()
    };

    let same = |(s, r): &(&S, &R)| s.as_ref() == r.as_ref();
    let head = sent.iter().zip(received).take_while(same).count();
    if head == sent.len() && head == received.len() {
        return comparison;
    }
    comparison.first_difference = Some(head + 1);

    // Number the contents, so that everything below compares integers.
    let mut numbers = HashMap::new();
    let sent = number(&mut numbers, sent);
    let contents_sent = numbers.len();
    let received = number(&mut numbers, received);

    // What agrees at both ends is in order whatever lies between: taking it away changes none of
    // the counts below.
    let (sent, received) = (&sent[head..], &received[head..]);
    let tail = sent.iter().rev().zip(received.iter().rev());
    let tail = tail.take_while(|(s, r)| s == r).count();
    let sent = &sent[..sent.len() - tail];
    let received = &received[..received.len() - tail];

    let mut balance = vec![0_isize; numbers.len()];
    sent.iter().for_each(|&content| balance[content] += 1);
    received.iter().for_each(|&content| balance[content] -= 1);
    let (known, unknown) = balance.split_at(contents_sent);
    let missing = known.iter().filter(|b| **b > 0).sum::<isize>() as usize;
    let excess = -known.iter().filter(|b| **b < 0).sum::<isize>() as usize;
    let never_sent = -unknown.iter().sum::<isize>() as usize;

    comparison.duplicated = excess;
    comparison.altered = missing.min(never_sent);
    comparison.lost = missing - comparison.altered;
    comparison.foreign = never_sent - comparison.altered;
    comparison.reordered = sent.len() - missing - common_subsequence(sent, received, contents_sent);
    comparison
}

/// Gives equal frames equal numbers, counting up from 0 as contents appear.
fn number<'a, F: AsRef<[u8]>>(
    numbers: &mut HashMap<&'a [u8], usize>,
    frames: &'a [F],
) -> Vec<usize> {
    frames
        .iter()
        .map(|frame| {
            let next = numbers.len();
            *numbers.entry(frame.as_ref()).or_insert(next)
        })
        .collect()
}

/// Length of the longest common subsequence of `a` and `b`; the numbers in `a` are below
/// `contents`.
///
/// Bit-parallel: a row of the textbook table is a bit vector over `a`, one update a word
/// (H. Hyyrö, "Bit-parallel LCS-length computation revisited", 2004). Time a.len() * b.len() / 64.
fn common_subsequence(a: &[usize], b: &[usize], contents: usize) -> usize {
    let words = a.len().div_ceil(64);
    let mut positions = vec![Vec::new(); contents];
    for (position, &content) in a.iter().enumerate() {
        positions[content].push(position);
    }
    let mut row = vec![u64::MAX; words];
    let mut matches = vec![0_u64; words];
    for positions in b.iter().filter_map(|&content| positions.get(content)) {
        positions
            .iter()
            .for_each(|position| matches[position / 64] |= 1 << (position % 64));
        let mut carry = false;
        for (word, matched) in row.iter_mut().zip(&matches) {
            let hit = *word & matched;
            let (sum, over) = word.overflowing_add(hit);
            let (sum, over_again) = sum.overflowing_add(u64::from(carry));
            carry = over || over_again;
            *word = sum | (*word & !matched);
        }
        positions
            .iter()
            .for_each(|position| matches[position / 64] = 0);
    }
    (0..a.len())
        .filter(|position| row[position / 64] & (1 << (position % 64)) == 0)
        .count()
}

#[cfg(test)]
#[path = "proof_tests.rs"]
mod tests;
