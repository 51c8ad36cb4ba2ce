use super::*;

const KEY: Key = Key::new([0x0123_4567_89ab_cdef, 0xfedc_ba98_7654_3211]);

#[allow(unsafe_code, reason = "too large for a stack")]
fn empty() -> Box<Fdb> {
    // SAFETY: a database is made of atomic integers, for which all zero is valid.
    unsafe { Box::<Fdb>::new_zeroed().assume_init() }
}

fn port(number: u32) -> PortId {
    PortId::new(number).unwrap()
}

/// A station with an even address, so that the group bit is clear.
fn station(number: u64) -> Station {
    Station::new(0, number << 1)
}

fn learn(fdb: &Fdb, number: u64, at: u32) -> Learned {
    fdb.learn(KEY, station(number), port(at), 0)
}

fn find(fdb: &Fdb, number: u64) -> Option<u32> {
    fdb.find(KEY, station(number))
}

#[test]
fn stations_are_found_moved_and_forgotten() {
    let fdb = empty();
    assert_eq!(find(&fdb, 7), None);
    assert_eq!(learn(&fdb, 7, 3), Learned::New);
    assert_eq!(learn(&fdb, 7, 3), Learned::Known);
    assert_eq!(find(&fdb, 7), Some(3));
    assert_eq!(learn(&fdb, 7, 255), Learned::Moved);
    assert_eq!(find(&fdb, 7), Some(255));
    assert_eq!(fdb.entries(KEY).count(), 1);
    fdb.forget(port(3));
    assert_eq!(find(&fdb, 7), Some(255));
    fdb.forget(port(255));
    assert_eq!(find(&fdb, 7), None);
}

#[test]
fn stations_of_other_vlans_are_others() {
    let fdb = empty();
    let mac = 0x0600_0000_0002;
    for vlan in [0, 1, 100, 4095] {
        let at = port(vlan & 0xff);
        let learned = fdb.learn(KEY, Station::new(vlan, mac), at, 0);
        assert_eq!(learned, Learned::New);
    }
    for vlan in [0, 1, 100, 4095] {
        let found = fdb.find(KEY, Station::new(vlan, mac));
        assert_eq!(found, Some(vlan & 0xff));
    }
    assert_eq!(fdb.find(KEY, Station::new(2, mac)), None);
}

#[test]
fn the_database_tells_what_it_holds() {
    let fdb = empty();
    let mut known: Vec<_> = (0..500u64)
        .map(|n| (Station::new(n as u32 % 7, n * n * 2), port(n as u32 % 256)))
        .collect();
    for (station, port) in &known {
        fdb.learn(KEY, *station, *port, 5);
    }
    let mut told: Vec<_> = fdb.entries(KEY).collect();
    known.sort_unstable();
    known.dedup_by_key(|(station, _)| *station);
    told.sort_unstable_by_key(|entry| entry.station);
    assert_eq!(told.len(), known.len());
    for (entry, (station, port)) in told.iter().zip(&known) {
        assert_eq!((entry.station, entry.stamp), (*station, 5));
        let last = fdb.find(KEY, *station);
        assert_eq!(Some(entry.port), last);
        let _ = port;
    }
}

#[test]
fn address_zero_is_not_an_empty_entry() {
    let fdb = empty();
    let zero = Station::new(0, 0);
    assert_eq!(fdb.find(KEY, zero), None);
    fdb.learn(KEY, zero, port(1), 0);
    assert_eq!(fdb.find(KEY, zero), Some(1));
}

#[test]
fn single_entries_and_learned_ones_can_be_removed() {
    let fdb = empty();
    for number in 0..10 {
        learn(&fdb, number, 1 + number as u32 % 2);
    }
    fdb.pin(KEY, station(20), port(1));
    fdb.flush(Some(port(1)));
    assert_eq!(fdb.entries(KEY).count(), 6);
    fdb.flush(None);
    assert_eq!(find(&fdb, 20), Some(1));
    assert!(fdb.unpin(KEY, station(20)));
    assert!(!fdb.unpin(KEY, station(20)));
    assert_eq!(fdb.entries(KEY).count(), 0);
}

#[test]
fn a_pinned_station_stays() {
    let fdb = empty();
    learn(&fdb, 9, 2);
    assert_eq!(fdb.pin(KEY, station(9), port(1)), Learned::New);
    assert_eq!(learn(&fdb, 9, 2), Learned::Refused);
    assert_eq!(learn(&fdb, 9, 1), Learned::Known);
    for number in 10..200_000 {
        learn(&fdb, number, 2);
    }
    fdb.sweep(30, 1);
    assert_eq!(find(&fdb, 9), Some(1));
    // A full bucket makes room for one.
    for number in 10..200_000 {
        learn(&fdb, number, 2);
    }
    assert_eq!(fdb.pin(KEY, station(500_000), port(3)), Learned::New);
    assert_eq!(find(&fdb, 500_000), Some(3));
}

