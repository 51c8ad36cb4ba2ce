use super::*;
use crate::pci::bars::Places;

#[test]
fn bars_have_addresses_before_the_guest_starts() {
    let mut bus = Fixture::new();
    assert_eq!(
        bus.bar(2),
        postern_abi::platform::NIC_GPA,
        "the first memory BAR"
    );
    let (registers, table) = (bus.bar(0), bus.bar(1));
    assert!(registers >= layout::PCI_REGISTERS.0 && table >= layout::PCI_REGISTERS.0);
    assert_ne!(registers, table);
    bus.machine.with(|record| {
        assert_eq!(
            record.mapped,
            [(EXISTS as usize, bus.segment.bar(DEVICE, 2).unwrap())].into()
        );
        assert_eq!(record.doorbells, [registers + DOORBELL]);
    });
    assert_eq!(bus.read(registers + 5), Some([5, 5]));
    assert!(bus.write(registers + 8, &[1, 2, 3, 4]));
    let seen = bus.seen.lock().unwrap().writes.clone();
    assert_eq!(seen, [(0, 8, vec![1, 2, 3, 4])]);
}

#[test]
fn sizes_are_found_by_writing_ones() {
    let bus = Fixture::new();
    bus.set_config(4, &[0, 0]);
    for (offset, expected) in [
        (0x10, !(REGISTERS as u32 - 1)),
        (0x14, !0xfff),
        (0x18, !(MEMORY as u32 - 1) | 0xc),
        (0x1c, u32::MAX),
        (0x20, 0),
        (0x24, 0),
        (0x30, 0),
    ] {
        let before: [u8; 4] = bus.config(offset);
        bus.set_config(offset, &[0xff; 4]);
        assert_eq!(bus.config(offset), expected.to_le_bytes(), "{offset:#x}");
        bus.set_config(offset, &before);
        assert_eq!(bus.config(offset), before);
    }
}

#[test]
fn bars_move_and_go_with_decoding() {
    let mut bus = Fixture::new();
    let (old, new) = (bus.bar(0), layout::PCI_LOW.0 + MEMORY);
    bus.set_config(0x10, &(new as u32).to_le_bytes());
    assert_eq!(bus.bar(0), new);
    assert_eq!(bus.read(new + 1), Some([1]));
    assert_eq!(bus.read::<1>(old), None);
    bus.machine
        .with(|record| assert_eq!(record.doorbells, [new + DOORBELL]));
    // To above 4 GiB, half by half: between the two writes it is where both halves say.
    let high = layout::PCI_HIGH.0;
    bus.set_config(0x1c, &((high >> 32) as u32).to_le_bytes());
    bus.set_config(0x18, &[0; 4]);
    assert_eq!(bus.bar(2), high);
    bus.machine
        .with(|record| assert_eq!(record.mapped.values().collect::<Vec<_>>(), [&high]));
    bus.set_config(4, &[0, 0]);
    assert_eq!([0, 1, 2].map(|bar| bus.segment.bar(DEVICE, bar)), [None; 3]);
    assert_eq!(bus.read::<1>(new), None);
    bus.machine.with(|record| {
        assert!(record.mapped.is_empty() && record.doorbells.is_empty());
    });
    bus.set_config(4, &[2]);
    assert_eq!((bus.bar(0), bus.bar(2)), (new, high));
}

#[test]
fn memory_that_would_overlap_is_not_there() {
    let bus = Fixture::new();
    for gpa in [
        0,
        0x10_0000,
        layout::LOCAL_APIC.0 & !(MEMORY - 1),
        layout::PCI_ECAM.0,
        u64::MAX,
    ] {
        bus.set_config(0x18, &gpa.to_le_bytes());
        assert_eq!(bus.segment.bar(DEVICE, 2), None, "{gpa:#x}");
        bus.machine.with(|record| assert!(record.mapped.is_empty()));
    }
    bus.set_config(0x18, &layout::PCI_HIGH.0.to_le_bytes());
    assert_eq!(bus.bar(2), layout::PCI_HIGH.0);
}

