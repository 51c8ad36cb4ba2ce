//! A mapped window.

use core::arch::asm;
use core::ptr::NonNull;
use core::sync::atomic::AtomicU32;

use postern_abi::PAGE_SIZE;
use postern_abi::service::Secret;
use postern_abi::window::{Geometry, HeaderError, PortId, WindowHeader};

/// A port's window that is mapped in this address space, and whose header has been checked.
#[derive(Clone, Copy, Debug)]
pub struct Window {
    base: NonNull<u8>,
    pub(super) geometry: Geometry,
    port: PortId,
    /// The secret that requests carry, as it was when the window was opened.
    secret: Secret,
    /// The tenancy that the guest is: lanes of another are empty to it.
    pub(super) tenancy: u32,
    mac: [u8; 6],
}

// SAFETY: the mapping belongs to no thread, and `Window` alone gives out atomics and raw pointers.
unsafe impl Send for Window {}

impl Window {
    /// Reads and checks the header of the window at `base`.
    ///
    /// # Errors
    ///
    /// The first thing that is wrong with the header; the window is then not used.
    ///
    /// # Safety
    ///
    /// `base` is page aligned. From there `size` bytes, at least a page, are mapped for reading and
    /// writing as long as the value or anything made from it is used, and no reference to them
    /// exists.
    pub unsafe fn new(base: NonNull<u8>, size: u64) -> Result<Window, HeaderError> {
        // SAFETY: a page is mapped at `base`, and it is aligned; any bytes are a valid header.
        let header = unsafe { base.cast::<WindowHeader>().read_volatile() };
        let (geometry, port) = header.check(size)?;
        Ok(Window {
            base,
            geometry,
            port,
            secret: header.secret,
            tenancy: header.tenancy,
            mac: header.mac,
        })
    }

    /// The NIC's numbers of ports and queues and sizes of rings.
    pub fn geometry(&self) -> Geometry {
        self.geometry
    }

    /// The port that the window belongs to.
    pub fn port(&self) -> PortId {
        self.port
    }

    /// The port's MAC address.
    pub fn mac(&self) -> [u8; 6] {
        self.mac
    }

    /// The word of a request to the NIC with this number ([`postern_abi::service`]): it carries the
    /// secret of the tenancy, by which the NIC knows that it comes from who has the window. Programs
    /// make it once and keep it.
    pub fn request(&self, op: u64) -> u64 {
        self.secret.request(op)
    }

    /// Has the host give memory for the whole window now, so that no frame waits for it later.
    pub fn populate(&self) {
        // SAFETY: `new` checked that the whole window of this geometry is mapped.
        unsafe { touch(self.base, self.geometry.window_size()) };
    }

    /// The address of an offset in bytes that the geometry gave, or of a byte of the object that
    /// begins there.
    pub(super) fn at(&self, offset: u64) -> *mut u8 {
        // SAFETY: `new` checked that the whole window of this geometry is mapped.
        unsafe { self.base.as_ptr().add(offset as usize) }
    }

    /// The 32-bit word at an offset in bytes that the geometry gave.
    pub(super) fn word(&self, offset: u64) -> &AtomicU32 {
        // SAFETY: the geometry's offsets of words lie in the window and are aligned.
        unsafe { AtomicU32::from_ptr(self.at(offset).cast()) }
    }
}

/// Touches each page of some memory as if to write it, and changes nothing.
///
/// # Safety
///
/// `size` bytes are mapped from `base`, which is page aligned, for reading and writing.
pub unsafe fn touch(base: NonNull<u8>, size: u64) {
    for offset in (0..size).step_by(PAGE_SIZE as usize) {
        // SAFETY: the offset is below the size, so the caller promised that the word is mapped, and
        // the instruction changes nothing. (The compiler would turn an atomic operation that
        // changes nothing into a load.)
        unsafe {
            let word = base.add(offset as usize).as_ptr();
            asm!("lock or dword ptr [{0}], 0", in(reg) word, options(nostack));
        }
    }
}
