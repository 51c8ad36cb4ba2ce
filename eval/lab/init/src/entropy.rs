//! Random numbers of the machine's kernel, which must be the same in equal machines.
//!
//! The emulated processor has no random numbers of its own (those that Bochs could give it differ
//! from run to run), and the kernel would wait a second for enough accidents of timing.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

/// `struct rand_pool_info` of linux/random.h, with room for a seed.
#[repr(C)]
struct PoolInfo {
    /// In bits.
    entropy_count: libc::c_int,
    /// In bytes.
    buf_size: libc::c_int,
    buf: [u32; 16],
}

/// `RNDADDENTROPY`: `_IOW('R', 0x03, int[2])`.
const RNDADDENTROPY: u32 = 0x4008_5203;

/// Gives the kernel a seed that is always the same, as if it were a random one.
///
/// # Errors
///
/// The kernel's refusal.
pub fn seed() -> io::Result<()> {
    let seed = PoolInfo {
        entropy_count: 512,
        buf_size: 64,
        buf: [0x504f_5354; 16],
    };
    let random = File::open("/dev/random")?;
    // SAFETY: the kernel reads a rand_pool_info and as many bytes after it as that says.
    match unsafe { libc::ioctl(random.as_raw_fd(), RNDADDENTROPY as _, &raw const seed) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
