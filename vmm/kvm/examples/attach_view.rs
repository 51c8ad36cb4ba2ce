//! Makes a view whose service adds two numbers, and attaches it to a vCPU.
//!
//! Needs the patched KVM with views on (`postern check` tells). The guest's side, the pages of the
//! gate area and the call itself, is in `guest-lib/src/gate.rs`.

use std::error::Error;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::ptr::{self, NonNull};

use kvm_bindings::KVM_MAX_CPUID_ENTRIES;
use kvm_ioctls::Kvm;
use postern_abi::PAGE_SIZE;
use postern_abi::view::{DATA_GVA, IMAGE_GVA};
use postern_kvm::{AttachMode, Attachment, Device, Protection, Seal, SharedPages, ViewMode};
use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous};

/// The service, at its entry: `lea rax, [rdi+rsi]; ret`. RDI and RSI are the caller's arguments.
const ADD: [u8; 5] = [0x48, 0x8d, 0x04, 0x37, 0xc3];

/// Bit of CPUID leaf 1, ECX, that must be clear on a vCPU with views: VMX, for VMs in the VM.
const VMX: u32 = 1 << 5;
/// Bit of CPUID leaf 1, ECX, that must be clear on a vCPU with views: perf and debug capabilities.
const PDCM: u32 = 1 << 15;
/// Bit of CPUID leaf 1, ECX, that must be clear on a vCPU with views: process-context identifiers.
const PCID: u32 = 1 << 17;

/// Runs the example.
///
/// # Errors
///
/// What KVM or the host refuses.
pub fn main() -> Result<(), Box<dyn Error>> {
    let device = match Device::open() {
        Ok(device) if device.has_views() => device,
        Ok(_) => {
            println!("SKIP: the loaded KVM makes no views; `postern check` says why");
            return Ok(());
        }
        Err(error) => {
            println!("SKIP: /dev/kvm cannot be opened: {error}");
            return Ok(());
        }
    };

    // The owner's part: pages of its own, mapped into a view that is then sealed.
    let (code, data) = (page()?, page()?);
    // SAFETY: the page is new, writable, and longer than the code.
    unsafe { ptr::copy_nonoverlapping(ADD.as_ptr(), code.as_ptr(), ADD.len()) };
    // SAFETY: the pages stay mapped until the process ends, and no reference to them exists.
    let (code, data) = unsafe {
        (
            SharedPages::new(code, PAGE_SIZE),
            SharedPages::new(data, PAGE_SIZE),
        )
    };
    let view = device.create_view()?;
    view.map(IMAGE_GVA, &code, Protection::ReadExecute)?;
    view.map(DATA_GVA, &data, Protection::ReadWrite)?;
    let view = view.seal(&Seal {
        mode: ViewMode::Strict,
        entry_gva: IMAGE_GVA,
        data_gva: DATA_GVA,
        data_size: data.size(),
        // Who calls: up to the service, which finds the words in its call page.
        caller: [1, 0, 0, 0, 0, 0, 0, 0],
    })?;
    println!("a sealed view: descriptor {}", view.as_fd().as_raw_fd());

    // The VMM's part: a vCPU that can have views, and the view's descriptor.
    let kvm = Kvm::new()?;
    let vm = kvm.create_vm()?;
    vm.create_irq_chip()?;
    let vcpu = vm.create_vcpu(0)?;
    let mut cpuid = kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)?;
    for entry in cpuid.as_mut_slice() {
        if entry.function == 1 {
            entry.ecx &= !(VMX | PDCM | PCID);
        }
    }
    vcpu.set_cpuid2(&cpuid)?;
    // SAFETY: the vCPU's descriptor is open for as long as `vcpu` lives.
    let fd = unsafe { BorrowedFd::borrow_raw(vcpu.as_raw_fd()) };
    let mode = AttachMode::Enter {
        exit_on_abort: false,
    };
    let attachment = Attachment::attach(fd, view.as_fd(), mode)?;
    println!("attached; KVM has counted: {:?}", attachment.stats()?);
    attachment.detach()?;
    println!("detached");
    Ok(())
}

/// A new page of memory, shared so that a view can have it.
fn page() -> rustix::io::Result<NonNull<u8>> {
    let protection = ProtFlags::READ | ProtFlags::WRITE;
    let size = PAGE_SIZE as usize;
    // SAFETY: a new mapping at an address that the kernel chooses.
    let base = unsafe { mmap_anonymous(ptr::null_mut(), size, protection, MapFlags::SHARED) }?;
    Ok(NonNull::new(base.cast()).expect("mmap gives null to MAP_FIXED only"))
}
