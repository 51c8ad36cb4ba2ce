//! The CPU's mode: features that the guest needs, and the control registers.

use core::arch::x86_64::__cpuid_count;

use x86_64::registers::control::{Cr0, Cr0Flags, Cr3, Cr3Flags, Cr4, Cr4Flags, Efer, EferFlags};
use x86_64::structures::paging::PhysFrame;

use super::fatal::fatal;

/// Ends the VM if the CPU lacks what the kernel uses.
pub fn check_features() {
    let extended = __cpuid_count(7, 0).ebx;
    let amd = __cpuid_count(0x8000_0001, 0).edx;
    for (has, name) in [
        (extended & (1 << 7) != 0, "SMEP"),
        (extended & (1 << 20) != 0, "SMAP"),
        (amd & (1 << 20) != 0, "NX"),
    ] {
        if !has {
            fatal(format_args!(
                "the CPU has no {name}, which this guest needs"
            ));
        }
    }
}

/// Changes to the kernel's address space, with all protections on.
pub fn enable(root: PhysFrame) {
    // SAFETY: the kernel's address space has all that is in use now, where it is now: code, data
    // and the boot stack in the image, RAM one to one. It has no user page that code here touches.
    unsafe {
        Efer::update(|efer| efer.insert(EferFlags::NO_EXECUTE_ENABLE));
        Cr0::update(|cr0| cr0.insert(Cr0Flags::WRITE_PROTECT));
        Cr3::write(root, Cr3Flags::empty());
        Cr4::update(|cr4| {
            cr4.insert(
                Cr4Flags::SUPERVISOR_MODE_EXECUTION_PROTECTION
                    | Cr4Flags::SUPERVISOR_MODE_ACCESS_PREVENTION,
            );
        });
    }
}
