use postern_abi::nic_device::{NicDevice, register};
use postern_abi::platform::CallPath;
use postern_abi::window::PortId;

use super::*;
use crate::bells::{BURST, BellThread};
use crate::pci::{Bell, Ivshmem};

const PORT: u32 = 7;
/// The machine's first interrupt is the pin's.
const PIN: u32 = layout::FIRST_MSI_GSI;

fn device(vectors: u16) -> NicDevice {
    NicDevice {
        path: CallPath::ExitUser,
        port: PortId::from_number(PORT as u8),
        size: EXISTS,
        vectors,
    }
}

/// A bus with a NIC port as device 1, and the bell of port 3's queue 1.
fn bus(vectors: u16) -> (Fixture, Arc<EventFd>) {
    let (bus, _, rung) = bus_and_bell(vectors);
    (bus, rung)
}

/// The same, with the port's own bell.
fn bus_and_bell(vectors: u16) -> (Fixture, Arc<Bell>, Arc<EventFd>) {
    let mut bus = Fixture::empty();
    let memory = BarMemory {
        name: "window",
        host: 0,
        size: EXISTS,
        owner: Arc::new(()),
    };
    let event = || Arc::new(EventFd::new(libc::EFD_NONBLOCK).unwrap());
    let rung = event();
    let peers = [
        (3, vec![event(), Arc::clone(&rung)]),
        (PORT as u16, vec![event(), event()]),
    ];
    let function = Ivshmem::new(device(vectors), memory, peers.into()).unwrap();
    let bell = function.bell();
    assert_eq!(bus.segment.plug(Box::new(function)).unwrap(), DEVICE);
    bus.base = bus.bar(0);
    (bus, bell, rung)
}

impl Fixture {
    fn get(&mut self, register: u64) -> u32 {
        u32::from_le_bytes(self.read(self.base + register).unwrap())
    }

    fn set(&mut self, register: u64, value: u32) {
        assert!(self.write(self.base + register, &value.to_le_bytes()));
    }

    fn asserted(&self) -> bool {
        self.config::<1>(6)[0] & 8 != 0
    }

    /// Unmasks the pin, as the guest's kernel does.
    fn unmask_pin(&mut self) {
        let at = layout::PCI_IO_APIC.0;
        assert!(self.write(at, &0x10u32.to_le_bytes()) && self.write(at + 0x10, &[0x22, 0, 0, 0]));
    }

    /// The pin's events, that of the device's own edges first.
    fn pin_events(&self) -> Vec<RawFd> {
        let events = self.machine.with(|record| record.events.clone());
        let pin = events.iter().filter(|&&(gsi, _)| gsi == PIN);
        pin.map(|&(_, event)| event).collect()
    }

    /// How often the pin was asserted since this was asked last.
    fn edges(&self) -> u64 {
        let own = self.pin_events()[0];
        self.machine
            .with(|record| record.clones[&own].read().unwrap_or(0))
    }
}

#[test]
fn a_guest_finds_its_port_in_configuration_space() {
    for vectors in [0, 2] {
        let (bus, _) = bus(vectors);
        let config: [u8; 256] = bus.config(0);
        assert_eq!(NicDevice::find(&config), Ok(device(vectors)));
        assert_eq!(config[..4], [0xf4, 0x1a, 0x10, 0x11]);
        assert_eq!((config[8], &config[9..12]), (1, &[0, 0, 5][..]));
        assert_eq!(bus.segment.bar(DEVICE, 1).is_some(), vectors > 0);
        assert_eq!(bus.bar(2), postern_abi::platform::NIC_GPA);
        // 64 bits, prefetchable, as large as the next power of two.
        bus.set_config(0x18, &[0xff; 8]);
        let size = u64::from_le_bytes(bus.config(0x18));
        assert_eq!(size, !(device(0).bar_size() - 1) | 0xc);
    }
}

#[test]
fn the_plain_variant_rings_nobody() {
    let (mut bus, rung) = bus(0);
    assert_eq!(bus.get(register::IV_POSITION), 0);
    bus.set(register::INTERRUPT_MASK, 1);
    bus.set(register::DOORBELL, PORT << 16);
    bus.set(register::DOORBELL, 3 << 16 | 1);
    assert!(!bus.asserted());
    assert!(rung.read().is_err());
}

