use super::*;
use crate::devices::Bus;
use crate::pci::{ConfigPorts, IoApic};

const BASE: u64 = layout::PCI_IO_APIC.0;
const MASKED: u32 = 1 << 16;

/// A function with a pin of its own.
struct Owner(Sample);

impl PciFunction for Owner {
    fn identity(&self) -> Identity {
        Identity {
            intx: Some(Intx::Own),
            ..self.0.identity()
        }
    }

    fn memory(&self, bar: usize) -> Option<BarMemory> {
        self.0.memory(bar)
    }

    fn connect(&mut self, interrupts: Arc<dyn Interrupts>) {
        self.0.connect(interrupts);
    }

    fn read(&mut self, bar: usize, offset: u64, data: &mut [u8]) {
        self.0.read(bar, offset, data);
    }

    fn write(&mut self, bar: usize, offset: u64, data: &[u8]) -> Effect {
        self.0.write(bar, offset, data)
    }

    fn reset(&mut self) {}
}

fn owner(bus: &Fixture) -> Box<Owner> {
    Box::new(Owner(Sample {
        seen: Arc::clone(&bus.seen),
        event: event(),
    }))
}

fn event() -> Arc<EventFd> {
    Arc::new(EventFd::new(libc::EFD_NONBLOCK).unwrap())
}

/// A bus with it as device 1.
fn bus() -> Fixture {
    let bus = Fixture::empty();
    assert_eq!(bus.segment.plug(owner(&bus)).unwrap(), DEVICE);
    bus
}

impl Fixture {
    fn get_apic(&mut self, register: u32) -> u32 {
        assert!(self.write(BASE, &register.to_le_bytes()));
        u32::from_le_bytes(self.read(BASE + 0x10).unwrap())
    }

    fn set_apic(&mut self, register: u32, value: u32) {
        assert!(self.write(BASE, &register.to_le_bytes()));
        assert!(self.write(BASE + 0x10, &value.to_le_bytes()));
    }
}

#[test]
fn a_pin_of_ones_own_has_an_io_apic() {
    let mut bus = bus();
    assert_eq!(bus.segment.own_pin(), Some(DEVICE));
    assert_eq!(bus.config(0x3c), [layout::PCI_OWN_GSI as u8, 1]);
    assert_eq!(bus.get_apic(0), 1 << 24);
    assert_eq!(bus.get_apic(1), 0x11, "one pin");
    assert_eq!((bus.get_apic(0x10), bus.get_apic(0x11)), (MASKED, 0));
    assert_eq!(bus.get_apic(0x12), 0);
    // What is not the guest's to write stays.
    for register in [0, 1, 2, 0x10, 0x11, 0x12, 0xff] {
        bus.set_apic(register, u32::MAX);
    }
    assert_eq!((bus.get_apic(0), bus.get_apic(1)), (0xf << 24, 0x11));
    assert_eq!(
        (bus.get_apic(0x10), bus.get_apic(0x11)),
        (0x1_afff, 0xff << 24)
    );
    bus.segment.reset();
    assert_eq!((bus.get_apic(0), bus.get_apic(0x10)), (1 << 24, MASKED));
    // Other widths and places.
    for (offset, width) in [
        (0x10, 1),
        (0x10, 2),
        (0x11, 4),
        (0x40, 4),
        (0xffc, 4),
        (0xfff, 8),
    ] {
        bus.set_apic(0x10, MASKED);
        assert!(bus.write(BASE + offset, &[0xff; 8][..width]));
        assert_eq!(bus.get_apic(0x10), MASKED);
    }
    assert_eq!(bus.read(BASE + 0x20), Some([0; 8]));
    assert_eq!(bus.read::<4>(BASE + 0x1000), None);
    assert_eq!(bus.read::<4>(BASE - 4), None, "KVM's own");
    let other = bus.segment.plug(owner(&bus)).unwrap_err().to_string();
    assert!(other.contains("not shared"), "{other}");
    let mut none = Fixture::new();
    assert_eq!(none.read::<4>(BASE), None);
}

