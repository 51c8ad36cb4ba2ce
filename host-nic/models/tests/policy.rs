//! What all calls share and the host changes: access lists, the MAC table, token buckets. All of it is the real
//! code.
#![allow(clippy::unwrap_used, reason = "a failure is a failed test")]

mod common;

use common::{check, port};
use loom::thread;
use postern_nic_models::fdb::{Fdb, Key, Learned, Station, WAYS};
use postern_nic_models::policy::acl::{Acl, Direction, RULE_WORDS, RuleWords, Verdict};
use postern_nic_models::policy::headers::Headers;
use postern_nic_models::policy::rate::Bucket;
use postern_nic_models::policy::snapshot::Snapshot;
use postern_nic_models::sync::modelled::{Mutation, begin, share};

/// Something all zero that lives for ever.
fn zeroed<T: Sync>() -> &'static T {
    // SAFETY: all zero is valid for each of these, which are made of atomics.
    Box::leak(unsafe { Box::<T>::new_zeroed().assume_init() })
}

/// All zero again, with no word shared.
fn reset<T>(value: &T) {
    begin();
    // SAFETY: nobody uses it now, and all of it is atomics.
    unsafe { (&raw const *value).cast_mut().write_bytes(0, 1) };
}

fn share_all<T>(value: &T, words: impl IntoIterator<Item = usize>) {
    for word in words {
        share(
            (&raw const *value).cast::<u64>().wrapping_add(word).cast(),
            8,
        );
    }
}

const DENY: u64 = 1 << 63;
const MACS: u64 = 1 << 60;

/// A rule on one source address.
fn rule(action: u64, source: u64) -> RuleWords {
    let mut words = [0; RULE_WORDS];
    words[0] = action | MACS;
    words[3] = source;
    words[4] = u64::MAX >> 16;
    words
}

const WATCHED: u64 = 0x0602_0304_0506;

/// Lists that all deny one address, in different ways, and permit all else.
fn lists() -> [[RuleWords; 2]; 3] {
    let (deny, permit) = (rule(DENY, WATCHED), rule(0, 0x0602_0304_0508));
    [[deny, permit], [deny, permit], [permit, deny]]
}

fn replaced(acl: &'static Acl) {
    reset(acl);
    let [first, rest @ ..] = lists();
    acl.install(&first, Verdict::Permit);
    // The generation, and of each bank the header and what is compared of two rules.
    let size = size_of::<Acl>() / 8;
    let half = (size - 16) / 2;
    let rules = half - 32 * RULE_WORDS;
    share_all(acl, [0]);
    for start in [16, 16 + half] {
        share_all(acl, [start]);
        for rule in 0..2 {
            let at = start + rules + rule * RULE_WORDS;
            share_all(acl, [at, at + 3]);
        }
    }
    let host = thread::spawn(move || {
        for list in rest {
            acl.install(&list, Verdict::Permit);
        }
    });
    let mut bytes = [0u8; 64];
    bytes[6..12].copy_from_slice(&WATCHED.to_le_bytes()[..6]);
    let words: Vec<_> = bytes
        .chunks(8)
        .map(|w| u64::from_le_bytes(w.try_into().unwrap()))
        .collect();
    let headers = Headers::parse(&Snapshot::read(64, |index| words[index]));
    assert_eq!(headers.source, WATCHED);
    let verdict = acl.verdict(&headers, Direction::Ingress);
    assert_eq!(verdict, Verdict::Deny, "all lists deny it");
    host.join().unwrap();
}

fn check_acl(mutation: Mutation) {
    let acl = zeroed::<Acl>();
    check(mutation, 2, move || replaced(acl));
}

#[test]
fn a_list_is_seen_as_a_whole() {
    check_acl(Mutation::None);
}

#[test]
#[should_panic(expected = "all lists deny it")]
fn a_list_needs_fences() {
    check_acl(Mutation::NoFences);
}

#[test]
#[should_panic(expected = "all lists deny it")]
fn a_list_needs_release() {
    check_acl(Mutation::RelaxedStores);
}

const KEY: Key = Key::new([0x0123_4567_89ab_cdef, 0xfedc_ba98_7654_3211]);

/// Stations that share a bucket.
fn neighbours(table: &Fdb, count: usize) -> (Vec<Station>, usize) {
    let bucket_of = |station| {
        reset(table);
        table.learn(KEY, station, port(0), 0);
        let words = (&raw const *table).cast::<u64>();
        // SAFETY: the table has so many words, and nobody else uses it now.
        let found = (0..size_of::<Fdb>() / 8).find(|at| unsafe { *words.add(*at) } != 0);
        found.unwrap() / WAYS * WAYS
    };
    let first = Station::new(0, 2);
    let bucket = bucket_of(first);
    let others = (2..).map(|number| Station::new(0, number * 2));
    let others = others.filter(|station| bucket_of(*station) == bucket);
    let all = std::iter::once(first).chain(others).take(count).collect();
    (all, bucket)
}

