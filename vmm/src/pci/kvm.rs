//! The VM around a PCI bus, on KVM: one table of memory slots, one table of interrupt routes.
//!
//! INTx goes by `KVM_IRQ_LINE`, whose level KVM's interrupt controllers keep: a pin that is still
//! asserted interrupts again after the guest's EOI, so that no descriptor has to be written anew
//! (what an irqfd with resampling would need a thread for).
#![deny(unsafe_code)]

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kvm_bindings::{
    KVM_IRQ_ROUTING_IRQCHIP, KVM_IRQ_ROUTING_MSI, KVM_IRQCHIP_IOAPIC, KVM_IRQCHIP_PIC_MASTER,
    KVM_IRQCHIP_PIC_SLAVE, KvmIrqRouting, kvm_irq_routing_entry,
};
use kvm_ioctls::{IoEventAddress, NoDatamatch, VmFd};
use vmm_sys_util::eventfd::EventFd;

use super::function::BarMemory;
use super::machine::{Machine, Message, SlotNumber};
use crate::layout;
use crate::memory::Slots;

/// The most routes that KVM takes (`KVM_MAX_IRQ_ROUTES`), all pins of interrupt controllers included.
const MAX_ROUTES: u32 = 4096;

/// A VM on KVM.
pub struct KvmMachine {
    vm: Arc<VmFd>,
    slots: Mutex<Slots>,
    routes: Mutex<Routes>,
    /// How many pins assert each global system interrupt of PCI.
    levels: Mutex<BTreeMap<u32, usize>>,
}

#[derive(Default)]
struct Routes {
    taken: u32,
    messages: BTreeMap<u32, Message>,
}

impl fmt::Debug for KvmMachine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KvmMachine")
            .field("slots", &*lock(&self.slots))
            .finish_non_exhaustive()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // None of the tables is left half changed by a panic.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl KvmMachine {
    /// The VM behind `vm`, with KVM's own interrupt controllers and these slots.
    pub fn new(vm: Arc<VmFd>, slots: Slots) -> KvmMachine {
        KvmMachine {
            vm,
            slots: Mutex::new(slots),
            routes: Mutex::default(),
            levels: Mutex::default(),
        }
    }

    /// Uses the table of slots.
    pub fn with_slots<R>(&self, act: impl FnOnce(&mut Slots) -> R) -> R {
        act(&mut lock(&self.slots))
    }
}

/// The routes that KVM has for its interrupt controllers from the start (Linux:
/// `kvm_setup_default_irq_routing`): an interrupt below 16 is a pin of the PICs and of the I/O APIC,
/// the others are pins of the I/O APIC.
fn default_routes() -> Vec<kvm_irq_routing_entry> {
    const PIC_PINS: u32 = 8;
    let pin = |gsi: u32, chip: u32, pin: u32| {
        let mut entry = kvm_irq_routing_entry {
            gsi,
            type_: KVM_IRQ_ROUTING_IRQCHIP,
            ..Default::default()
        };
        entry.u.irqchip.irqchip = chip;
        entry.u.irqchip.pin = pin;
        entry
    };
    let mut entries = Vec::new();
    for gsi in 0..layout::FIRST_MSI_GSI {
        match gsi {
            0..PIC_PINS => entries.push(pin(gsi, KVM_IRQCHIP_PIC_MASTER, gsi)),
            8..16 => entries.push(pin(gsi, KVM_IRQCHIP_PIC_SLAVE, gsi - PIC_PINS)),
            _ => {}
        }
        entries.push(pin(gsi, KVM_IRQCHIP_IOAPIC, gsi));
    }
    entries
}

fn message_route(gsi: u32, message: Message) -> kvm_irq_routing_entry {
    let mut entry = kvm_irq_routing_entry {
        gsi,
        type_: KVM_IRQ_ROUTING_MSI,
        ..Default::default()
    };
    entry.u.msi.address_lo = message.address as u32;
    entry.u.msi.address_hi = (message.address >> 32) as u32;
    entry.u.msi.data = message.data;
    entry
}

