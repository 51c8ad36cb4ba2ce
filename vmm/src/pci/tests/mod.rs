//! A bus with a function on it, as a guest sees both, on a machine that records what it is asked.

mod bars;
mod config;
mod hostile;
mod interrupts;
mod io_apic;
mod ivshmem;

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::{Arc, Mutex};

use vmm_sys_util::eventfd::EventFd;

use super::machine::{Machine, Message, SlotNumber};
use super::{Bar, BarKind, BarMemory, Doorbell, Identity, Interrupts, Intx, PciFunction, Segment};
use crate::devices::{Effect, MmioDevice};
use crate::layout;

pub const REGISTERS: u64 = 0x1000;
pub const MEMORY: u64 = 0x40_0000;
/// Bytes of the memory BAR that exist.
pub const EXISTS: u64 = 0x30_0000;
pub const VECTORS: u16 = 3;
pub const DOORBELL: u64 = 0x800;

/// What the machine has been asked for.
#[derive(Debug, Default)]
pub struct Record {
    pub mapped: BTreeMap<SlotNumber, u64>,
    pub doorbells: Vec<u64>,
    /// Whether there is no room for a doorbell.
    pub full: bool,
    /// Whether events are refused, and how many were.
    pub refuses_events: bool,
    pub refused_events: usize,
    /// The only event that is refused.
    pub refused: Option<RawFd>,
    pub gsis: u32,
    pub routes: BTreeMap<u32, Message>,
    pub routed: usize,
    /// Interrupts and the events that raise them.
    pub events: Vec<(u32, RawFd)>,
    pub levels: BTreeMap<u32, i32>,
    /// All events that have raised interrupts, by their descriptors.
    pub clones: BTreeMap<RawFd, EventFd>,
    /// Ports, words and the events that they signal.
    pub ports: Vec<(u16, u32, EventFd)>,
}

/// A machine that records; memory can be from 3 to 4 GiB and above the range of views.
#[derive(Debug, Default)]
pub struct Recorder(pub Mutex<Record>);

impl Recorder {
    pub fn with<R>(&self, act: impl FnOnce(&mut Record) -> R) -> R {
        act(&mut self.0.lock().unwrap())
    }
}

impl Machine for Recorder {
    fn add_memory(&self, memory: BarMemory) -> SlotNumber {
        memory.size as usize
    }

    fn map(&self, slot: SlotNumber, gpa: u64) -> io::Result<()> {
        let low = (layout::PCI_LOW.0..layout::PCI_ECAM.0 - slot as u64).contains(&gpa);
        if low || gpa >= layout::PCI_HIGH.0 {
            let before = self.with(|record| record.mapped.insert(slot, gpa));
            assert_eq!(before, None, "a slot is in one place");
            return Ok(());
        }
        Err(io::Error::other("overlap"))
    }

    fn unmap(&self, slot: SlotNumber) {
        assert!(self.with(|record| record.mapped.remove(&slot)).is_some());
    }

    fn set_doorbell(&self, address: u64, _: &EventFd, on: bool) -> io::Result<()> {
        let doorbell = address;
        self.with(|record| match on {
            true if record.full => Err(io::Error::other("full")),
            true => {
                assert!(!record.doorbells.contains(&doorbell), "put there once");
                record.doorbells.push(doorbell);
                Ok(())
            }
            false => {
                assert!(record.doorbells.contains(&doorbell), "it was there");
                record.doorbells.retain(|&one| one != doorbell);
                Ok(())
            }
        })
    }

    fn take_gsi(&self) -> Option<u32> {
        self.with(|record| {
            record.gsis += 1;
            Some(layout::FIRST_MSI_GSI + record.gsis - 1)
        })
    }

    fn route(&self, gsi: u32, message: Message) -> io::Result<()> {
        self.with(|record| {
            record.routes.insert(gsi, message);
            record.routed += 1;
        });
        Ok(())
    }

    fn set_event(&self, gsi: u32, event: &EventFd, on: bool) -> io::Result<()> {
        let clone = event.try_clone()?;
        let event = event.as_raw_fd();
        self.with(|record| record.clones.insert(event, clone));
        self.with(|record| match on {
            _ if record.refuses_events || record.refused == Some(event) => {
                record.refused_events += 1;
                Err(io::Error::other("no room"))
            }
            true => {
                let is_free = record.events.iter().all(|&(_, other)| other != event);
                assert!(is_free, "KVM takes an event for one interrupt");
                record.events.push((gsi, event));
                Ok(())
            }
            false => {
                assert!(record.events.contains(&(gsi, event)), "it was connected");
                record.events.retain(|&one| one != (gsi, event));
                Ok(())
            }
        })
    }

    fn set_port(&self, port: u16, word: u32, event: &EventFd) -> io::Result<()> {
        let event = event.try_clone()?;
        self.with(|record| record.ports.push((port, word, event)));
        Ok(())
    }

    fn set_level(&self, gsi: u32, level: bool) {
        let count = self.with(|record| {
            let count = record.levels.entry(gsi).or_default();
            *count += if level { 1 } else { -1 };
            *count
        });
        assert!((0..=1).contains(&count));
    }
}

