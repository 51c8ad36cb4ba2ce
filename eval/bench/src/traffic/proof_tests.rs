//! Known damage, done at random, must be classified as what it is.

use std::collections::BTreeSet;

use proptest::collection::{btree_set, vec};
use proptest::prelude::*;
use proptest::sample::Index;

use super::*;

/// A frame of content `n`; `n` from `UNSENT` on is never sent.
fn frame(n: u16) -> Vec<u8> {
    let mut frame = vec![0xee; 60];
    frame[14..16].copy_from_slice(&n.to_be_bytes());
    frame
}

const UNSENT: u16 = 0x8000;

fn frames(numbers: &[u16]) -> Vec<Vec<u8>> {
    numbers.iter().map(|n| frame(*n)).collect()
}

/// Traffic in which most contents come several times, as in a capture sent over and over.
fn repeating() -> impl Strategy<Value = Vec<Vec<u8>>> {
    vec(0..12_u16, 1..200).prop_map(|numbers| frames(&numbers))
}

fn distinct(count: usize) -> Vec<Vec<u8>> {
    (0..count as u16).map(frame).collect()
}

fn pick(indices: &[Index], len: usize) -> BTreeSet<usize> {
    indices.iter().map(|index| index.index(len)).collect()
}

/// The textbook table, to compare with.
fn common_by_table(a: &[usize], b: &[usize]) -> usize {
    let mut table = vec![vec![0; b.len() + 1]; a.len() + 1];
    for (i, x) in a.iter().enumerate() {
        for (j, y) in b.iter().enumerate() {
            table[i + 1][j + 1] = if x == y {
                table[i][j] + 1
            } else {
                table[i][j + 1].max(table[i + 1][j])
            };
        }
    }
    table[a.len()][b.len()]
}

#[test]
fn equal_lists_are_intact() {
    let sent = distinct(1000);
    let found = compare(&sent, &sent);
    assert!(found.is_intact());
    assert_eq!((found.sent, found.received), (1000, 1000));
    assert!(compare::<Vec<u8>, Vec<u8>>(&[], &[]).is_intact());
}

#[test]
fn nothing_received_is_all_lost() {
    let sent = distinct(10);
    let found = compare::<_, Vec<u8>>(&sent, &[]);
    assert_eq!((found.lost, found.reordered), (10, 0));
    assert_eq!(found.first_difference, Some(1));
}

#[test]
fn a_cut_or_padded_frame_is_altered() {
    let sent = distinct(3);
    let mut received = sent.clone();
    received[0].pop();
    received[2].push(0);
    let found = compare(&sent, &received);
    assert_eq!((found.altered, found.lost, found.foreign), (2, 0, 0));
}

#[test]
fn two_frames_swapped_are_one_reordered() {
    let sent = distinct(100);
    let mut received = sent.clone();
    received.swap(40, 41);
    assert_eq!(
        compare(&sent, &received),
        Comparison {
            sent: 100,
            received: 100,
            reordered: 1,
            first_difference: Some(41),
            ..Comparison::default()
        }
    );
}

#[test]
fn damage_in_a_repeated_capture_is_seen() {
    let once = distinct(7);
    let sent: Vec<_> = once.iter().cycle().take(700).cloned().collect();
    let mut received = sent.clone();
    received.remove(350);
    let found = compare(&sent, &received);
    assert_eq!((found.lost, found.reordered), (1, 0));
    received.insert(340, once[0].clone());
    assert!(!compare(&sent, &received).is_intact());
}

#[test]
fn the_sentence_names_what_is_not_zero() {
    let sent = distinct(4);
    let mut received = sent[1..].to_vec();
    received.push(frame(3));
    assert_eq!(
        compare(&sent, &received).to_string(),
        "4 sent, 4 received: 1 lost, 1 duplicated; first difference at frame 1"
    );
}

#[test]
fn long_and_hopeless_lists_take_bounded_time() {
    let sent: Vec<_> = (0..20_000).map(|n| frame(n % 3)).collect();
    let received: Vec<_> = (0..20_000).map(|n| frame(2 - n % 3)).collect();
    let found = compare(&sent, &received);
    assert!(!found.is_intact());
    assert!(found.reordered > 0 && found.lost <= 1);
}

