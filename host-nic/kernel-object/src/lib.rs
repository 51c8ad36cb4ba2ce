//! The switch as one relocatable object for the kernel module: the `exit-kernel` path.
//!
//! ```c
//! u64 postern_nic_size(u64 caller);
//! u64 postern_nic_call(void *data, u64 caller, u64 op, u64 a, u64 b);
//! ```
//!
//! Plain C calls, any context that may use about 4 KiB of stack; no lock is taken, nothing is allocated
//! and nothing is called. Whatever the guest puts into `op`, `a`, `b` and its window, and whatever
//! anybody puts into the data, the code stays inside `postern_nic_size(caller)` bytes of `data`. So
//! the kernel must compare that with the size of the data before the first call.
//!
//! `build.sh` makes the object; its tests are those of `postern-nic` (`tests/objects.rs`).
#![no_std]

/// Bytes of data that calls with this word need; 0 if the word is malformed, and then every call
/// with it is refused without looking at the data.
#[unsafe(no_mangle)]
pub extern "C" fn postern_nic_size(caller: u64) -> u64 {
    match postern_nic::caller::Caller::decode(caller) {
        Some(caller) => caller.memory_size(),
        None => 0,
    }
}

/// Serves one request (`postern_abi::service`) of the port that `caller` names.
///
/// # Safety
/// `data` must be page aligned and mapped for reading and writing for [`postern_nic_size`] bytes during
/// the call, and `caller` must be the word that the view was sealed with.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn postern_nic_call(
    data: *mut u8,
    caller: u64,
    op: u64,
    a: u64,
    b: u64,
) -> u64 {
    // SAFETY: the contract is the same.
    unsafe { postern_nic::switch::serve(data, caller, op, a, b) }
}

/// The language wants one; a test proves that nothing of it is left in the object.
#[cfg(target_os = "none")]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