/// One port learns two stations, another one takes over the first, and the host forgets the first port.
fn learned(table: &'static Fdb, stations: &[Station], bucket: usize) {
    reset(table);
    let [moving, staying] = [stations[0], stations[1]];
    share_all(table, bucket..bucket + 3);
    let first = thread::spawn(move || {
        let learned = table.learn(KEY, moving, port(1), 3);
        table.learn(KEY, staying, port(1), 3);
        learned
    });
    let second = thread::spawn(move || table.learn(KEY, moving, port(2), 4));
    table.forget(port(1));
    let found = table.find(KEY, moving);
    assert!(matches!(found, None | Some(1 | 2)), "{found:?}");
    let first = first.join().unwrap();
    let second = second.join().unwrap();
    // Whole: no port nor station but those that were learned.
    for entry in table.entries(KEY) {
        let station = entry.station == moving || entry.station == staying && entry.port == 1;
        assert!(
            station && matches!((entry.port, entry.stamp), (1, 3) | (2, 4)),
            "{entry:?}"
        );
    }
    // Nobody learns any more: what is forgotten stays so, and what another port learned stays.
    table.forget(port(1));
    assert!(table.entries(KEY).all(|entry| entry.port != 1));
    let stays = matches!(second, Learned::New | Learned::Moved) && first != Learned::Moved;
    if stays {
        assert_eq!(table.find(KEY, moving), Some(2), "learned and gone");
    }
    assert_eq!(table.find(KEY, staying), None);
}

fn check_table(mutation: Mutation) {
    let table = zeroed::<Fdb>();
    let (stations, bucket) = neighbours(table, 2);
    check(mutation, 2, move || learned(table, &stations, bucket));
}

#[test]
#[should_panic(expected = "learned and gone")]
fn entries_of_the_table_need_an_exchange() {
    check_table(Mutation::TornExchange);
}

#[test]
fn entries_of_the_table_are_whole_and_stay_forgotten() {
    check_table(Mutation::None);
}

/// A sweep takes out what is old, not what is renewed at that moment.
fn swept(table: &'static Fdb, stations: &[Station], bucket: usize) {
    reset(table);
    let station = stations[0];
    table.learn(KEY, station, port(1), 3);
    share_all(table, [bucket, bucket + 1]);
    let sender = thread::spawn(move || table.learn(KEY, station, port(1), 8));
    table.sweep(8, 5);
    let learned = sender.join().unwrap();
    if matches!(learned, Learned::Known | Learned::New) {
        assert_eq!(table.find(KEY, station), Some(1), "{learned:?} and gone");
    }
}

fn check_sweep(mutation: Mutation) {
    let table = zeroed::<Fdb>();
    let (stations, bucket) = neighbours(table, 1);
    check(mutation, 3, move || swept(table, &stations, bucket));
}

#[test]
fn a_sweep_takes_nothing_that_was_just_renewed() {
    check_sweep(Mutation::None);
}

#[test]
#[should_panic(expected = "and gone")]
fn a_sweep_needs_an_exchange() {
    check_sweep(Mutation::TornExchange);
}

/// Two callers and a bucket with two frames.
fn taken(bucket: &'static Bucket) {
    reset(bucket);
    let word = (&raw const *bucket).cast_mut().cast::<u64>();
    // SAFETY: the bucket's three words: 1 ns a byte, a burst of 2000 bytes, full.
    unsafe {
        *word = 1 << 32;
        *word.add(1) = 2000 << 12;
    }
    share_all(bucket, [2]);
    let take = move || u32::from(bucket.take(5000, 1000)) + u32::from(bucket.take(5000, 1000));
    let other = thread::spawn(take);
    let own = take();
    let all = own + other.join().unwrap();
    assert_eq!(all, 2, "frames of a burst of two");
}

fn check_bucket(mutation: Mutation) {
    let bucket = zeroed::<Bucket>();
    check(mutation, 3, move || taken(bucket));
}

#[test]
fn a_bucket_gives_no_more_than_it_has() {
    check_bucket(Mutation::None);
}

#[test]
#[should_panic(expected = "frames of a burst of two")]
fn a_bucket_needs_an_exchange() {
    check_bucket(Mutation::TornExchange);
}