proptest! {
    #[test]
    fn dropping_is_loss(sent in repeating(), drop in vec(any::<Index>(), 0..20)) {
        let drop = pick(&drop, sent.len());
        let received: Vec<_> = sent.iter().enumerate()
            .filter(|(n, _)| !drop.contains(n)).map(|(_, f)| f.clone()).collect();
        let found = compare(&sent, &received);
        prop_assert_eq!(found.lost, drop.len());
        prop_assert_eq!(
            (found.reordered, found.duplicated, found.altered, found.foreign), (0, 0, 0, 0));
    }

    #[test]
    fn copies_are_duplicates(
        sent in repeating(),
        copies in vec((any::<Index>(), any::<Index>()), 0..20),
    ) {
        let mut received = sent.clone();
        for (which, position) in &copies {
            received.insert(position.index(received.len() + 1), which.get(&sent).clone());
        }
        let found = compare(&sent, &received);
        prop_assert_eq!(found.duplicated, copies.len());
        prop_assert_eq!(
            (found.lost, found.reordered, found.altered, found.foreign), (0, 0, 0, 0));
    }

    #[test]
    fn changed_bytes_are_alterations(
        sent in repeating(),
        change in vec((any::<Index>(), 0..60_usize, 1..=255_u8), 0..20),
    ) {
        let mut received = sent.clone();
        let mut changed = BTreeSet::new();
        for (which, byte, bits) in &change {
            let which = which.index(sent.len());
            // One byte outside the number, or the number's high bit: never a content that was sent.
            if changed.insert(which) {
                match byte {
                    14 | 15 => received[which][14] |= (UNSENT >> 8) as u8,
                    _ => received[which][*byte] ^= bits,
                }
            }
        }
        let found = compare(&sent, &received);
        prop_assert_eq!(found.altered, changed.len());
        prop_assert_eq!(
            (found.lost, found.reordered, found.duplicated, found.foreign), (0, 0, 0, 0));
    }

    #[test]
    fn strangers_are_foreign(sent in repeating(), positions in vec(any::<Index>(), 0..20)) {
        let mut received = sent.clone();
        for (n, position) in positions.iter().enumerate() {
            received.insert(position.index(received.len() + 1), frame(UNSENT + n as u16));
        }
        let found = compare(&sent, &received);
        prop_assert_eq!(found.foreign, positions.len());
        prop_assert_eq!(
            (found.lost, found.reordered, found.duplicated, found.altered), (0, 0, 0, 0));
    }

    #[test]
    fn one_frame_moved_is_one_reordered(
        from in any::<Index>(),
        to in any::<Index>(),
        len in 2..300_usize,
    ) {
        let sent = distinct(len);
        let (from, to) = (from.index(len), to.index(len));
        let mut received = sent.clone();
        let moved = received.remove(from);
        received.insert(to, moved);
        let found = compare(&sent, &received);
        prop_assert_eq!(found.reordered, usize::from(from != to));
        prop_assert_eq!(
            (found.lost, found.duplicated, found.altered, found.foreign), (0, 0, 0, 0));
    }

    #[test]
    fn a_shuffle_only_reorders(sent in repeating(), seed in any::<u64>()) {
        let mut received = sent.clone();
        let mut state = seed | 1;
        for n in (1..received.len()).rev() {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            received.swap(n, (state >> 33) as usize % (n + 1));
        }
        let found = compare(&sent, &received);
        prop_assert_eq!(found.is_intact(), sent == received);
        prop_assert_eq!(found.reordered == 0, sent == received);
        prop_assert_eq!(
            (found.lost, found.duplicated, found.altered, found.foreign), (0, 0, 0, 0));
    }

    #[test]
    fn damage_of_all_kinds_adds_up(
        len in 20..300_usize,
        hit in btree_set(0..20_usize, 3..20),
        spread in 1..14_usize,
    ) {
        // Distinct frames, so every kind has one right answer.
        let sent = distinct(len);
        let hit: Vec<_> = hit.into_iter().map(|n| (n * spread) % len).collect::<BTreeSet<_>>()
            .into_iter().collect();
        let (mut lost, mut altered, mut duplicated) = (0, 0, 0);
        let mut received = Vec::new();
        for (n, original) in sent.iter().enumerate() {
            match hit.iter().position(|h| *h == n).map(|p| p % 3) {
                Some(0) => lost += 1,
                Some(1) => { altered += 1; received.push(frame(UNSENT + n as u16)); }
                Some(_) => {
                    duplicated += 1;
                    received.extend([original.clone(), original.clone()]);
                }
                None => received.push(original.clone()),
            }
        }
        let found = compare(&sent, &received);
        prop_assert_eq!(
            (found.lost, found.altered, found.duplicated), (lost, altered, duplicated));
        prop_assert_eq!((found.reordered, found.foreign), (0, 0));
    }

    #[test]
    fn any_two_lists_balance(a in vec(0..10_u16, 0..120), b in vec(0..14_u16, 0..120)) {
        let (sent, received) = (frames(&a), frames(&b));
        let v = compare(&sent, &received);
        prop_assert_eq!(v.sent - v.lost + v.duplicated + v.foreign, v.received);
        let all = v.lost + v.reordered + v.duplicated + v.altered + v.foreign;
        prop_assert_eq!(all == 0, sent == received);
        prop_assert_eq!(v.is_intact(), sent == received);
    }

    #[test]
    fn bit_parallel_equals_the_table(a in vec(0..9_usize, 0..200), b in vec(0..12_usize, 0..200)) {
        prop_assert_eq!(common_subsequence(&a, &b, 9), common_by_table(&a, &b));
    }
}
