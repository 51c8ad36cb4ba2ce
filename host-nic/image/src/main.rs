//! The switch as it runs in the NIC view: the `elisa` and `elisa-strict` paths.
//!
//! The image is a static ELF without writable data: a read-only segment, whose first bytes are an
//! [`ImageHeader`], and a segment of code. It is linked at
//! [`IMAGE_GVA`](postern_abi::view::IMAGE_GVA), where the view maps it; the kernel's entry stub
//! calls [`entry`] on the view's own stack. `build.sh` makes it.
#![no_std]
#![no_main]

#[cfg(feature = "attack-fault")]
mod fault;

use postern_abi::service::OP_NOP;
use postern_abi::view::{CALL_PAGE_GVA, CallPage, DATA_GVA, ImageHeader};
use postern_switch::credentials::Credentials;
use postern_switch::switch::serve;

/// The header that the host looks for before it maps the image.
#[used]
#[unsafe(link_section = ".header")]
static HEADER: ImageHeader = ImageHeader::CURRENT;

/// Serves a request, the word `request` with arguments `a` and `b`, and returns its result. [`CallPage`] has the
/// call convention.
///
/// # Safety
///
/// Only the entry stub of the NIC view may call this, with the view's mappings in force.
#[unsafe(no_mangle)]
pub unsafe extern "sysv64" fn entry(request: u64, a: u64, b: u64) -> u64 {
    if request == OP_NOP {
        return 0;
    }
    let page = CALL_PAGE_GVA as *mut CallPage;
    // SAFETY: the view maps a call page there. During a call only the stub changes it, in another
    // field. Its caller words are aligned as `Credentials` are. The note is for the copies of this
    // call.
    let (caller, member) = unsafe {
        (&raw mut (*page).note).write(b as u32);
        (
            &*(&raw const (*page).caller).cast::<Credentials>(),
            (&raw const (*page).member).read(),
        )
    };
    #[cfg(feature = "attack-fault")]
    fault::by_member(member);
    // SAFETY: the words in the call page are those that the NIC's owner has granted,
    // and `Credentials::check` accepts them. The view maps the memory that they need at DATA_GVA,
    // for reading and writing. A vCPU makes one call at a time.
    unsafe { serve(DATA_GVA as *mut u8, caller, member, request, a, b) }
}

/// The panic handler that the language demands. A test proves that nothing of it is left in the
/// image.
#[cfg(target_os = "none")]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