#[test]
fn an_edge_is_the_message_of_the_entry() {
    let mut bus = bus();
    let interrupts = bus.interrupts();
    let pin = layout::FIRST_MSI_GSI;
    let route = |bus: &Fixture| bus.machine.with(|record| record.routes.get(&pin).copied());
    let edges = |bus: &Fixture| {
        bus.machine.with(|record| {
            let own = record.events.iter().find(|&&(gsi, _)| gsi == pin);
            own.map(|(_, event)| record.clones[event].read().unwrap_or(0))
        })
    };
    interrupts.set_intx(true);
    assert_eq!((route(&bus), edges(&bus)), (None, None));
    bus.set_apic(0x11, 3 << 24);
    bus.set_apic(0x10, 0x41);
    let message = |address, data| Some(Message { address, data });
    assert_eq!(route(&bus), message(0xfee0_3000, 0x41), "physical");
    assert_eq!(edges(&bus), Some(1), "what came while it was masked");
    interrupts.set_intx(true);
    assert_eq!(edges(&bus), Some(0), "the level is no edge");
    interrupts.set_intx(false);
    interrupts.set_intx(true);
    assert_eq!(edges(&bus), Some(1));
    // Level-triggered, active low, lowest priority, logical: it stays an edge.
    bus.set_apic(0x10, 0xa942);
    assert_eq!(route(&bus), message(0xfee0_3004, 0x142));
    bus.set_apic(0x10, 0xa942 | MASKED);
    assert_eq!(edges(&bus), None);
    bus.set_apic(0x10, 0xa942);
    assert_eq!(
        bus.machine.with(|record| record.routed),
        2,
        "only when it changes"
    );
    bus.segment.reset();
    assert_eq!(edges(&bus), None);
    bus.set_apic(0x10, 0x41);
    assert_eq!(edges(&bus), Some(0), "nothing of it is left after a reset");
    assert!(bus.machine.with(|record| record.levels.is_empty()));
}

#[test]
fn events_that_kvm_refuses_leave_the_pin_its_own_edges() {
    let machine = Arc::new(Recorder::default());
    let apic = IoApic::new(machine.clone()).unwrap();
    let count = || machine.with(|record| record.events.len());
    let refuse = |refuses| machine.with(|record| record.refuses_events = refuses);
    // While the pin is masked nobody is asked.
    refuse(true);
    apic.wire(vec![event(), event()]).unwrap();
    refuse(false);
    apic.write(0, &[0x10]);
    apic.write(0x10, &[0x41, 0, 0, 0]);
    assert_eq!(count(), 3);
    apic.wire(vec![event()]).unwrap();
    assert_eq!(count(), 2);
    let twice = event();
    machine.with(|record| record.refused = Some(twice.as_raw_fd()));
    assert!(apic.wire(vec![event(), twice]).is_err());
    assert_eq!(count(), 1);
    apic.wire(Vec::new()).unwrap();
    assert_eq!(count(), 1);
}

#[test]
fn the_address_of_the_command_register_is_kvms_to_take() {
    let bus = bus();
    let mut ports = Bus::new();
    ConfigPorts::add_to(&ConfigPorts::new(Arc::clone(&bus.segment)), &mut ports);
    let (port, word, taken) = bus.machine.with(|record| record.ports.remove(0));
    let enabled = 1 << 31 | (FUNCTION as u32) << 8;
    assert_eq!((port, word), (0xcf8, enabled | 4));
    let mut read = |port, selected: Option<u32>| {
        if let Some(address) = selected {
            assert!(matches!(
                ports.write(0xcf8, &address.to_le_bytes()),
                Effect::Continue
            ));
        }
        let mut data = [0; 4];
        ports.read(port, &mut data);
        u32::from_le_bytes(data)
    };
    let id = 0x5678_1234;
    assert_eq!(read(0xcfc, Some(enabled)), id);
    taken.write(1).unwrap();
    assert_eq!(read(0xcfc, None), 0x10_0002, "status and command");
    assert_eq!(read(0xcfc, None), 0x10_0002);
    // The last write counts, wherever it went.
    taken.write(3).unwrap();
    assert_eq!(read(0xcfc, Some(enabled)), id);
    taken.write(1).unwrap();
    assert_eq!(read(0xcf8, None), word);
    assert_eq!(read(0xcf8, Some(enabled | 0x3c)), enabled | 0x3c);
    taken.write(1).unwrap();
    assert!(matches!(ports.write(0xcfc, &[2, 4]), Effect::Continue));
    assert_eq!(bus.config(4), [2, 4]);
}
