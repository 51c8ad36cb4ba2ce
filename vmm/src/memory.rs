//! Guest-physical memory: RAM, and the table of memory slots given to KVM.

use std::any::Any;
use std::fmt;
use std::io;
use std::sync::Arc;

use kvm_bindings::kvm_userspace_memory_region;
use kvm_ioctls::VmFd;
use postern_abi::{PAGE_SIZE, view};
use vm_memory::{Address, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion};

use crate::layout;
use crate::size::Bytes;

/// Why a VM cannot have this memory.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Less RAM than any guest can start in.
    #[error(
        "{size} of memory are too few for a VM: give it at least {min}",
        size = Bytes(*.0),
        min = Bytes(layout::MIN_RAM)
    )]
    TooSmall(u64),
    /// More RAM than the layout has room for.
    #[error(
        "{size} of memory are too many for a VM: the most is {max}",
        size = Bytes(*.0),
        max = Bytes(layout::MAX_RAM)
    )]
    TooLarge(u64),
    /// RAM that is no whole number of pages.
    #[error("a memory of {0} bytes is not a multiple of {unit} bytes", unit = layout::RAM_UNIT)]
    Unaligned(u64),
    /// The host would not give the RAM.
    #[error("cannot reserve {size} of memory for the VM", size = Bytes(*.size))]
    Reserve {
        /// Bytes asked for.
        size: u64,
        /// The system's error.
        source: vm_memory::mmap::FromRangesError,
    },
    /// The host would not clear the RAM.
    #[error("cannot clear the VM's memory")]
    Clear(#[source] io::Error),
    /// A slot that does not begin and end at page boundaries, is empty or wraps around.
    #[error("memory slot of {name}: {size:#x} bytes at {gpa:#x} are not whole pages")]
    BadSlot {
        /// Name of what the slot holds.
        name: String,
        /// Guest-physical address.
        gpa: u64,
        /// Bytes.
        size: u64,
    },
    /// Two things at one guest-physical address.
    #[error(
        "{name} ({gpa:#x} to {end:#x}) overlaps {other} ({other_gpa:#x} to {other_end:#x}) \
         in the guest's physical address space"
    )]
    Overlap {
        /// Name of what the new slot holds.
        name: String,
        /// First byte of the new slot.
        gpa: u64,
        /// First byte after it.
        end: u64,
        /// Name of what is there already.
        other: String,
        /// First byte of what is there.
        other_gpa: u64,
        /// First byte after it.
        other_end: u64,
    },
    /// No slot of that number is to be placed.
    #[error("there is no memory slot {0} that is nowhere")]
    NoSuchSlot(usize),
    /// KVM refused a slot.
    #[error("KVM refused the memory slot of {name} ({size:#x} bytes at {gpa:#x})")]
    SetSlot {
        /// Name of what the slot holds.
        name: String,
        /// Guest-physical address.
        gpa: u64,
        /// Bytes.
        size: u64,
        /// The error of `KVM_SET_USER_MEMORY_REGION`.
        source: kvm_ioctls::Error,
    },
}

/// Reserves `size` bytes of zeroed RAM at the addresses of [`layout::ram_parts`]. The host gives
/// pages when they are touched.
///
/// # Errors
///
/// When the size does not fit the layout, or the host refuses.
pub fn reserve_ram(size: u64) -> Result<GuestMemoryMmap, Error> {
    if size < layout::MIN_RAM {
        return Err(Error::TooSmall(size));
    }
    if size > layout::MAX_RAM {
        return Err(Error::TooLarge(size));
    }
    if !size.is_multiple_of(layout::RAM_UNIT) {
        return Err(Error::Unaligned(size));
    }
    let parts: Vec<(GuestAddress, usize)> = layout::ram_parts(size)
        .into_iter()
        .map(|(gpa, size)| (gpa, size as usize))
        .collect();
    let ram = GuestMemoryMmap::from_ranges(&parts)
        .map_err(|source: vm_memory::mmap::FromRangesError| Error::Reserve { size, source })?;
    for part in ram.iter() {
        // Out of core dumps, and on large pages, so that touching all of RAM takes fewer faults.
        for advice in [libc::MADV_DONTDUMP, libc::MADV_HUGEPAGE] {
            // SAFETY: the range is the region's mapping, and neither advice changes its content. It
            // fails where a kernel does not know it, which then does as it always does.
            unsafe { libc::madvise(part.as_ptr().cast(), part.size(), advice) };
        }
    }
    Ok(ram)
}