impl Machine for KvmMachine {
    fn add_memory(&self, memory: BarMemory) -> SlotNumber {
        let BarMemory {
            name,
            host,
            size,
            owner,
        } = memory;
        lock(&self.slots).add_unplaced(name, size, host, owner)
    }

    fn map(&self, slot: SlotNumber, gpa: u64) -> io::Result<()> {
        let placed = lock(&self.slots).place(&self.vm, slot, gpa);
        placed.map_err(io::Error::other)
    }

    fn unmap(&self, slot: SlotNumber) {
        lock(&self.slots).displace(&self.vm, slot);
    }

    fn set_doorbell(&self, address: u64, event: &EventFd, on: bool) -> io::Result<()> {
        let address = IoEventAddress::Mmio(address);
        // Without a length and a value: KVM need not decode the instruction.
        let done = match on {
            true => self.vm.register_ioevent(event, &address, NoDatamatch),
            false => self.vm.unregister_ioevent(event, &address, NoDatamatch),
        };
        done.map_err(io::Error::from)
    }

    fn take_gsi(&self) -> Option<u32> {
        let mut routes = lock(&self.routes);
        let gsi = layout::FIRST_MSI_GSI + routes.taken;
        // Each pin of a PIC has a route of its own.
        (gsi + 16 < MAX_ROUTES).then(|| {
            routes.taken += 1;
            gsi
        })
    }

    fn route(&self, gsi: u32, message: Message) -> io::Result<()> {
        let mut routes = lock(&self.routes);
        let before = routes.messages.insert(gsi, message);
        let mut entries = default_routes();
        entries.extend(
            routes
                .messages
                .iter()
                .map(|(&gsi, &one)| message_route(gsi, one)),
        );
        let table = KvmIrqRouting::from_entries(&entries).map_err(io::Error::other);
        let set = table.and_then(|table| self.vm.set_gsi_routing(&table).map_err(io::Error::from));
        if set.is_err() {
            match before {
                Some(before) => routes.messages.insert(gsi, before),
                None => routes.messages.remove(&gsi),
            };
        }
        set
    }

    fn set_event(&self, gsi: u32, event: &EventFd, on: bool) -> io::Result<()> {
        let done = match on {
            true => self.vm.register_irqfd(event, gsi),
            false => self.vm.unregister_irqfd(event, gsi),
        };
        done.map_err(io::Error::from)
    }

    fn set_level(&self, gsi: u32, level: bool) {
        let mut levels = lock(&self.levels);
        let count = levels.entry(gsi).or_default();
        let before = *count > 0;
        *count = match level {
            true => *count + 1,
            false => count.saturating_sub(1),
        };
        let after = *count > 0;
        if before != after {
            // KVM refuses only interrupts that its controllers have no pin for.
            let _ = self.vm.set_irq_line(gsi, after);
        }
    }