#[test]
fn the_pin_follows_status_and_mask() {
    let (mut bus, _) = bus(2);
    assert_eq!(bus.get(register::IV_POSITION), PORT);
    bus.set(register::DOORBELL, PORT << 16 | 1);
    assert!(!bus.asserted(), "masked from the start");
    bus.set(register::INTERRUPT_MASK, u32::MAX);
    assert!(bus.asserted());
    assert_eq!(bus.get(register::INTERRUPT_STATUS), 1);
    assert!(!bus.asserted(), "the read clears it");
    assert_eq!(bus.get(register::INTERRUPT_STATUS), 0);
    bus.set(register::INTERRUPT_STATUS, 1);
    assert!(bus.asserted());
    bus.segment.reset();
    assert!(!bus.asserted());
    assert_eq!(bus.get(register::INTERRUPT_MASK), 0);
}

#[test]
fn a_bell_sends_messages_while_msix_is_on() {
    let (mut bus, rung) = bus(2);
    bus.set_config(4, &[6, 0]);
    bus.set_config(0x42, &[0, 0xc0]);
    bus.set(register::INTERRUPT_MASK, 1);
    bus.set(register::DOORBELL, PORT << 16 | 1);
    assert!(!bus.asserted());
    let pending = bus.bar(1) + 0x800;
    assert_eq!(bus.read(pending), Some([2]));
    bus.set(register::DOORBELL, 3 << 16 | 1);
    assert_eq!(rung.read().unwrap(), 1, "a peer");
}

#[test]
fn bells_of_other_ports_have_registers_that_kvm_answers() {
    let (mut bus, bell, rung) = bus_and_bell(2);
    let bells = |bus: &Fixture| bus.machine.with(|record| record.doorbells.clone());
    let first = bus.base + register::BELLS;
    let expected = [3 * 2, 3 * 2 + 1].map(|number| first + 4 * number);
    assert_eq!(bells(&bus), expected, "but not the port's own");
    // They move with the BAR; what KVM has no room for comes to the function.
    bus.set_config(4, &[0, 0]);
    assert!(bells(&bus).is_empty());
    bus.machine.with(|record| record.full = true);
    bus.set_config(4, &[2, 0]);
    assert!(bells(&bus).is_empty());
    bus.set(register::BELLS + 4 * 7, 0);
    assert_eq!(rung.read().unwrap(), 1);
    bus.machine.with(|record| record.full = false);
    bus.set_config(4, &[0, 0]);
    bus.set_config(4, &[2, 0]);
    assert_eq!(bells(&bus), expected);
    // The doorbell of ivshmem, and the port's own bells.
    bus.set(register::DOORBELL, 3 << 16 | 1);
    assert_eq!(rung.read().unwrap(), 1);
    bus.set(register::INTERRUPT_MASK, 1);
    bus.set(register::BELLS + 4 * u64::from(PORT * 2), u32::MAX);
    assert!(bus.asserted() && !bell.is_wired());
    let (plain, ..) = bus_and_bell(0);
    assert!(bells(&plain).is_empty());
}

#[test]
fn messages_are_sent_for_bells_and_msix_is_told() {
    let (mut bus, bell, _) = bus_and_bell(2);
    bus.set_config(4, &[6, 0]);
    bus.set_config(0x42, &[0, 0xc0]);
    assert_eq!(bell.switched().read().unwrap(), 1);
    bus.set_config(0x42, &[0, 0xc0]);
    assert!(bell.switched().read().is_err(), "nothing has changed");
    // They are the thread's, which counts them.
    assert!(!bell.is_wired() && !bell.is_unwired_pulse());
    bell.ring(1);
    bell.ring(2);
    let pending = bus.bar(1) + 0x800;
    assert_eq!(bus.read(pending), Some([2]));
    bus.set_config(0x42, &[0, 0]);
    assert_eq!(bell.switched().read().unwrap(), 1);
}

