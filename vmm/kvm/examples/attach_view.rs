//! Makes a service that adds two numbers, grants it to a VM, and attaches it to a vCPU.
//!
//! Needs the patched KVM with views on (`postern check` tells). The guest's side, the pages of the
//! gate area and the call itself, is in `guest-lib/src/gate.rs`.

#[path = "vcpus/mod.rs"]
mod vcpus;

use std::error::Error;
use std::os::fd::{AsFd, AsRawFd};
use std::ptr::{self, NonNull};

use postern_abi::PAGE_SIZE;
use postern_abi::view::{DATA_GVA, IMAGE_GVA};
use postern_kvm::{AttachTerms, Attachment, GrantTerms, Protection, Right, Seal, SharedPages};
use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous};
use vcpus::{descriptor, device_with_views, vm_with_vcpus};

/// The service, at its entry: `lea rax, [rdi+rsi]; ret`. RDI and RSI are the caller's arguments.
const ADD: [u8; 5] = [0x48, 0x8d, 0x04, 0x37, 0xc3];

/// Runs the example.
///
/// # Errors
///
/// What KVM or the host refuses.
pub fn main() -> Result<(), Box<dyn Error>> {
    let Some(device) = device_with_views() else {
        return Ok(());
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
    let template = device.create_template()?;
    template.map(IMAGE_GVA, &code, Protection::ReadExecute)?;
    template.map(DATA_GVA, &data, Protection::ReadWrite)?;
    let template = template.seal(&Seal {
        rights: Right::Strict.into(),
        entry_gva: IMAGE_GVA,
        data_gva: DATA_GVA,
        data_size: data.size(),
    })?;
    // What the VM gets: so many vCPUs, one way to call, and an identity.
    let grant = template.grant(&GrantTerms {
        id: 1,
        rights: Right::Strict.into(),
        members: 1,
        // Who calls: up to the service, which finds the words in its call page.
        caller: [1, 0, 0, 0, 0, 0, 0, 0],
    })?;
    println!("a grant: descriptor {}", grant.as_fd().as_raw_fd());

    // The VMM's part: a vCPU that can have views, and the grant's descriptor.
    let (_vm, vcpus) = vm_with_vcpus(1)?;
    let vcpu = descriptor(&vcpus[0]);
    let terms = AttachTerms {
        slot: 0,
        member: 0,
        right: Right::Strict,
        exit_on_abort: false,
    };
    let attachment = Attachment::attach(vcpu, &grant, &terms)?;
    println!("attached; KVM has counted: {:?}", attachment.stats()?);
    attachment.detach()?;
    println!("detached; the template: {:?}", template.info()?);

    // The owner takes back what it has granted: nobody can be attached by it any more.
    println!("revoked {} grant", template.revoke(1)?);
    let refused = Attachment::attach(vcpu, &grant, &terms);
    assert!(refused.is_err(), "a revoked grant attaches nobody");
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