/// What the function has seen.
#[derive(Default)]
pub struct Seen {
    pub writes: Vec<(usize, u64, Vec<u8>)>,
    pub capability: Vec<(usize, Vec<u8>)>,
    pub resets: usize,
    pub interrupts: Option<Arc<dyn Interrupts>>,
}

/// A function with one BAR of each kind, MSI-X, a pin and a capability.
pub struct Sample {
    pub seen: Arc<Mutex<Seen>>,
    event: Arc<EventFd>,
}

impl PciFunction for Sample {
    fn identity(&self) -> Identity {
        let bar = |size, kind| Bar { size, kind };
        Identity {
            id: (0x1234, 0x5678),
            subsystem: (0x9abc, 0xdef0),
            class: [2, 0, 1],
            revision: 7,
            bars: vec![
                (0, bar(REGISTERS, BarKind::Registers)),
                (2, bar(MEMORY, BarKind::Memory)),
            ],
            vendor_capabilities: vec![vec![6, 1, 2, 3]],
            msix_vectors: VECTORS,
            intx: Some(Intx::Shared),
        }
    }

    fn memory(&self, bar: usize) -> Option<BarMemory> {
        assert_eq!(bar, 2);
        Some(BarMemory {
            name: "sample",
            host: 0,
            size: EXISTS,
            owner: Arc::new(()),
        })
    }

    fn doorbells(&self) -> Vec<Doorbell> {
        vec![Doorbell {
            bar: 0,
            offset: DOORBELL,
            event: Arc::clone(&self.event),
        }]
    }

    fn connect(&mut self, interrupts: Arc<dyn Interrupts>) {
        self.seen.lock().unwrap().interrupts = Some(interrupts);
    }

    fn read_capability(&mut self, index: usize, offset: usize, data: &mut [u8]) {
        assert_eq!(index, 0);
        for (at, byte) in (offset..).zip(data) {
            if at == 5 {
                *byte = 0x55;
            }
        }
    }

    fn write_capability(&mut self, _: usize, offset: usize, data: &[u8]) -> Effect {
        let mut seen = self.seen.lock().unwrap();
        seen.capability.push((offset, data.to_vec()));
        Effect::Continue
    }

    fn read(&mut self, bar: usize, offset: u64, data: &mut [u8]) {
        assert!(offset + data.len() as u64 <= REGISTERS);
        data.fill(bar as u8 + offset as u8);
    }

    fn write(&mut self, bar: usize, offset: u64, data: &[u8]) -> Effect {
        assert!(offset + data.len() as u64 <= REGISTERS);
        let mut seen = self.seen.lock().unwrap();
        seen.writes.push((bar, offset, data.to_vec()));
        Effect::Continue
    }

    fn reset(&mut self) {
        self.seen.lock().unwrap().resets += 1;
    }
}

/// A bus with the sample function as device 1.
pub struct Fixture {
    pub machine: Arc<Recorder>,
    pub segment: Arc<Segment>,
    pub seen: Arc<Mutex<Seen>>,
    /// Where BAR 0 is.
    pub base: u64,
}

pub const DEVICE: usize = 1;
pub const FUNCTION: usize = DEVICE * 8;
pub const CAPABILITY: usize = 0x4c;

impl Fixture {
    pub fn empty() -> Fixture {
        let machine = Arc::new(Recorder::default());
        Fixture {
            segment: Arc::new(Segment::new(machine.clone()).unwrap()),
            machine,
            seen: Arc::default(),
            base: 0,
        }
    }

    pub fn new() -> Fixture {
        let mut bus = Fixture::empty();
        let sample = Sample {
            seen: Arc::clone(&bus.seen),
            event: Arc::new(EventFd::new(libc::EFD_NONBLOCK).unwrap()),
        };
        assert_eq!(bus.segment.plug(Box::new(sample)).unwrap(), DEVICE);
        bus.base = bus.bar(0);
        bus
    }

    pub fn config<const N: usize>(&self, offset: usize) -> [u8; N] {
        let mut data = [0; N];
        self.segment.read_config(FUNCTION, offset, &mut data);
        data
    }

    pub fn set_config(&self, offset: usize, data: &[u8]) {
        let effect = self.segment.write_config(FUNCTION, offset, data);
        assert!(matches!(effect, Effect::Continue));
    }

    pub fn read<const N: usize>(&mut self, address: u64) -> Option<[u8; N]> {
        let mut data = [0; N];
        self.segment.read(address, &mut data).then_some(data)
    }

    pub fn write(&mut self, address: u64, data: &[u8]) -> bool {
        self.segment.write(address, data).is_some()
    }

    pub fn bar(&self, bar: usize) -> u64 {
        self.segment.bar(DEVICE, bar).unwrap()
    }

    pub fn interrupts(&self) -> Arc<dyn Interrupts> {
        self.seen.lock().unwrap().interrupts.clone().unwrap()
    }
}