/// Makes all of `ram` zero, and gives its pages back to the host.
///
/// # Errors
///
/// When the host refuses.
pub fn clear(ram: &GuestMemoryMmap) -> Result<(), Error> {
    for region in ram.iter() {
        let (start, size) = (region.as_ptr(), region.len() as usize);
        // SAFETY: the region is one mapping of `size` bytes at `start`, made by `reserve_ram`:
        // anonymous and private, so that its pages read as zeros afterwards. Nothing refers to its
        // content by Rust references.
        if unsafe { libc::madvise(start.cast(), size, libc::MADV_DONTNEED) } != 0 {
            return Err(Error::Clear(io::Error::last_os_error()));
        }
    }
    Ok(())
}

/// Keeps a slot's host memory mapped for as long as the VM may use it.
pub type MemoryOwner = Arc<dyn Any + Send + Sync>;

/// One contiguous piece of memory.
struct Slot {
    name: String,
    /// Where the guest sees it; a BAR can be nowhere.
    gpa: Option<u64>,
    size: u64,
    host: usize,
    _owner: MemoryOwner,
}

impl fmt::Debug for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Slot")
            .field("name", &self.name)
            .field("gpa", &self.gpa)
            .field("size", &self.size)
            .finish_non_exhaustive()
    }
}

/// The memory slots of a VM: what lies where in guest-physical memory. No two overlap, and none
/// touches an address that belongs to KVM's devices or to views.
#[derive(Debug, Default)]
pub struct Slots {
    slots: Vec<Slot>,
}

/// Addresses that no slot may touch, with their ends.
const RESERVED_RANGES: [(&str, u64, u64); 3] = [
    (
        "the configuration space of PCI functions",
        layout::PCI_ECAM.0,
        layout::PCI_ECAM.0 + layout::PCI_ECAM_SIZE,
    ),
    (
        "the platform's interrupt controllers",
        layout::IO_APIC.0,
        layout::PLATFORM_END.0,
    ),
    (
        "the range reserved for views",
        view::RESERVED_GPA,
        view::RESERVED_GPA + view::RESERVED_GPA_SIZE,
    ),
];

impl Slots {
    /// A VM without memory.
    pub fn new() -> Slots {
        Slots::default()
    }

    /// Adds all parts of `ram`.
    ///
    /// # Errors
    ///
    /// As [`Slots::add`].
    pub fn add_ram(&mut self, ram: &GuestMemoryMmap) -> Result<(), Error> {
        for region in ram.iter() {
            let host = region.as_ptr() as usize;
            let owner = region.get_mmap();
            let (gpa, size) = (region.start_addr(), region.len());
            self.add("RAM", gpa, size, host, owner)?;
        }
        Ok(())
    }

    /// Adds a slot: `size` bytes at host address `host`, seen by the guest at `gpa`. `owner` owns
    /// the mapping; it lives as long as this table.
    ///
    /// # Errors
    ///
    /// When the slot is not made of whole pages, or overlaps another or a reserved range.
    pub fn add(
        &mut self,
        name: &str,
        gpa: GuestAddress,
        size: u64,
        host: usize,
        owner: MemoryOwner,
    ) -> Result<(), Error> {
        self.check(name, gpa.raw_value(), size, host)?;
        self.push(name, Some(gpa.raw_value()), size, host, owner);
        Ok(())
    }

