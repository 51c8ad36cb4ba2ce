use super::*;
use crate::devices::Bus;
use crate::pci::ConfigPorts;

#[test]
fn the_header_is_the_functions() {
    let bus = Fixture::new();
    assert_eq!(bus.config(0), [0x34, 0x12, 0x78, 0x56]);
    // Command: memory decoding alone. Status: a list of capabilities.
    assert_eq!(bus.config(4), [2, 0, 0x10, 0]);
    assert_eq!(bus.config(8), [7, 1, 0, 2]);
    assert_eq!(bus.config(0xe), [0], "header type 0, one function");
    assert_eq!(bus.config(0x2c), [0xbc, 0x9a, 0xf0, 0xde]);
    assert_eq!(bus.config(0x3c), [17, 1], "device 1, INTA");
    assert_eq!(bus.config(0x100), [0xff; 4], "no extended capabilities");
}

#[test]
fn capabilities_are_a_list() {
    let bus = Fixture::new();
    let [first] = bus.config(0x34);
    assert_eq!(
        bus.config(usize::from(first)),
        [0x11, CAPABILITY as u8, 2, 0]
    );
    let expected = [9, 0, 6, 1, 2, 0x55];
    assert_eq!(bus.config(CAPABILITY), expected);
    // A part of it, across its beginning and its end.
    assert_eq!(bus.config(CAPABILITY - 1), [0, 9, 0]);
    assert_eq!(bus.config(CAPABILITY + 5), [0x55, 0, 0]);
    bus.set_config(CAPABILITY + 4, &[1, 2, 3, 4]);
    let seen = bus.seen.lock().unwrap().capability.clone();
    assert_eq!(seen, [(4, vec![1, 2])]);
    assert_eq!(bus.config(CAPABILITY), expected, "the bytes are its own");
}

#[test]
fn what_is_read_only_stays() {
    let bus = Fixture::new();
    let before: [u8; 256] = bus.config(0);
    for offset in (0..0x10).chain(0x28..0x3c).chain(0x3d..0x100) {
        if offset != 4 && offset != 5 && offset != 0xc && offset != 0x43 {
            bus.set_config(offset, &[!before[offset]]);
        }
    }
    assert_eq!(bus.config(0), before);
}

#[test]
fn functions_that_are_not_there_read_as_ones() {
    let bus = Fixture::new();
    for function in (0..257).filter(|&function| function != 0 && function != FUNCTION) {
        let mut data = [0; 4];
        bus.segment.read_config(function, 0, &mut data);
        assert_eq!(data, [0xff; 4]);
        let effect = bus.segment.write_config(function, 0, &data);
        assert!(matches!(effect, Effect::Continue));
    }
    let mut data = [0; 4];
    bus.segment.read_config(0, 8, &mut data);
    assert_eq!(data, [0, 0, 0, 6], "the host bridge");
}

#[test]
fn memory_and_ports_reach_the_same_registers() {
    let mut bus = Fixture::new();
    let ecam = layout::PCI_ECAM.0 + (FUNCTION as u64) * 0x1000;
    assert_eq!(
        bus.read(ecam),
        Some([0x34, 0x12, 0x78, 0x56, 2, 0, 0x10, 0])
    );
    assert!(bus.write(ecam + 0x3c, &[9]));
    assert_eq!(
        bus.read(ecam + 0xffd),
        Some([0xff; 3]),
        "a part of an access across pages"
    );
    let past = layout::PCI_ECAM.0 + layout::PCI_ECAM_SIZE;
    assert_eq!(bus.read::<4>(past), None);

    let mut ports = Bus::new();
    ConfigPorts::add_to(&ConfigPorts::new(Arc::clone(&bus.segment)), &mut ports);
    let mut select = |address: u32, width: usize, offset: u16| {
        let mut data = [0; 4];
        ports.write(layout::PCI_CONFIG_ADDRESS, &address.to_le_bytes());
        ports.read(layout::PCI_CONFIG_DATA + offset, &mut data[..width]);
        data
    };
    let enabled = 1 << 31 | (FUNCTION as u32) << 8;
    assert_eq!(select(enabled | 0x3c, 1, 0), [9, 0, 0, 0]);
    assert_eq!(select(enabled | 0x3c, 1, 1), [1, 0, 0, 0]);
    assert_eq!(select(enabled | 0x3, 4, 0), [0x34, 0x12, 0x78, 0x56]);
    assert_eq!(select(enabled, 2, 2), [0x78, 0x56, 0, 0]);
    assert_eq!(select(enabled | 1 << 16, 4, 0), [0xff; 4], "another bus");
    assert_eq!(select(enabled & !(1 << 31), 4, 0), [0xff; 4], "not enabled");
    // The address register takes no other width, and reads as it was written.
    ports.write(layout::PCI_CONFIG_ADDRESS, &enabled.to_le_bytes());
    ports.write(layout::PCI_CONFIG_ADDRESS, &[0xff]);
    let mut data = [0; 4];
    ports.read(layout::PCI_CONFIG_ADDRESS, &mut data);
    assert_eq!(data, enabled.to_le_bytes());
    ports.write(layout::PCI_CONFIG_DATA, &[0xff; 4]);
    assert_eq!(bus.config(0), [0x34, 0x12]);
    let none = bus.machine.with(|record| record.ports.is_empty());
    assert!(none, "no function has a pin of its own");
}

#[test]
fn the_bus_has_room_for_31_devices() {
    let machine = Arc::new(crate::pci::Detached::default());
    let segment = Segment::new(machine).unwrap();
    let plug = || {
        segment.plug(Box::new(Sample {
            seen: Arc::default(),
            event: Arc::new(EventFd::new(0).unwrap()),
        }))
    };
    for device in 1..32 {
        assert_eq!(plug().unwrap(), device);
    }
    let full = plug().unwrap_err().to_string();
    assert!(full.contains("31 devices"), "{full}");
    let places: std::collections::BTreeSet<_> =
        (1..32).map(|device| segment.bar(device, 0)).collect();
    assert_eq!(places.len(), 31, "each in a place of its own");
}
