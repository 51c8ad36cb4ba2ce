//! A PCI bus whose guest writes what it likes to configuration space, by memory and by ports, and to
//! BARs. Input: accesses.
#![forbid(unsafe_code)]

use std::sync::Arc;

use postern_fuzz_input::Bytes;
use postern_vmm::devices::{Bus, Effect, MmioDevice};
use postern_vmm::layout;
use postern_vmm::pci::{
    Bar, BarKind, BarMemory, ConfigPorts, Detached, Doorbell, Identity, Interrupts, Intx,
    PciFunction, Segment,
};
use vmm_sys_util::eventfd::EventFd;

/// A function with everything that there is: registers, memory, a doorbell, a capability, MSI-X
/// and INTx.
struct Function {
    doorbell: Arc<EventFd>,
    interrupts: Option<Arc<dyn Interrupts>>,
}

/// Sizes of its BARs.
const REGISTERS: u64 = 0x100;
const MEMORY: u64 = 0x2000;

impl PciFunction for Function {
    fn identity(&self) -> Identity {
        let bar = |size, kind| Bar { size, kind };
        Identity {
            id: (0x1234, 0x5678),
            subsystem: (1, 2),
            class: [0xff, 0, 0],
            revision: 1,
            bars: vec![
                (0, bar(REGISTERS, BarKind::Registers)),
                (2, bar(MEMORY, BarKind::Memory)),
            ],
            vendor_capabilities: vec![vec![16, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13]],
            msix_vectors: 3,
            // Has registers of its own besides.
            intx: Some(Intx::Own),
        }
    }

    fn memory(&self, bar: usize) -> Option<BarMemory> {
        (bar == 2).then(|| BarMemory {
            name: "nothing",
            // Nobody maps it.
            host: 0x10_0000,
            size: MEMORY,
            owner: Arc::new(()),
        })
    }

    fn doorbells(&self) -> Vec<Doorbell> {
        vec![Doorbell {
            bar: 0,
            offset: 16,
            event: Arc::clone(&self.doorbell),
        }]
    }

    fn connect(&mut self, interrupts: Arc<dyn Interrupts>) {
        self.interrupts = Some(interrupts);
    }

    fn read(&mut self, bar: usize, offset: u64, data: &mut [u8]) {
        inside(bar, offset, data.len());
        data.fill(offset as u8);
    }

    fn write(&mut self, bar: usize, offset: u64, data: &[u8]) -> Effect {
        inside(bar, offset, data.len());
        if let Some(interrupts) = &self.interrupts {
            interrupts.set_intx(data[0] & 1 != 0);
            interrupts.signal(u16::from(data[0] >> 1)).unwrap();
        }
        Effect::Continue
    }

    fn reset(&mut self) {}
}

/// What the bus promises of accesses.
fn inside(bar: usize, offset: u64, length: usize) {
    assert_eq!(bar, 0);
    assert!(matches!(length, 1 | 2 | 4 | 8));
    assert!(offset + length as u64 <= REGISTERS);
}

/// Runs an input.
pub fn run(data: &[u8]) {
    let mut input = Bytes(data);
    let segment = Segment::new(Arc::new(Detached::default())).unwrap();
    let function = Function {
        doorbell: Arc::new(EventFd::new(libc::EFD_NONBLOCK).unwrap()),
        interrupts: None,
    };
    let device = segment.plug(Box::new(function)).unwrap();
    let mut segment = Arc::new(segment);
    let mut bus = Bus::new();
    ConfigPorts::add_to(&ConfigPorts::new(Arc::clone(&segment)), &mut bus);
    while !input.is_empty() {
        let step = input.u8();
        let width = 1 + usize::from(input.u8() & 7);
        // A guest knows where its function is, and where its BARs are.
        let place = u64::from(input.u16());
        let address = match step >> 1 & 7 {
            0..=2 => layout::PCI_ECAM.0 + (place >> 12 << 15) + (place & 0xfff),
            3 => segment.bar(device, 0).unwrap_or(0) + (place & 0x1ff),
            // The MSI-X table and its pending bits.
            4 => segment.bar(device, 1).unwrap_or(0) + (place & 0xfff),
            5 => segment.bar(device, 2).unwrap_or(0) + (place & 0x1fff),
            6 => input.u64(),
            _ => {
                let port = layout::PCI_CONFIG_ADDRESS + (place & 7) as u16;
                let width = [1, 2, 4][width % 3];
                let mut data = [0; 4];
                match step & 1 {
                    0 => bus.read(port, &mut data[..width]),
                    _ => {
                        data = input.u32().to_le_bytes();
                        no_end(bus.write(port, &data[..width]));
                    }
                }
                continue;
            }
        };
        let mut data = input.u64().to_le_bytes();
        match step & 1 {
            0 => drop(segment.read(address, &mut data[..width])),
            _ => segment
                .write(address, &data[..width])
                .into_iter()
                .for_each(no_end),
        }
    }
    // Whatever was written, the function is what it is, and a reset brings it back.
    let mut id = [0; 4];
    segment.read_config(device << 3, 0, &mut id);
    assert_eq!(id, [0x34, 0x12, 0x78, 0x56]);
    segment.reset();
    assert!(segment.bar(device, 0).is_some() && segment.bar(device, 2).is_some());
}

/// No access to a PCI bus ends a VM.
fn no_end(effect: Effect) {
    assert!(matches!(effect, Effect::Continue), "{effect:?}");
}