    /// Adds a slot that the guest does not see yet; returns its number for [`Slots::place`].
    pub fn add_unplaced(
        &mut self,
        name: &str,
        size: u64,
        host: usize,
        owner: MemoryOwner,
    ) -> usize {
        self.push(name, None, size, host, owner)
    }

    fn push(
        &mut self,
        name: &str,
        gpa: Option<u64>,
        size: u64,
        host: usize,
        owner: MemoryOwner,
    ) -> usize {
        self.slots.push(Slot {
            name: name.to_owned(),
            gpa,
            size,
            host,
            _owner: owner,
        });
        self.slots.len() - 1
    }

    /// Checks that memory can be at `gpa` beside all that is placed.
    fn check(&self, name: &str, gpa: u64, size: u64, host: usize) -> Result<(), Error> {
        let bad = || Error::BadSlot {
            name: name.to_owned(),
            gpa,
            size,
        };
        let whole = |value: u64| value.is_multiple_of(PAGE_SIZE);
        if size == 0 || !whole(gpa) || !whole(size) || !whole(host as u64) {
            return Err(bad());
        }
        let end = gpa.checked_add(size).ok_or_else(bad)?;
        let placed = self
            .slots
            .iter()
            .filter_map(|slot| Some((slot.name.as_str(), slot.gpa?, slot.gpa? + slot.size)));
        let other = RESERVED_RANGES
            .into_iter()
            .chain(placed)
            .find(|&(_, other_start, other_end)| gpa < other_end && other_start < end);
        match other {
            None => Ok(()),
            Some((other, other_gpa, other_end)) => Err(Error::Overlap {
                name: name.to_owned(),
                gpa,
                end,
                other: other.to_owned(),
                other_gpa,
                other_end,
            }),
        }
    }

    /// Shows a slot that is nowhere to the guest at `gpa`, at any time while the VM lives.
    ///
    /// # Errors
    ///
    /// There is no such slot; as [`Slots::add`]; KVM refuses.
    pub fn place(&mut self, vm: &VmFd, number: usize, gpa: u64) -> Result<(), Error> {
        let slot = self.slots.get(number).filter(|slot| slot.gpa.is_none());
        let slot = slot.ok_or(Error::NoSuchSlot(number))?;
        self.check(&slot.name, gpa, slot.size, slot.host)?;
        self.slots[number].gpa = Some(gpa);
        let set = self.set(vm, number);
        if set.is_err() {
            self.slots[number].gpa = None;
        }
        set
    }

    /// Hides a slot from the guest.
    pub fn displace(&mut self, vm: &VmFd, number: usize) {
        let Some(slot) = self.slots.get_mut(number) else {
            return;
        };
        if let Some(gpa) = slot.gpa.take() {
            let region = kvm_userspace_memory_region {
                slot: number as u32,
                flags: 0,
                guest_phys_addr: gpa,
                memory_size: 0,
                userspace_addr: slot.host as u64,
            };
            // SAFETY: a size of 0 takes the slot away; KVM reaches no memory by it. If there is none
            // KVM says so, and nothing is to be done.
            let _ = unsafe { vm.set_user_memory_region(region) };
        }
    }

    /// Gives all slots to KVM. The table must outlive the VM's last run.
    ///
    /// # Errors
    ///
    /// When KVM refuses one.
    pub fn install(&self, vm: &VmFd) -> Result<(), Error> {
        (0..self.slots.len()).try_for_each(|number| self.set(vm, number))
    }