#[test]
fn accesses_across_the_end_are_nobodys() {
    let mut bus = Fixture::new();
    let end = bus.bar(0) + REGISTERS;
    assert_eq!(bus.read::<4>(end - 2), None);
    assert!(!bus.write(end - 2, &[0; 4]));
    assert!(bus.seen.lock().unwrap().writes.is_empty());
    // Widths that no register has.
    let start = bus.bar(0);
    assert_eq!(bus.read(start), Some([0xff; 3]));
    assert!(bus.write(start, &[0; 5]));
    assert!(bus.seen.lock().unwrap().writes.is_empty());
}

#[test]
fn a_reset_brings_everything_back() {
    let bus = Fixture::new();
    let before: [u8; 256] = bus.config(0);
    let places = [0, 1, 2].map(|bar| bus.bar(bar));
    bus.set_config(0x10, &[0, 0, 0, 0xf3]);
    bus.set_config(0x18, &[0; 8]);
    bus.set_config(4, &[6, 4]);
    bus.set_config(0x43, &[0xc0]);
    bus.interrupts().set_intx(true);
    bus.segment.reset();
    assert_eq!(bus.config(0), before);
    assert_eq!([0, 1, 2].map(|bar| bus.bar(bar)), places);
    assert_eq!(bus.seen.lock().unwrap().resets, 1);
}

#[test]
fn bars_that_cannot_be_are_refused() {
    struct Odd(usize, Bar);
    impl PciFunction for Odd {
        fn identity(&self) -> Identity {
            Identity {
                id: (1, 2),
                subsystem: (0, 0),
                class: [0; 3],
                revision: 0,
                bars: vec![(self.0, self.1)],
                vendor_capabilities: Vec::new(),
                msix_vectors: 1,
                intx: None,
            }
        }
        fn connect(&mut self, _: Arc<dyn Interrupts>) {}
        fn read(&mut self, _: usize, _: u64, _: &mut [u8]) {}
        fn write(&mut self, _: usize, _: u64, _: &[u8]) -> Effect {
            Effect::Continue
        }
        fn reset(&mut self) {}
    }
    let bar = |size, kind| Bar { size, kind };
    for (index, bar) in [
        (0, bar(8, BarKind::Registers)),
        (0, bar(24, BarKind::Registers)),
        (0, bar(0, BarKind::Registers)),
        (1, bar(16, BarKind::Registers)),
        (6, bar(16, BarKind::Registers)),
        (usize::MAX - 3, bar(16, BarKind::Registers)),
        (0, bar(4096, BarKind::Memory)),
        (5, bar(4096, BarKind::Memory)),
        (2, bar(4096, BarKind::Memory)),
        (2, bar(1 << 62, BarKind::Memory)),
    ] {
        let segment = Segment::new(Arc::new(Recorder::default())).unwrap();
        assert!(
            segment.plug(Box::new(Odd(index, bar))).is_err(),
            "{index} {bar:?}"
        );
    }
}

#[test]
fn memory_without_room_below_4_gib_is_above_the_views() {
    let mut places = Places::new();
    let mut take = |size| places.take(BarKind::Memory, size);
    assert_eq!(take(1 << 30), Some(layout::PCI_HIGH.0));
    assert_eq!(take(256 << 20), Some(layout::PCI_LOW.0));
    assert_eq!(take(512 << 20), Some(layout::PCI_HIGH.0 + (1 << 30)));
    assert_eq!(take(1 << 38), None);
    assert_eq!(take(1 << 62), None);
    let mut take = |size| places.take(BarKind::Registers, size);
    assert_eq!(take(16), Some(layout::PCI_REGISTERS.0));
    assert_eq!(take(0x2000), Some(layout::PCI_REGISTERS.0 + 0x2000));
    assert_eq!(
        take(16),
        Some(layout::PCI_REGISTERS.0 + 0x4000),
        "a page of its own"
    );
    assert_eq!(take(1 << 31), None);
}
