//! The structures that all calls share and the host changes: access lists, forwarding database,
//! token buckets. All of the code is the real one.
#![allow(clippy::unwrap_used, reason = "a failure is a failed test")]

mod common;

use common::{check, port};
use loom::thread;
use postern_nic_models::fdb::{Fdb, Key, Learned, Station, WAYS};
use postern_nic_models::policy::acl::key::{DENY, MACS};
use postern_nic_models::policy::acl::{Acl, Direction, RULE_WORDS, RuleWords, Verdict};
use postern_nic_models::policy::headers::Headers;
use postern_nic_models::policy::rate::Bucket;
use postern_nic_models::policy::snapshot::Snapshot;
use postern_nic_models::sync::modelled::{Mutation, begin, share};

/// A value that is all zero and lives for ever.
fn zeroed<T: Sync>() -> &'static T {
    // SAFETY: all types of this test are made of atomic integers, for which all zero is valid.
    Box::leak(unsafe { Box::<T>::new_zeroed().assume_init() })
}

/// Makes a value all zero again, with no word shared.
fn reset<T>(value: &T) {
    begin();
    // SAFETY: no thread uses the value now, and it is made of atomic integers, for which all zero
    // is valid.
    unsafe { (&raw const *value).cast_mut().write_bytes(0, 1) };
}

/// Shares words of 8 bytes of a value, by number.
fn share_all<T>(value: &T, words: impl IntoIterator<Item = usize>) {
    for word in words {
        share(
            (&raw const *value).cast::<u64>().wrapping_add(word).cast(),
            8,
        );
    }
}

/// A rule on one source address.
fn rule(action: u64, source: u64) -> RuleWords {
    let mut words = [0; RULE_WORDS];
    words[0] = action | MACS;
    words[3] = source;
    words[4] = u64::MAX >> 16;
    words
}

const WATCHED: u64 = 0x0602_0304_0506;

/// Three lists, all of which deny one address, by different rules, and permit all others.
fn lists() -> [[RuleWords; 2]; 3] {
    let (deny, permit) = (rule(DENY, WATCHED), rule(0, 0x0602_0304_0508));
    [[deny, permit], [deny, permit], [permit, deny]]
}

/// The host replaces the list twice, while a call evaluates it.
fn replaced(acl: &'static Acl) {
    reset(acl);
    let [first, rest @ ..] = lists();
    acl.install(&first, Verdict::Permit);
    // Shared words are the generation, each bank's header, and the compared words of two rules.
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

/// Stations that share a bucket, and the number of the bucket's first word.
fn neighbours(fdb: &Fdb, count: usize) -> (Vec<Station>, usize) {
    let bucket_of = |station| {
        reset(fdb);
        fdb.learn(KEY, station, port(0), 0);
        let words = (&raw const *fdb).cast::<u64>();
        // SAFETY: the database has that many words, and no other thread uses it now.
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

/// One port learns two stations, another port takes over the first of them, and the host forgets
/// the first port.
fn learned(fdb: &'static Fdb, stations: &[Station], bucket: usize) {
    reset(fdb);
    let [moving, staying] = [stations[0], stations[1]];
    share_all(fdb, bucket..bucket + 3);
    let first = thread::spawn(move || {
        let learned = fdb.learn(KEY, moving, port(1), 3);
        fdb.learn(KEY, staying, port(1), 3);
        learned
    });
    let second = thread::spawn(move || fdb.learn(KEY, moving, port(2), 4));
    fdb.forget(port(1));
    let found = fdb.find(KEY, moving);
    assert!(matches!(found, None | Some(1 | 2)), "{found:?}");
    let first = first.join().unwrap();
    let second = second.join().unwrap();
    // Entries are whole: they have no ports and stations but those that were learned.
    for entry in fdb.entries(KEY) {
        let station = entry.station == moving || entry.station == staying && entry.port == 1;
        assert!(
            station && matches!((entry.port, entry.stamp), (1, 3) | (2, 4)),
            "{entry:?}"
        );
    }
    // No call learns any more: entries that are forgotten stay so, and those of another port stay.
    fdb.forget(port(1));
    assert!(fdb.entries(KEY).all(|entry| entry.port != 1));
    let stays = matches!(second, Learned::New | Learned::Moved) && first != Learned::Moved;
    if stays {
        assert_eq!(fdb.find(KEY, moving), Some(2), "learned and gone");
    }
    assert_eq!(fdb.find(KEY, staying), None);
}

fn check_fdb(mutation: Mutation) {
    let fdb = zeroed::<Fdb>();
    let (stations, bucket) = neighbours(fdb, 2);
    check(mutation, 2, move || learned(fdb, &stations, bucket));
}

#[test]
#[should_panic(expected = "learned and gone")]
fn entries_of_the_database_need_an_exchange() {
    check_fdb(Mutation::TornExchange);
}

#[test]
fn entries_of_the_database_are_whole_and_stay_forgotten() {
    check_fdb(Mutation::None);
}

/// A sweep removes an old entry, but not one that is renewed at that moment.
fn swept(fdb: &'static Fdb, stations: &[Station], bucket: usize) {
    reset(fdb);
    let station = stations[0];
    fdb.learn(KEY, station, port(1), 3);
    share_all(fdb, [bucket, bucket + 1]);
    let sender = thread::spawn(move || fdb.learn(KEY, station, port(1), 8));
    fdb.sweep(8, 5);
    let learned = sender.join().unwrap();
    if matches!(learned, Learned::Known | Learned::New) {
        assert_eq!(fdb.find(KEY, station), Some(1), "{learned:?} and gone");
    }
}

fn check_sweep(mutation: Mutation) {
    let fdb = zeroed::<Fdb>();
    let (stations, bucket) = neighbours(fdb, 1);
    check(mutation, 3, move || swept(fdb, &stations, bucket));
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

/// Two calls take frames from a bucket that holds two.
fn taken(bucket: &'static Bucket) {
    reset(bucket);
    let word = (&raw const *bucket).cast_mut().cast::<u64>();
    // SAFETY: the bucket has three words, which no thread uses now. They become 1 ns a byte, a
    // burst of 2000 bytes, and full.
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
