use super::*;

const CONTROL: usize = 0x42;
const ENABLE: [u8; 2] = [0, 0x80];
const ENABLE_MASKED: [u8; 2] = [0, 0xc0];
const MASTER: [u8; 2] = [6, 0];
const NONE: [u32; 0] = [];
const ADDRESS: u32 = 0xfee0_1000;

fn gsi(vector: u16) -> u32 {
    layout::FIRST_MSI_GSI + u32::from(vector)
}

impl Fixture {
    fn entry(&mut self, vector: u64, words: [u32; 4]) {
        let at = self.bar(1) + 16 * vector;
        for (index, word) in words.into_iter().enumerate() {
            assert!(self.write(at + 4 * index as u64, &word.to_le_bytes()));
        }
    }

    fn pending(&mut self) -> u8 {
        let at = self.bar(1) + 0x800;
        self.read::<1>(at).unwrap()[0]
    }

    fn events(&self) -> Vec<u32> {
        self.machine
            .with(|record| record.events.iter().map(|&(gsi, _)| gsi).collect())
    }
}

#[test]
fn a_vector_is_delivered_while_nothing_masks_it() {
    let mut bus = Fixture::new();
    bus.set_config(4, &MASTER);
    let table = bus.bar(1);
    assert_eq!(
        bus.read(table + 12),
        Some([1, 0, 0, 0]),
        "masked from the start"
    );
    bus.entry(1, [ADDRESS, 0, 0x4041, 0]);
    assert_eq!(bus.events(), NONE, "MSI-X is off");
    bus.set_config(CONTROL, &ENABLE);
    assert!(bus.interrupts().msix_enabled());
    assert_eq!(bus.events(), [gsi(1)]);
    let message = Message {
        address: u64::from(ADDRESS),
        data: 0x4041,
    };
    bus.machine
        .with(|record| assert_eq!(record.routes, [(gsi(1), message)].into()));

    bus.set_config(CONTROL, &ENABLE_MASKED);
    assert_eq!(bus.events(), NONE);
    bus.interrupts().signal(1).unwrap();
    bus.interrupts().signal(VECTORS).unwrap();
    assert_eq!(
        [bus.pending(), bus.pending()],
        [2, 2],
        "until it is delivered"
    );
    bus.set_config(CONTROL, &ENABLE);
    assert_eq!(bus.events(), [gsi(1)]);
    assert_eq!(
        bus.interrupts().event(1).unwrap().read().unwrap(),
        1,
        "for KVM"
    );

    bus.write(table + 16 + 12, &[1, 0, 0, 0]);
    assert_eq!(bus.events(), NONE, "masked by itself");
    bus.write(table + 16 + 12, &[0xfe, 0xff, 0xff, 0xff]);
    assert_eq!(bus.events(), [gsi(1)]);
    assert_eq!(bus.read(table + 16 + 12), Some([0; 4]));
    bus.set_config(4, &[2, 0]);
    assert_eq!(bus.events(), NONE, "no bus master, no messages");
    let routed = bus.machine.with(|record| record.routed);
    assert_eq!(routed, 1, "routes are set when messages change alone");
}

#[test]
fn a_message_is_changed_while_it_is_delivered() {
    let mut bus = Fixture::new();
    bus.set_config(4, &MASTER);
    bus.set_config(CONTROL, &ENABLE);
    bus.entry(0, [ADDRESS, 0, 1, 0]);
    bus.entry(0, [ADDRESS + 0x1000, 0, 2, 0]);
    let message = Message {
        address: u64::from(ADDRESS) + 0x1000,
        data: 2,
    };
    bus.machine
        .with(|record| assert_eq!(record.routes[&gsi(0)], message));
    assert_eq!(bus.events(), [gsi(0)]);
    // What is no interrupt message is not delivered.
    for (low, high) in [(0, 0), (0xfed0_0000, 0), (0xfef0_0000, 0), (ADDRESS, 1)] {
        bus.entry(0, [low, high, 2, 0]);
        assert_eq!(bus.events(), NONE, "{high:#x} {low:#x}");
    }
}

#[test]
fn the_table_is_written_by_whole_words() {
    let mut bus = Fixture::new();
    let table = bus.bar(1);
    bus.write(table, &[1, 2, 3, 4, 5, 6, 7, 8]);
    assert_eq!(bus.read(table), Some([1, 2, 3, 4, 5, 6, 7, 8]));
    bus.write(table, &[9]);
    bus.write(table + 1, &[9; 4]);
    bus.write(table + 2, &[9; 2]);
    assert_eq!(bus.read(table + 1), Some([2, 3, 4, 5]));
    // Behind the last vector, in the pending bits, behind them.
    for offset in [16 * u64::from(VECTORS), 0x7fc, 0x800, 0xff8] {
        bus.write(table + offset, &[0xff; 8]);
        assert_eq!(bus.read(table + offset), Some([0; 8]), "{offset:#x}");
    }
}

#[test]
fn nothing_pends_from_the_time_before() {
    let mut bus = Fixture::new();
    bus.interrupts().signal(0).unwrap();
    bus.set_config(CONTROL, &ENABLE_MASKED);
    assert_eq!(bus.pending(), 0);
}

#[test]
fn the_pin_follows_level_disable_and_msix() {
    let bus = Fixture::new();
    let pin = layout::pci_intx_gsi(DEVICE);
    let level = || {
        let level = bus.machine.with(|record| record.levels.get(&pin).copied());
        level.unwrap_or(0) == 1
    };
    let status = || bus.config::<1>(6)[0] & 8 != 0;
    let interrupts = bus.interrupts();
    assert!(!level() && !status());
    interrupts.set_intx(true);
    interrupts.set_intx(true);
    assert!(level() && status());
    bus.set_config(4, &[2, 4]);
    assert!(!level() && status(), "disabled, but told");
    bus.set_config(4, &[2, 0]);
    assert!(level());
    bus.set_config(CONTROL, &ENABLE);
    assert!(!level(), "MSI-X is used instead");
    bus.set_config(CONTROL, &[0, 0]);
    assert!(level());
    interrupts.set_intx(false);
    assert!(!level() && !status());
}