#[test]
fn disabling_intx_while_it_is_asserted_acknowledges_the_bell() {
    let (mut bus, bell, _) = bus_and_bell(2);
    bus.set(register::INTERRUPT_MASK, 1);
    bus.unmask_pin();
    bell.ring(0);
    assert!(bus.edges() == 1 && bus.asserted());
    bus.set_config(4, &[2, 4]);
    assert!(!bus.asserted());
    bus.set_config(4, &[2, 0]);
    assert_eq!(bus.edges(), 0, "it is over");
    assert_eq!(bus.get(register::INTERRUPT_STATUS), 0);
    // A bell that rings while INTx is disabled waits for its time.
    bus.set_config(4, &[2, 4]);
    bell.ring(1);
    bus.set_config(4, &[2, 4]);
    assert!(bus.edges() == 0 && bus.asserted());
    bus.set_config(4, &[2, 0]);
    assert_eq!(bus.edges(), 1);
    // Who reads the status register instead has it, too.
    assert_eq!(bus.get(register::INTERRUPT_STATUS), 1);
    bell.ring(0);
    assert_eq!(bus.edges(), 1);
    assert_eq!(bus.get(register::INTERRUPT_STATUS), 1);
    // A masked pin was not asserted, and keeps its status.
    bus.set(register::INTERRUPT_MASK, 0);
    bell.ring(0);
    bus.set_config(4, &[2, 4]);
    bus.set_config(4, &[2, 0]);
    assert_eq!(bus.get(register::INTERRUPT_STATUS), 1);
}

#[test]
fn a_pulse_is_acknowledged_by_the_read_that_finds_it() {
    let (mut bus, bell, _) = bus_and_bell(2);
    bus.unmask_pin();
    bus.set_config(4, &[2, 4]);
    bus.set(register::INTERRUPT_MASK, register::PULSE);
    bell.wire(false);
    for _ in 0..3 {
        bell.ring(0);
        bell.ring(1);
        assert_eq!(bus.edges(), 1, "INTx Disable has no effect");
        assert!(bus.asserted());
        assert!(!bus.asserted());
        assert_eq!(bus.get(register::INTERRUPT_STATUS), 0);
    }
    // A write of the command register says nothing of it.
    bell.ring(0);
    bus.set_config(4, &[2, 4]);
    bell.ring(0);
    assert_eq!(bus.edges(), 1);
    // Without the bit the pin is disabled, and the read changes nothing.
    bus.set(register::INTERRUPT_MASK, 1);
    assert!(bus.edges() == 0 && bus.asserted() && bus.asserted());
    bus.segment.reset();
    bell.ring(0);
    bus.unmask_pin();
    assert_eq!(bus.edges(), 0, "nothing of it is left after a reset");
}

#[test]
fn bells_are_wired_to_a_pin_that_is_a_pulse() {
    let (mut bus, bell, _) = bus_and_bell(2);
    bus.unmask_pin();
    let pulses = |bus: &Fixture| {
        let events = bus.pin_events();
        let own = |event: &&Arc<EventFd>| events.contains(&event.as_raw_fd());
        bell.events().iter().filter(own).count()
    };
    assert!(pulses(&bus) == 0 && !bell.is_wired());
    bus.set(register::INTERRUPT_MASK, register::PULSE);
    assert_eq!(pulses(&bus), 2, "the port's own bells");
    assert!(bell.is_wired() && bus.asserted(), "nobody knows better");
    assert_eq!(bell.switched().read().unwrap(), 1);
    // With MSI-X on, they are messages, and pulses again without.
    bus.set_config(4, &[6, 4]);
    bus.set_config(0x42, &[0, 0x80]);
    assert_eq!(pulses(&bus), 0);
    assert!(!bell.is_wired() && !bell.is_unwired_pulse() && !bus.asserted());
    bus.set_config(0x42, &[0, 0]);
    assert_eq!(pulses(&bus), 2);
    // Too many pulses, as their acknowledgements say, and the bells are left to the thread.
    while bell.is_wired() {
        let status = bus.config::<1>(6)[0];
        assert!(status & 8 != 0 || !bell.is_wired());
    }
    assert_eq!(pulses(&bus), 0);
    let counts = bell.counters().read();
    assert!(
        counts.rings >= BURST.into() && counts.held == 1,
        "{counts:?}"
    );
    bell.wire(true);
    assert_eq!(pulses(&bus), 2);
    // While the pin is masked, they wait.
    bus.segment.reset();
    assert_eq!(pulses(&bus), 0);
    assert!(!bell.is_wired() && !bus.asserted());
    bus.set(register::INTERRUPT_MASK, register::PULSE);
    assert!(pulses(&bus) == 0 && bell.is_wired());
    bus.unmask_pin();
    assert_eq!(pulses(&bus), 2);
    // Who has the pin as PCI has it gets no pulses.
    bus.set(register::INTERRUPT_MASK, u32::MAX);
    bell.wire(true);
    assert_eq!(pulses(&bus), 0);
}