    /// Gives a slot to KVM, if it is somewhere.
    fn set(&self, vm: &VmFd, number: usize) -> Result<(), Error> {
        let slot = &self.slots[number];
        let Some(gpa) = slot.gpa else { return Ok(()) };
        let region = kvm_userspace_memory_region {
            slot: number as u32,
            flags: 0,
            guest_phys_addr: gpa,
            memory_size: slot.size,
            userspace_addr: slot.host as u64,
        };
        // SAFETY: the slot's owner holds the mapping of `size` bytes at `host`, and `check` made
        // sure that no other slot has these guest-physical addresses.
        unsafe { vm.set_user_memory_region(region) }.map_err(|source| Error::SetSlot {
            name: slot.name.clone(),
            gpa,
            size: slot.size,
            source,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use postern_abi::platform;
    use vm_memory::Bytes as _;

    const HOST: usize = 0x7000_0000_0000;

    fn owner() -> MemoryOwner {
        Arc::new(())
    }

    fn slots(list: &[(&str, u64, u64)]) -> Result<Slots, Error> {
        let mut slots = Slots::new();
        for &(name, gpa, size) in list {
            slots.add(name, GuestAddress(gpa), size, HOST, owner())?;
        }
        Ok(slots)
    }

    #[test]
    fn neighbours_are_no_overlap() {
        assert!(
            slots(&[
                ("RAM", 0, 0x10_0000),
                ("window", platform::NIC_GPA, 0x1000),
                ("window 2", platform::NIC_GPA + 0x1000, 0x1000),
            ])
            .is_ok()
        );
    }

    #[test]
    fn overlaps_name_both_sides() {
        for (gpa, size) in [
            (0, 0x1000),
            (0xf000, 0x2000),
            (0, 0x20_0000),
            (0x1000, 0x1000),
        ] {
            let error = slots(&[("RAM", 0, 0x1_0000), ("window", gpa, size)])
                .err()
                .unwrap();
            let text = error.to_string();
            assert!(text.contains("window") && text.contains("RAM"), "{text}");
        }
    }

    #[test]
    fn platform_and_views_keep_their_addresses() {
        for gpa in [
            layout::PCI_ECAM.0,
            layout::IO_APIC.0,
            layout::KVM_TSS.0,
            view::RESERVED_GPA,
            view::RESERVED_GPA + view::RESERVED_GPA_SIZE - 0x1000,
        ] {
            assert!(matches!(
                slots(&[("window", gpa, 0x1000)]),
                Err(Error::Overlap { .. })
            ));
        }
        assert!(slots(&[("before", view::RESERVED_GPA - 0x1000, 0x1000)]).is_ok());
        assert!(
            slots(&[("across", view::RESERVED_GPA - 0x1000, 0x2000)]).is_err(),
            "a slot that only reaches into the range"
        );
    }

    #[test]
    fn slots_are_whole_pages() {
        for (gpa, size) in [(0, 0), (1, 0x1000), (0, 0x1001), (!0xfff, 0x2000)] {
            assert!(matches!(
                slots(&[("odd", gpa, size)]),
                Err(Error::BadSlot { .. })
            ));
        }
    }

    #[test]
    fn cleared_memory_is_zero() {
        let ram = reserve_ram(layout::MIN_RAM).unwrap();
        let last = GuestAddress(layout::MIN_RAM - 8);
        ram.write_obj(u64::MAX, last).unwrap();
        clear(&ram).unwrap();
        assert_eq!(ram.read_obj::<u64>(last).unwrap(), 0);
        ram.write_obj(7_u64, last).unwrap();
        assert_eq!(ram.read_obj::<u64>(last).unwrap(), 7);
    }

    #[test]
    fn ram_sizes() {
        assert!(matches!(reserve_ram(0), Err(Error::TooSmall(0))));
        assert!(matches!(reserve_ram(u64::MAX), Err(Error::TooLarge(_))));
        assert!(matches!(
            reserve_ram(layout::MIN_RAM + 1),
            Err(Error::Unaligned(_))
        ));
        let ram = reserve_ram((3 << 30) + (16 << 20)).unwrap();
        assert_eq!(ram.num_regions(), 2);
        let mut slots = Slots::new();
        slots.add_ram(&ram).unwrap();
        assert_eq!(slots.slots.len(), 2);
        assert_eq!(slots.slots[1].gpa, Some(platform::HIGH_RAM_GPA));
    }
}