    fn set_port(&self, port: u16, word: u32, event: &EventFd) -> io::Result<()> {
        // With a length and a value: other writes come to the VMM.
        let address = IoEventAddress::Pio(port.into());
        let done = self.vm.register_ioevent(event, &address, word);
        done.map_err(io::Error::from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::kvm::Host;
    use crate::memory::reserve_ram;
    use kvm_bindings::kvm_regs;
    use kvm_ioctls::{VcpuExit, VcpuFd};
    use vm_memory::{Bytes, GuestAddress, MmapRegion};

    /// A machine with 4 MiB of RAM, and 8 KiB to be mapped; none where there is no KVM.
    fn machine() -> Option<(KvmMachine, SlotNumber)> {
        let Ok(host) = Host::open() else {
            eprintln!("SKIP: /dev/kvm cannot be used");
            return None;
        };
        let vm = Arc::new(host.create_vm().unwrap());
        let mut slots = Slots::new();
        slots.add_ram(&reserve_ram(4 << 20).unwrap()).unwrap();
        slots.install(&vm).unwrap();
        let machine = KvmMachine::new(vm, slots);
        let region = Arc::new(MmapRegion::<()>::new(0x2000).unwrap());
        let slot = machine.add_memory(BarMemory {
            name: "window",
            host: region.as_ptr() as usize,
            size: 0x2000,
            owner: region,
        });
        Some((machine, slot))
    }

    #[test]
    fn memory_is_in_one_place_or_nowhere() {
        let Some((machine, slot)) = machine() else {
            return;
        };
        let base = layout::PCI_LOW.0;
        for gpa in [base, base + 0x1000, 4 << 20] {
            machine.map(slot, gpa).unwrap();
            assert!(
                machine.map(slot, gpa + 0x10_0000).is_err(),
                "it is somewhere"
            );
            machine.unmap(slot);
            machine.unmap(slot);
        }
        for gpa in [
            0,
            (4 << 20) - 0x1000,
            layout::PCI_ECAM.0 - 0x1000,
            layout::LOCAL_APIC.0,
            postern_abi::view::RESERVED_GPA,
            base + 0x800,
            u64::MAX - 0xfff,
            // Beyond what any processor has.
            1 << 60,
        ] {
            assert!(machine.map(slot, gpa).is_err(), "{gpa:#x}");
        }
        assert!(machine.map(slot + 1, base).is_err(), "no such slot");
        // What failed has left nothing behind, also in KVM.
        machine.map(slot, base).unwrap();
        machine.with_slots(|slots| {
            let other = slots.add(
                "other",
                GuestAddress(base + 0x1000),
                0x1000,
                0,
                Arc::new(()),
            );
            assert!(other.is_err());
        });
    }

    #[test]
    fn messages_and_doorbells_come_and_go() {
        let Some((machine, _)) = machine() else {
            return;
        };
        let event = EventFd::new(libc::EFD_NONBLOCK).unwrap();
        let message = |data| Message {
            address: 0xfee0_0000,
            data,
        };
        let gsis: Vec<u32> = std::iter::from_fn(|| machine.take_gsi()).collect();
        assert_eq!(gsis.len() as u32, MAX_ROUTES - layout::FIRST_MSI_GSI - 16);
        let (first, last) = (gsis[0], gsis[gsis.len() - 1]);
        for gsi in [first, last] {
            machine.route(gsi, message(0x40)).unwrap();
            machine.route(gsi, message(0x41)).unwrap();
            machine.set_event(gsi, &event, true).unwrap();
            machine.set_event(gsi, &event, false).unwrap();
        }
        assert!(machine.route(MAX_ROUTES, message(0)).is_err());
        machine.route(first, message(0x42)).unwrap();
        let address = layout::PCI_REGISTERS.0 + 0x3000;
        let set = |on| machine.set_doorbell(address, &event, on);
        set(true).unwrap();
        assert!(set(true).is_err());
        set(false).unwrap();
        assert!(set(false).is_err());
        set(true).unwrap();
        machine.set_level(layout::pci_intx_gsi(1), true);
        machine.set_level(layout::pci_intx_gsi(1), false);
    }

    /// What a guest writes to an address until a vCPU's next exit to the VMM that is no write there.
    fn writes(vcpu: &mut VcpuFd, address: u64, value: u32) -> Vec<u32> {
        let mut sregs = vcpu.get_sregs().unwrap();
        (sregs.cs.base, sregs.cs.selector) = (0, 0);
        sregs.ds.base = address;
        vcpu.set_sregs(&sregs).unwrap();
        let regs = kvm_regs {
            rip: 0x1000,
            rax: value.into(),
            rflags: 2,
            ..Default::default()
        };
        vcpu.set_regs(&regs).unwrap();
        let mut seen = Vec::new();
        loop {
            match vcpu.run().unwrap() {
                VcpuExit::MmioWrite(at, data) => {
                    assert_eq!(at, address);
                    seen.push(u32::from_le_bytes(data.try_into().unwrap()));
                }
                VcpuExit::IoOut(0x10, _) => return seen,
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn a_doorbell_takes_all_that_is_written_there_without_the_vmm() {
        let Ok(host) = Host::open() else {
            eprintln!("SKIP: /dev/kvm cannot be used");
            return;
        };
        let vm = Arc::new(host.create_vm().unwrap());
        let ram = reserve_ram(4 << 20).unwrap();
        // mov [bx], eax; out 0x10, al
        let code = [0x66, 0x89, 0x07, 0xe6, 0x10];
        ram.write_slice(&code, GuestAddress(0x1000)).unwrap();
        let mut slots = Slots::new();
        slots.add_ram(&ram).unwrap();
        slots.install(&vm).unwrap();
        let mut vcpu = vm.create_vcpu(0).unwrap();
        let machine = KvmMachine::new(vm, slots);
        let event = || EventFd::new(libc::EFD_NONBLOCK).unwrap();
        let (one, other) = (event(), event());
        let address = layout::PCI_REGISTERS.0 + 0x3400;
        let counts = || [&one, &other].map(|event| event.read().unwrap_or(0));
        machine.set_doorbell(address, &one, true).unwrap();
        machine.set_doorbell(address + 4, &other, true).unwrap();
        const NONE: [u32; 0] = [];
        let mut write = |at, value| writes(&mut vcpu, address + at, value);
        for value in [0, u32::MAX] {
            assert_eq!(write(0, value), NONE);
        }
        assert_eq!(counts(), [2, 0]);
        assert_eq!(write(4, 7), NONE);
        assert_eq!(counts(), [0, 1]);
        assert_eq!(write(8, 7), [7], "it comes to the function");
        machine.set_doorbell(address, &one, false).unwrap();
        assert_eq!(write(0, 1), [1]);
        assert_eq!(counts(), [0, 0]);
    }

    #[test]
    fn a_port_takes_one_word_without_the_vmm() {
        let Ok(host) = Host::open() else {
            eprintln!("SKIP: /dev/kvm cannot be used");
            return;
        };
        const PORT: u16 = layout::PCI_CONFIG_ADDRESS;
        const WORD: u32 = 0x8000_1004;
        let vm = Arc::new(host.create_vm().unwrap());
        let ram = reserve_ram(4 << 20).unwrap();
        // mov eax, WORD; mov dx, PORT; out dx, eax; inc eax; out dx, eax; inc dx; out dx, al; out 0x10, al
        let mut code = vec![0x66, 0xb8];
        code.extend(WORD.to_le_bytes());
        code.push(0xba);
        code.extend(PORT.to_le_bytes());
        code.extend([0x66, 0xef, 0x66, 0x40, 0x66, 0xef, 0x42, 0xee, 0xe6, 0x10]);
        ram.write_slice(&code, GuestAddress(0x1000)).unwrap();
        let mut slots = Slots::new();
        slots.add_ram(&ram).unwrap();
        slots.install(&vm).unwrap();
        let mut vcpu = vm.create_vcpu(0).unwrap();
        let machine = KvmMachine::new(vm, slots);
        let event = EventFd::new(libc::EFD_NONBLOCK).unwrap();
        machine.set_port(PORT, WORD, &event).unwrap();
        let mut sregs = vcpu.get_sregs().unwrap();
        (sregs.cs.base, sregs.cs.selector) = (0, 0);
        vcpu.set_sregs(&sregs).unwrap();
        let regs = kvm_regs {
            rip: 0x1000,
            rflags: 2,
            ..Default::default()
        };
        vcpu.set_regs(&regs).unwrap();
        let mut seen = Vec::new();
        loop {
            match vcpu.run().unwrap() {
                VcpuExit::IoOut(0x10, _) => break,
                VcpuExit::IoOut(port, data) => seen.push((port, data.to_vec())),
                other => panic!("{other:?}"),
            }
        }
        // Another word, and a byte of it where a guest resets the machine.
        let other = (WORD + 1).to_le_bytes();
        assert_eq!(seen, [(PORT, other.to_vec()), (PORT + 1, vec![5])]);
        assert_eq!(event.read().unwrap(), 1);
    }

    #[test]
    fn pins_keep_their_interrupts() {
        let routes = default_routes();
        assert_eq!(routes.len(), 40);
        for gsi in 0..layout::FIRST_MSI_GSI {
            let own = routes.iter().filter(|route| route.gsi == gsi).count();
            assert_eq!(own, if gsi < 16 { 2 } else { 1 });
        }
    }
}
