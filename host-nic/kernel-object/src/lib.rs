//! The switch as one relocatable object for the kernel module: the `exit-kernel` path.
//!
//! ```c
//! u64 postern_nic_size(const u64 caller[8]);
//! u64 postern_nic_call(void *data, const u64 caller[8], u32 vcpu, u64 request, u64 a, u64 b);
//! void postern_nic_take_bells(void *data, const u64 caller[8], u64 b, u64 bells[4]);
//! ```
//!
//! These are plain C calls, from any context that may use about 4 KiB of stack. They take no lock,
//! allocate nothing and call nothing. Whatever the guest puts into `request`, `a`, `b` and its window,
//! and whatever anybody puts into the data, the code stays inside `postern_nic_size(caller)` bytes
//! of `data`. So the kernel must compare that number with the size of the data before the first
//! call, on words that nobody else can change afterwards.
//!
//! `build.sh` makes the object; its tests are those of `postern-switch` (`tests/objects.rs`).
#![no_std]

use postern_abi::service::TX_QUEUE_SHIFT;
use postern_abi::window::BELL_WORDS;
use postern_switch::credentials::{CredentialWords, Credentials};
use postern_switch::switch::Switch;

/// Number of bytes of data that calls with these words need, or 0 if they are malformed: then no
/// call may be made.
///
/// # Safety
///
/// `caller` must be aligned to 8 bytes and valid for reads of 64.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn postern_nic_size(caller: *const CredentialWords) -> u64 {
    // SAFETY: the caller vouches for 64 aligned bytes, and any content of them is valid.
    match Credentials::from_words(unsafe { caller.read() }) {
        Some(caller) => caller.size(),
        None => 0,
    }
}

/// Serves one request (`postern_abi::service`) of a vCPU of the port that `caller` names.
///
/// # Safety
///
/// `data` must be page aligned and mapped for reading and writing for [`postern_nic_size`] bytes
/// during the call, which must not be 0. `caller` must be aligned to 64 bytes and hold the words
/// that the view was sealed with. `vcpu` must be KVM's number of the vCPU, which makes one call at
/// a time.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn postern_nic_call(
    data: *mut u8,
    caller: *const Credentials,
    vcpu: u32,
    request: u64,
    a: u64,
    b: u64,
) -> u64 {
    // SAFETY: the caller vouches for words that `Credentials::check` accepts, since their size is
    // not 0, for as many bytes of data, and for one call of a vCPU at a time.
    unsafe { postern_switch::switch::serve(data, &*caller, vcpu, request, a, b) }
}

/// Takes the bells of the TX queue of a request, for the kernel to ring them in place of the guest: the
/// queue has none any more. `b` is the last argument of a [`postern_nic_call`] that has returned; it is
/// worth it where the result has [`TX_BELL`](postern_abi::service::TX_BELL), which is its highest bit
/// unless it is an error.
///
/// # Safety
///
/// `data` and `caller` must be as for [`postern_nic_call`]. `bells` must be valid for writes of
/// [`BELL_WORDS`] words.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn postern_nic_take_bells(
    data: *mut u8,
    caller: *const Credentials,
    b: u64,
    bells: *mut [u64; BELL_WORDS],
) {
    // SAFETY: the caller vouches for words that `Credentials::check` accepts.
    let caller = unsafe { &*caller };
    // SAFETY: the caller vouches for as many bytes of data as these words need.
    let switch = unsafe { Switch::from_base(data, caller.geometry()) };
    let queue = (b >> TX_QUEUE_SHIFT) as u32;
    // SAFETY: the caller vouches for the words that are written.
    unsafe { bells.write(switch.take_bells(caller.port(), queue)) };
}

/// The panic handler that the language demands. A test proves that nothing of it is left in the
/// object.
#[cfg(target_os = "none")]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