#[test]
fn a_pulse_that_is_on_its_way_when_the_thread_takes_over_is_acknowledged() {
    let (mut bus, bell, _) = bus_and_bell(2);
    bus.set(register::INTERRUPT_MASK, register::PULSE);
    while bell.is_wired() {
        assert!(bus.asserted());
    }
    // The interrupt controller may have another one, and its handler asks.
    assert!(bus.asserted(), "KVM has taken its bell");
    assert!(!bus.asserted());
}

#[test]
fn what_the_thread_has_asserted_ends_with_the_bells_wired_again() {
    let (mut bus, bell, _) = bus_and_bell(2);
    bus.unmask_pin();
    bus.set(register::INTERRUPT_MASK, register::PULSE);
    bell.wire(false);
    bell.ring(0);
    assert_eq!(bus.edges(), 1);
    // A guest that has not looked for so long that there may be a burst again.
    bell.wire(true);
    assert!(bell.is_wired() && bus.asserted());
    let status = bus.get(register::INTERRUPT_STATUS);
    assert_eq!(status, 0, "the read acknowledges it");
    assert!(bell.is_wired());
}

#[test]
fn a_machine_that_refuses_pulses_is_not_asked_for_ever() {
    let (mut bus, bell, _) = bus_and_bell(2);
    bus.unmask_pin();
    bus.machine.with(|record| record.refuses_events = true);
    bus.set(register::INTERRUPT_MASK, register::PULSE);
    assert!(bell.is_unwired_pulse());
    let thread = BellThread::start(Arc::clone(&bell)).unwrap();
    std::thread::sleep(std::time::Duration::from_millis(100));
    let refused = bus.machine.with(|record| record.refused_events);
    assert!(refused < 100, "{refused} times");
    // The thread does it.
    bell.events()[0].write(1).unwrap();
    while !bus.asserted() {
        std::thread::yield_now();
    }
    drop(thread);
}

#[test]
fn doorbells_that_name_nobody_are_harmless() {
    let (mut bus, rung) = bus(2);
    bus.set(register::INTERRUPT_MASK, 1);
    for value in [
        2,
        3 << 16 | 2,
        4 << 16,
        PORT << 16 | 2,
        PORT << 16 | 0xffff,
        u32::MAX,
    ] {
        bus.set(register::DOORBELL, value);
    }
    assert!(!bus.asserted() && rung.read().is_err());
    for number in [0, 5, 8, 255] {
        bus.set(register::BELLS + 4 * number, 0);
    }
    assert!(!bus.asserted() && rung.read().is_err());
    // Other widths and places.
    let base = bus.base;
    for (offset, width) in [
        (12, 1),
        (12, 2),
        (12, 8),
        (13, 4),
        (0, 8),
        (16, 4),
        (252, 4),
    ] {
        assert!(bus.write(base + offset, &[0xff; 8][..width]));
    }
    assert_eq!(bus.read(base), Some([0, 0]), "no register has 16 bits");
    assert_eq!(bus.get(register::INTERRUPT_MASK), 1);
    assert_eq!(bus.get(register::DOORBELL), 0);
    assert_eq!(bus.read::<4>(base + 2046), None);
}
