//! Pieces of guest memory, one after another, that a file is read into or written from.
//!
//! The only `unsafe` code of the user-space backend: `readv` and `writev` straight between a TAP and
//! the guest's memory, which the guest may change at any time.

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::ptr;

use vm_memory::{GuestAddress, GuestMemory, GuestMemoryMmap, Permissions};

/// The most pieces that one call of `readv` or `writev` takes (`UIO_MAXIOV` in linux/uio.h), less one
/// for an overflow of the caller's.
pub const MAX_PIECES: usize = 1023;

/// A list of pieces of guest memory. It keeps the memory mapped.
pub struct GuestBuffers {
    memory: GuestMemoryMmap,
    pieces: Vec<libc::iovec>,
    /// The pieces before this one are done.
    first: usize,
    /// Bytes in all pieces from the first one on.
    size: usize,
}

// SAFETY: the pointers in it are to guest memory, which it keeps mapped, and which any thread may
// access by raw copies, as the guest's own processors do.
unsafe impl Send for GuestBuffers {}

impl GuestBuffers {
    /// An empty list.
    pub fn new(memory: GuestMemoryMmap) -> GuestBuffers {
        GuestBuffers {
            memory,
            pieces: Vec::new(),
            first: 0,
            size: 0,
        }
    }

    /// Bytes in all pieces.
    pub fn size(&self) -> usize {
        self.size
    }

    /// Number of pieces.
    pub fn len(&self) -> usize {
        self.pieces.len() - self.first
    }

    /// Forgets all pieces.
    pub fn clear(&mut self) {
        self.pieces.clear();
        self.first = 0;
        self.size = 0;
    }

    /// Forgets the first `count` pieces.
    pub fn advance(&mut self, count: usize) {
        let end = (self.first + count).min(self.pieces.len());
        for piece in &self.pieces[self.first..end] {
            self.size -= piece.iov_len;
        }
        self.first = end;
        if self.first == self.pieces.len() {
            self.pieces.clear();
            self.first = 0;
        } else if self.first > MAX_PIECES {
            self.pieces.drain(..self.first);
            self.first = 0;
        }
    }

    /// Adds `len` bytes of the guest's at `address`. `None` if they are not RAM, or would be more
    /// pieces than one call takes; some may have been added then.
    pub fn push(&mut self, address: GuestAddress, len: u32, access: Permissions) -> Option<()> {
        let len = len as usize;
        for slice in self.memory.get_slices(address, len, access).ok()? {
            let slice = slice.ok()?;
            if self.len() == MAX_PIECES {
                return None;
            }
            self.pieces.push(libc::iovec {
                iov_base: slice.ptr_guard_mut().as_ptr().cast(),
                iov_len: slice.len(),
            });
            self.size += slice.len();
        }
        Some(())
    }

    /// Reads once from `file`, into the pieces and, if they are full, into `overflow`.
    ///
    /// # Errors
    ///
    /// Those of `readv`.
    pub fn read_from(&mut self, file: impl AsFd, overflow: &mut [u8]) -> io::Result<usize> {
        self.pieces.push(libc::iovec {
            iov_base: overflow.as_mut_ptr().cast(),
            iov_len: overflow.len(),
        });
        let pieces = &self.pieces[self.first..];
        // SAFETY: all pieces but the last are in guest memory, which `self.memory` keeps mapped and
        // of which no reference exists; the last is the caller's, borrowed for as long as this call.
        // There are at most `MAX_PIECES` and one.
        let result = unsafe {
            libc::readv(
                file.as_fd().as_raw_fd(),
                pieces.as_ptr(),
                pieces.len() as i32,
            )
        };
        let result = usize::try_from(result).map_err(|_| io::Error::last_os_error());
        self.pieces.pop();
        result
    }

    /// Writes all pieces to `file` at once.
    ///
    /// # Errors
    ///
    /// Those of `writev`.
    pub fn write_to(&self, file: impl AsFd) -> io::Result<usize> {
        let pieces = &self.pieces[self.first..];
        // SAFETY: the pieces are in guest memory, which `self.memory` keeps mapped and which the
        // kernel only reads. There are at most `MAX_PIECES`.
        let result = unsafe {
            libc::writev(
                file.as_fd().as_raw_fd(),
                pieces.as_ptr(),
                pieces.len() as i32,
            )
        };
        usize::try_from(result).map_err(|_| io::Error::last_os_error())
    }

    /// Copies `bytes` into the pieces, from the byte `offset` on; what does not fit is left out.
    pub fn copy_in(&self, mut offset: usize, mut bytes: &[u8]) {
        for piece in &self.pieces[self.first..] {
            if offset >= piece.iov_len {
                offset -= piece.iov_len;
                continue;
            }
            let count = bytes.len().min(piece.iov_len - offset);
            // SAFETY: the piece has `iov_len` bytes of mapped guest memory, of which no reference
            // exists, so that it cannot overlap `bytes`; `offset + count` is at most that.
            unsafe {
                let to = piece.iov_base.cast::<u8>().add(offset);
                ptr::copy_nonoverlapping(bytes.as_ptr(), to, count);
            }
            bytes = &bytes[count..];
            if bytes.is_empty() {
                return;
            }
            offset = 0;
        }
    }
}
