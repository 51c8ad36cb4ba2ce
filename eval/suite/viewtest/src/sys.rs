//! The module's calls, unchecked: what a test passes is what the kernel gets.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, RawFd};

use postern_abi::kvm::{
    AttachEptView, CreateEptView, DetachEptView, EptViewBells, EptViewGrant, EptViewInfo,
    EptViewMap, EptViewRevoke, EptViewSeal, EptViewStats, KVM_CAP_EPT_VIEW, KVM_CAP_EPT_VIEW_BELLS,
};
use postern_kvm::ioctl as call;
use vmm_sys_util::ioctl::ioctl;

mod number {
    use postern_abi::kvm::KVMIO;
    use vmm_sys_util::ioctl_io_nr;

    ioctl_io_nr!(NMI, KVMIO, 0x9a);
}

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

/// `KVM_CREATE_EPT_VIEW`.
pub fn create(argument: &CreateEptView) -> io::Result<File> {
    let kvm = File::options().read(true).write(true).open("/dev/kvm")?;
    call::create(&kvm, argument).map(File::from)
}

/// `KVM_CHECK_EXTENSION` of views: the rights that there can be.
pub fn rights() -> io::Result<u32> {
    let kvm = File::options().read(true).write(true).open("/dev/kvm")?;
    call::check_extension(&kvm, KVM_CAP_EPT_VIEW).map(i32::unsigned_abs)
}

/// `KVM_CHECK_EXTENSION` of bells: how many a template can have.
pub fn max_bells() -> io::Result<u32> {
    let kvm = File::options().read(true).write(true).open("/dev/kvm")?;
    call::check_extension(&kvm, KVM_CAP_EPT_VIEW_BELLS).map(i32::unsigned_abs)
}

/// `KVM_EPT_VIEW_BELLS`.
pub fn bells(template: &File, argument: &EptViewBells) -> io::Result<()> {
    call::bells(template, argument)
}

/// `KVM_EPT_VIEW_MAP`.
pub fn map(template: &File, argument: &EptViewMap) -> io::Result<()> {
    // SAFETY: pages that it names are a `Pages`, which is accessed as shared memory, or none.
    unsafe { call::map(template, argument) }
}

/// `KVM_EPT_VIEW_SEAL`.
pub fn seal(template: &File, argument: &EptViewSeal) -> io::Result<()> {
    call::seal(template, argument)
}

/// `KVM_EPT_VIEW_GRANT`.
pub fn grant(template: &File, argument: &EptViewGrant) -> io::Result<File> {
    call::grant(template, argument).map(File::from)
}

/// `KVM_EPT_VIEW_REVOKE`.
pub fn revoke(template: &File, argument: &EptViewRevoke) -> io::Result<u32> {
    call::revoke(template, argument)
}

/// `KVM_GET_EPT_VIEW_INFO`.
pub fn info(template: &File) -> io::Result<EptViewInfo> {
    call::info(template)
}

/// `KVM_ATTACH_EPT_VIEW`.
pub fn attach(vcpu: &impl AsRawFd, argument: &AttachEptView) -> io::Result<()> {
    call::attach(vcpu, argument)
}

/// `KVM_DETACH_EPT_VIEW`.
pub fn detach(vcpu: &impl AsRawFd, argument: &DetachEptView) -> io::Result<()> {
    call::detach(vcpu, argument)
}

/// `KVM_GET_EPT_VIEW_STATS` of a slot.
pub fn stats(vcpu: &impl AsRawFd, slot: u32) -> io::Result<EptViewStats> {
    call::stats(vcpu, slot)
}

/// `KVM_GET_EPT_VIEW_STATS`, with an argument as it is.
pub fn stats_into(vcpu: &impl AsRawFd, argument: &mut EptViewStats) -> io::Result<()> {
    call::stats_into(vcpu, argument)
}

/// `KVM_NMI`.
pub fn nmi(vcpu: &impl AsRawFd) -> io::Result<()> {
    // SAFETY: the call takes no argument.
    check(unsafe { ioctl(vcpu, number::NMI()) }).map(drop)
}

/// Pages shared by all that map them.
#[derive(Debug)]
pub struct Pages {
    address: *mut u8,
    size: usize,
}

impl Pages {
    /// Zeroed pages with these protection bits of mmap.
    pub fn new(size: usize, protection: libc::c_int) -> Pages {
        Pages::with_flags(size, protection, libc::MAP_SHARED)
            .unwrap_or_else(|error| panic!("mmap of {size} bytes: {error}"))
    }

    /// Zeroed pages with these protection bits and flags of mmap.
    pub fn with_flags(
        size: usize,
        protection: libc::c_int,
        flags: libc::c_int,
    ) -> io::Result<Pages> {
        // SAFETY: a new mapping at an address of the kernel's choice.
        let address = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                size,
                protection,
                libc::MAP_ANONYMOUS | flags,
                -1,
                0,
            )
        };
        if address == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Pages {
            address: address.cast(),
            size,
        })
    }

    /// Readable and writable pages.
    pub fn writable(size: usize) -> Pages {
        Pages::new(size, libc::PROT_READ | libc::PROT_WRITE)
    }

    /// Address of the pages.
    pub fn address(&self) -> u64 {
        self.address as u64
    }

    /// Copies `bytes` to `offset`.
    pub fn write(&self, offset: usize, bytes: &[u8]) {
        assert!(offset + bytes.len() <= self.size);
        // SAFETY: inside the mapping, checked above; guests that share it are stopped or expect it.
        unsafe {
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.address.add(offset), bytes.len())
        };
    }

    /// Writes a 64-bit word, as one access.
    pub fn write_word(&self, offset: usize, value: u64) {
        assert!(offset.is_multiple_of(8) && offset + 8 <= self.size);
        // SAFETY: inside the mapping and aligned, checked above.
        unsafe { self.address.add(offset).cast::<u64>().write_volatile(value) };
    }

    /// Reads a 64-bit word, as one access.
    pub fn read_word(&self, offset: usize) -> u64 {
        assert!(offset.is_multiple_of(8) && offset + 8 <= self.size);
        // SAFETY: inside the mapping and aligned, checked above.
        unsafe { self.address.add(offset).cast::<u64>().read_volatile() }
    }
}

// SAFETY: the mapping belongs to no thread, and its words are read and written one access each.
unsafe impl Sync for Pages {}
// SAFETY: as above.
unsafe impl Send for Pages {}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours; views pin pages, not addresses, and VMs are dropped first.
        unsafe { libc::munmap(self.address.cast(), self.size) };
    }
}

/// The number of an error, for comparison with what the documentation says.
pub fn errno<T>(result: io::Result<T>) -> i32 {
    match result {
        Ok(_) => 0,
        Err(error) => error.raw_os_error().unwrap_or(-1),
    }
}

/// Runs `action` in a child process and returns what it returned (0 to 255).
pub fn in_child(action: impl FnOnce() -> u8) -> io::Result<u8> {
    // SAFETY: the tests have one thread, so the child's memory is consistent.
    let child = unsafe { libc::fork() };
    if check(child)? == 0 {
        let status = action();
        // SAFETY: ends the child without running the parent's destructors.
        unsafe { libc::_exit(status.into()) };
    }
    let mut status = 0;
    // SAFETY: `status` is an int of ours, and the child is our own.
    check(unsafe { libc::waitpid(child, &mut status, 0) })?;
    Ok(if libc::WIFEXITED(status) {
        libc::WEXITSTATUS(status) as u8
    } else {
        u8::MAX
    })
}

/// A descriptor's number.
pub fn raw(file: &File) -> RawFd {
    file.as_raw_fd()
}