#[test]
fn old_stations_are_swept_out() {
    let fdb = empty();
    for start in 0..STAMPS {
        fdb.learn(KEY, station(1), port(1), start);
        for waited in 0..5 {
            fdb.sweep((start + waited) % STAMPS, 5);
            assert_eq!(find(&fdb, 1), Some(1), "{start} {waited}");
        }
        // Seen again, so the five ticks begin anew.
        fdb.learn(KEY, station(1), port(1), (start + 4) % STAMPS);
        fdb.sweep((start + 8) % STAMPS, 5);
        assert_eq!(find(&fdb, 1), Some(1));
        fdb.sweep((start + 9) % STAMPS, 5);
        assert_eq!(find(&fdb, 1), None);
    }
}

#[test]
fn a_flood_evicts_nobody_who_holds_less() {
    let fdb = empty();
    // Port 0 floods first, and takes every way that it can get.
    for number in 0..300_000 {
        learn(&fdb, number, 0);
    }
    assert_eq!(fdb.entries(KEY).count(), WAYS * BUCKETS);
    // Fourteen quiet ports still find a way, each for an address of its own,
    for quiet in 1..15 {
        let number = 1_000_000 + u64::from(quiet);
        assert_eq!(learn(&fdb, number, quiet), Learned::New);
    }
    // and keep it through another flood, by two ports at once.
    for number in 400_000..700_000 {
        learn(&fdb, number, 0);
        learn(&fdb, number + 1_000_000, 15);
    }
    for quiet in 1..15 {
        assert_eq!(find(&fdb, 1_000_000 + u64::from(quiet)), Some(quiet));
    }
}

#[test]
fn every_port_gets_its_share_of_one_bucket() {
    let fdb = empty();
    let bucket_of = |number| fdb.place(KEY, station(number)).0.as_ptr();
    let alike: Vec<u64> = (0..)
        .filter(|number| core::ptr::eq(bucket_of(*number), bucket_of(0)))
        .take(WAYS * 4)
        .collect();
    for number in &alike[..WAYS * 2] {
        learn(&fdb, *number, 0);
    }
    for at in (0..16).rev() {
        learn(&fdb, alike[WAYS * 2 + at as usize], at);
    }
    for at in 0..16 {
        let found = find(&fdb, alike[WAYS * 2 + at as usize]);
        assert_eq!(found, Some(at), "one way each");
    }
    // A seventeenth port finds no room, and no port loses the last of its entries.
    assert_eq!(learn(&fdb, alike[WAYS * 3], 16), Learned::Refused);
}

#[test]
fn static_entries_are_told_from_learned_ones() {
    let fdb = empty();
    assert_eq!(fdb.find_static(KEY, station(7)), None);
    learn(&fdb, 7, 3);
    assert_eq!(fdb.find_static(KEY, station(7)), None);
    fdb.pin(KEY, station(7), port(255));
    assert_eq!(fdb.find_static(KEY, station(7)), Some(255));
    assert_eq!(fdb.find_static(KEY, station(8)), None);
    // A stamp of a learned entry is never that of a static one.
    for tick in 0..STAMPS {
        fdb.learn(KEY, station(9), port(1), tick);
        assert_eq!(fdb.find_static(KEY, station(9)), None);
    }
}

#[test]
fn stations_of_a_port_are_forgotten_by_vlan() {
    let fdb = empty();
    let mac = 0x0600_0000_0002;
    for vlan in 0..4 {
        fdb.learn(KEY, Station::new(vlan, mac), port(1), 0);
        fdb.learn(KEY, Station::new(vlan, mac + 2), port(2), 0);
        fdb.pin(KEY, Station::new(vlan, mac + 4), port(1));
    }
    fdb.flush_if(KEY, |station, port| port == 1 && station.vlan() >= 2);
    for vlan in 0..4 {
        let found = [mac, mac + 2, mac + 4].map(|mac| fdb.find(KEY, Station::new(vlan, mac)));
        let first = (vlan < 2).then_some(1);
        assert_eq!(found, [first, Some(2), Some(1)], "{vlan}");
    }
}

/// A call that found a way free, and was stopped until the station had a static entry, leaves a
/// second one behind, in front of it or not. It counts until the next tick.
#[test]
fn a_sweep_leaves_a_static_entry_alone_with_its_station() {
    for (first, second) in [(0, 1), (1, 0)] {
        let fdb = empty();
        let victim = station(7);
        fdb.pin(KEY, victim, port(1));
        let (bucket, wanted) = fdb.place(KEY, victim);
        let entry = bucket[0].swap(0, Relaxed);
        assert_eq!(entry & REST_MASK, wanted & REST_MASK);
        bucket[first].store(entry, Relaxed);
        let learned = wanted | 2 << PORT_SHIFT | 5 << STAMP_SHIFT;
        bucket[second].store(learned, Relaxed);
        assert_eq!(fdb.entries(KEY).count(), 2);
        assert_eq!(fdb.find_static(KEY, victim), Some(1));
        fdb.sweep(6, 16);
        assert_eq!(fdb.find(KEY, victim), Some(1));
        assert_eq!(fdb.entries(KEY).count(), 1);
    }
}
