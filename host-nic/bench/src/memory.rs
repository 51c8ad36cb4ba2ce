//! Shared memory, and a NIC in it.

use std::io;
use std::ptr::{self, NonNull};
use std::sync::atomic::Ordering::Relaxed;

use postern_abi::ABI_VERSION;
use postern_abi::service::Secret;
use postern_abi::view::DATA_GVA;
use postern_abi::window::{Geometry, PortId};
use postern_guest::direct::Direct;
use postern_guest::ring::Window;
use postern_switch::layout::memory_size;
use postern_switch::state::STATE_MAGIC;
use postern_switch::switch::Switch;
use rustix::mm::{MapFlags, MprotectFlags, ProtFlags, mmap_anonymous, mprotect, munmap};

/// The secret of all tenancies: no random one, as it changes nothing.
const SECRET: Secret = Secret::from_word(0x5ec2_e700_1234_5678);

/// The key of the forwarding database, always the same, so that counts of instructions repeat.
const KEY: [u64; 2] = [0x9e37_79b9_7f4a_7c15, 0xd1b5_4a32_d192_ed03];

/// Pages of shared memory, the kind that memfds have, filled with zeros.
#[derive(Debug)]
pub struct Pages {
    base: NonNull<u8>,
    size: usize,
}

// SAFETY: the addresses are valid in every thread, and safe methods do not access what is there.
unsafe impl Send for Pages {}
// SAFETY: the addresses are valid in every thread, and safe methods do not access what is there.
unsafe impl Sync for Pages {}

impl Pages {
    /// Maps `size` bytes.
    ///
    /// # Errors
    ///
    /// The system has not enough memory.
    pub fn new(size: usize) -> io::Result<Pages> {
        Pages::map(ptr::null_mut(), size, MapFlags::SHARED)
    }

    /// Maps `size` bytes at an address, a multiple of the page size.
    ///
    /// # Errors
    ///
    /// Something is mapped there, or the system has not enough memory.
    pub fn at(address: u64, size: usize) -> io::Result<Pages> {
        let flags = MapFlags::SHARED | MapFlags::FIXED_NOREPLACE;
        Pages::map(address as *mut _, size, flags)
    }

    fn map(address: *mut std::ffi::c_void, size: usize, flags: MapFlags) -> io::Result<Pages> {
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: it makes a new mapping, and replaces none.
        let base = unsafe { mmap_anonymous(address, size, protection, flags) }?;
        let base = NonNull::new(base.cast()).expect("mmap gives null to MAP_FIXED only");
        Ok(Pages { base, size })
    }

    /// Makes the pages those of a program's code, which can be executed and not written.
    ///
    /// # Errors
    ///
    /// The system forbids it.
    pub fn make_code(&self) -> io::Result<()> {
        let flags = MprotectFlags::READ | MprotectFlags::EXEC;
        // SAFETY: the range is one mapping, which no reference covers.
        unsafe { mprotect(self.base.as_ptr().cast(), self.size, flags) }?;
        Ok(())
    }

    /// The first byte.
    pub const fn base(&self) -> *mut u8 {
        self.base.as_ptr()
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: `new` made the mapping, and all that refers to it borrows `self`.
        let unmapped = unsafe { munmap(self.base.as_ptr().cast(), self.size) };
        debug_assert_eq!(unmapped, Ok(()), "the range is one mapping");
    }
}

/// A NIC, each of whose ports has a tenant.
#[derive(Debug)]
pub struct BenchNic {
    pages: Pages,
    geometry: Geometry,
}

impl BenchNic {
    /// Makes a NIC of a geometry.
    ///
    /// # Errors
    ///
    /// The system has not enough memory.
    pub fn new(geometry: Geometry) -> io::Result<BenchNic> {
        let pages = Pages::new(memory_size(geometry) as usize)?;
        Ok(BenchNic::make(pages, geometry))
    }

    /// Makes a NIC of a geometry at the address at which the view's image has it.
    ///
    /// # Errors
    ///
    /// There is another one, or the system has not enough memory.
    pub fn in_view(geometry: Geometry) -> io::Result<BenchNic> {
        let pages = Pages::at(DATA_GVA, memory_size(geometry) as usize)?;
        Ok(BenchNic::make(pages, geometry))
    }

    fn make(pages: Pages, geometry: Geometry) -> BenchNic {
        let nic = BenchNic { pages, geometry };
        let switch = nic.switch();
        let state = switch.state();
        for (word, key) in state.key.iter().zip(KEY) {
            word.store(key, Relaxed);
        }
        state.generation.store(1, Relaxed);
        state.abi_version.store(ABI_VERSION, Relaxed);
        state.set_geometry(geometry);
        state.magic.store(STATE_MAGIC, Relaxed);
        for port in geometry.all_ports() {
            switch.admit(port, 1, SECRET, mac(port));
        }
        nic
    }

    /// The guest library's end of a port: how it calls the switch of this program, and its window.
    ///
    /// # Panics
    ///
    /// The NIC has no such port.
    pub fn open(&self, port: PortId) -> (Direct, Window) {
        let base = self.pages.base;
        // SAFETY: the memory is mapped as long as `self` lives, which the types of this crate that
        // hold the result borrow, and all access to it is atomic, or by the guest's ends of rings.
        unsafe { Direct::new(base, self.size(), port) }.expect("the port has a tenant")
    }

    /// The switch in the memory.
    pub fn switch(&self) -> Switch<'_> {
        // SAFETY: the pages are as many as the geometry needs, and the switch alone accesses them.
        unsafe { Switch::from_base(self.pages.base(), self.geometry) }
    }

    /// Geometry of the NIC: its ports, queues and sizes.
    pub const fn geometry(&self) -> Geometry {
        self.geometry
    }

    /// Size of the NIC's memory in bytes.
    pub const fn size(&self) -> u64 {
        memory_size(self.geometry)
    }

    /// First byte of the NIC's memory.
    pub const fn base(&self) -> *mut u8 {
        self.pages.base()
    }
}

/// The address of a port's tenant.
pub fn mac(port: PortId) -> [u8; 6] {
    let [_, a, b, c] = port.number().to_be_bytes();
    [0x02, 0x50, 0x53, a, b, c]
}
