//! The switch as it runs in the NIC view: the `elisa` and `elisa-strict` paths.
//!
//! A static ELF without data: a read-only segment, whose first bytes are an
//! [`ImageHeader`], and a segment of code. It is linked at
//! [`IMAGE_GVA`](postern_abi::view::IMAGE_GVA), for the view maps it there; the kernel's entry
//! stub calls [`entry`] on the view's own stack. `build.sh` makes it.
#![no_std]
#![no_main]

use postern_abi::service::OP_NOP;
use postern_abi::view::{CALL_PAGE_GVA, CallPage, DATA_GVA, ImageHeader};
use postern_switch::credentials::Credentials;
use postern_switch::switch::serve;

/// What the host looks for before it maps the image.
#[used]
#[unsafe(link_section = ".header")]
static HEADER: ImageHeader = ImageHeader::CURRENT;

/// Serves one request; see [`CallPage`] for the convention.
///
/// # Safety
///
/// Only the entry stub of the NIC view may call this, with the view's mappings in force.
#[unsafe(no_mangle)]
pub unsafe extern "sysv64" fn entry(op: u64, a: u64, b: u64) -> u64 {
    if op == OP_NOP {
        return 0;
    }
    let page = CALL_PAGE_GVA as *const CallPage;
    // SAFETY: the view maps a call page there; during a call nothing changes it but the stub, and
    // that in another field. Its caller words are aligned as a `Credentials` is.
    let (caller, vcpu) = unsafe {
        (
            &*(&raw const (*page).caller).cast::<Credentials>(),
            (&raw const (*page).vcpu).read(),
        )
    };
    // SAFETY: the owner of the NIC gives the words in the call page, and with every words that it seals a
    // view with it maps the memory that they need at DATA_GVA, for reading and writing. A vCPU makes
    // one call at a time.
    unsafe { serve(DATA_GVA as *mut u8, caller, vcpu, op, a, b) }
}

/// The language wants one; a test proves that nothing of it is left in the image.
#[cfg(target_os = "none")]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
