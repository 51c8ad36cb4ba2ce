use proptest::prelude::*;

use super::*;
use crate::pci::Detached;

/// One access of a guest.
#[derive(Clone, Debug)]
enum Access {
    Read(u64, usize),
    Write(u64, Vec<u8>),
}

/// Addresses in which everything of interest lies: configuration space, BARs, interrupt controllers.
fn address() -> impl Strategy<Value = u64> {
    let ecam = layout::PCI_ECAM.0;
    prop_oneof![
        4 => (0..3u64, 0..0x110u64).prop_map(move |(device, at)| ecam + (device << 15) + at),
        2 => (0..0x3000u64).prop_map(|at| layout::PCI_REGISTERS.0 + at),
        1 => ecam - 8..ecam + layout::PCI_ECAM_SIZE + 8,
        1 => any::<u64>(),
    ]
}

fn data() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        proptest::collection::vec(any::<u8>(), 1..9),
        prop_oneof![Just(1), Just(2), Just(4), Just(8)].prop_map(|width| vec![0xff; width]),
        (0u32..3, any::<u32>()).prop_map(|(which, low)| {
            let gpa = [0xfee0_0000, 0xf000_0000, 0][which as usize] | (low & 0xfff);
            gpa.to_le_bytes().to_vec()
        }),
    ]
}

fn access() -> impl Strategy<Value = Access> {
    prop_oneof![
        (address(), 1..9usize).prop_map(|(at, width)| Access::Read(at, width)),
        (address(), data()).prop_map(|(at, data)| Access::Write(at, data)),
    ]
}

fn run(segment: &mut Arc<Segment>, accesses: &[Access]) {
    for access in accesses {
        match access {
            Access::Read(at, width) => {
                segment.read(*at, &mut [0; 8][..*width]);
            }
            Access::Write(at, data) => {
                segment.write(*at, data);
            }
        }
    }
}

proptest! {
    /// The recorder asserts that no slot is in two places, no event connected twice and no pin's
    /// level counted wrongly.
    #[test]
    fn any_accesses_keep_the_books(accesses in proptest::collection::vec(access(), 0..200)) {
        let mut bus = Fixture::new();
        run(&mut bus.segment, &accesses);
        bus.interrupts().set_intx(true);
        bus.interrupts().signal(0).unwrap();
        run(&mut bus.segment, &accesses);
        prop_assert_eq!(bus.config(0), [0x34, 0x12, 0x78, 0x56]);
        bus.segment.reset();
        prop_assert_eq!(bus.config(4), [2, 0, 0x10, 0]);
        prop_assert_eq!(bus.segment.bar(DEVICE, 2), Some(layout::PCI_LOW.0));
        bus.machine.with(|record| {
            assert_eq!((record.mapped.len(), record.doorbells.len()), (1, 1));
            assert!(record.events.is_empty());
            assert!(record.levels.values().all(|&level| level == 0));
        });
    }

    #[test]
    fn wild_accesses_do_not_hurt(at: u64, width in 1..9usize, bytes: [u8; 8]) {
        let mut segment = Arc::new(Segment::new(Arc::new(Detached::default())).unwrap());
        run(&mut segment, &[
            Access::Write(at, bytes[..width].to_vec()),
            Access::Read(at, width),
        ]);
    }
}
