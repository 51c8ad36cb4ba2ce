//! Frames between the NIC's rings and the interface by one copy, which the kernel makes.

use std::os::fd::{AsFd, AsRawFd};
use std::{io, ptr};

use postern_guest::ring::{Frame, Reserved};
use postern_tap::{Tap, virtio_net};
use rustix::io::Errno;

/// A frame of the interface that was read.
#[derive(Debug)]
pub struct Read<'a> {
    /// The header before it.
    pub header: [u8; virtio_net::SIZE],
    /// Its length.
    pub length: usize,
    room: *const u8,
    /// Bytes of it in the ring; the others are in the spill.
    in_ring: usize,
    spill: &'a [u8],
}

/// Reads a frame into the ring; what it has no room for goes into `spill`, which has to be as large as
/// the longest frame.
///
/// # Errors
///
/// The kernel's: [`Errno::AGAIN`] if there is none.
pub fn read<'a>(
    tap: &Tap,
    room: &mut Reserved<'_>,
    spill: &'a mut [u8],
) -> Result<Read<'a>, Errno> {
    let mut header = [0; virtio_net::SIZE];
    let parts = [
        part(header.as_mut_ptr(), header.len()),
        part(room.as_mut_ptr(), room.len()),
        part(spill.as_mut_ptr(), spill.len()),
    ];
    // SAFETY: the kernel writes to these three pieces of memory, which are borrowed, or the ring's, for
    // that long; no reference to the ring's exists.
    let length = retry(|| unsafe {
        libc::readv(tap.as_fd().as_raw_fd(), parts.as_ptr(), parts.len() as i32)
    })?;
    let length = length.saturating_sub(virtio_net::SIZE);
    let in_ring = length.min(room.len());
    Ok(Read {
        header,
        length,
        room: room.as_mut_ptr(),
        in_ring,
        spill: spill.get(..length - in_ring).unwrap_or(spill),
    })
}

impl Read<'_> {
    /// Whether all of it lies in the ring.
    pub fn is_in_ring(&self) -> bool {
        self.in_ring == self.length
    }

    /// Eight bytes of it in the ring, by their number divided by eight, the first one lowest; zeros
    /// behind its end.
    pub fn word(&self, index: usize) -> u64 {
        let left = self.in_ring.saturating_sub(index * 8);
        if left >= 8 {
            // SAFETY: so many bytes were reserved, from a multiple of 16 on. Volatile: others may write
            // them on the path direct.
            return u64::from_le(unsafe { ptr::read_volatile(self.room.cast::<u64>().add(index)) });
        }
        (0..left).fold(0, |word, at| {
            // SAFETY: as above.
            let byte = unsafe { ptr::read_volatile(self.room.add(index * 8 + at)) };
            word | u64::from(byte) << (at * 8)
        })
    }

    /// Copies the beginning of it.
    pub fn copy_to(&self, to: &mut [u8]) {
        let (ring, spill) = to.split_at_mut(self.in_ring.min(to.len()));
        for (at, byte) in ring.iter_mut().enumerate() {
            // SAFETY: so many bytes were reserved. Volatile: others may write them on the path direct.
            *byte = unsafe { ptr::read_volatile(self.room.add(at)) };
        }
        for (to, byte) in spill.iter_mut().zip(self.spill) {
            *to = *byte;
        }
    }
}

/// Writes a frame from its lane to the interface.
///
/// # Errors
///
/// The kernel's.
pub fn write(tap: &Tap, frame: &Frame<'_>) -> Result<(), Errno> {
    let mut header = virtio_net::encode(frame.header());
    let parts = [
        part(header.as_mut_ptr(), header.len()),
        part(frame.as_ptr().cast_mut(), frame.len()),
    ];
    // SAFETY: the kernel reads these two pieces of memory: an array, and the frame, which is there while
    // it is borrowed.
    retry(|| unsafe { libc::writev(tap.as_fd().as_raw_fd(), parts.as_ptr(), parts.len() as i32) })?;
    Ok(())
}

fn part(at: *mut u8, length: usize) -> libc::iovec {
    libc::iovec {
        iov_base: at.cast(),
        iov_len: length,
    }
}

/// Makes a system call again if a signal came first.
fn retry(call: impl Fn() -> isize) -> Result<usize, Errno> {
    loop {
        match usize::try_from(call()) {
            Ok(length) => return Ok(length),
            Err(_) => match io::Error::last_os_error().raw_os_error() {
                Some(libc::EINTR) => {}
                errno => return Err(Errno::from_raw_os_error(errno.unwrap_or(libc::EIO))),
            },
        }
    }
}
