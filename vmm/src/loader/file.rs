//! Kernel and initrd files, read in pieces.
#![deny(unsafe_code)]

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use postern_nic_client::file::{self, FileError};
use vm_memory::{ByteValued, ReadVolatile};

use super::error::ImageError;

/// What a kernel or an initrd is read from. Only the pieces that are asked for are read.
pub trait Source: Read + ReadVolatile + Seek {}

impl<T: Read + ReadVolatile + Seek> Source for T {}

/// Opens a regular file; of one that is missing `advice` says what to give.
pub(super) fn open(path: &Path, advice: &'static str) -> Result<File, ImageError> {
    file::open(path).map_err(|error| match error {
        FileError::Missing => ImageError::Missing(advice),
        error => ImageError::File(error),
    })
}

/// A source with its size.
pub(super) struct Reader<'a, S> {
    source: &'a mut S,
    size: u64,
}

impl<'a, S: Source> Reader<'a, S> {
    pub(super) fn new(source: &'a mut S) -> Result<Reader<'a, S>, ImageError> {
        let size = source.seek(SeekFrom::End(0)).map_err(ImageError::Read)?;
        Ok(Reader { source, size })
    }

    /// Size in bytes.
    pub(super) fn size(&self) -> u64 {
        self.size
    }

    /// The source at a place.
    pub(super) fn at(&mut self, offset: u64) -> Result<&mut S, ImageError> {
        self.source
            .seek(SeekFrom::Start(offset))
            .map_err(ImageError::Read)?;
        Ok(self.source)
    }

    /// Makes sure that a part lies in the file.
    pub(super) fn check(
        &self,
        start: u64,
        length: u64,
        part: impl FnOnce() -> String,
    ) -> Result<(), ImageError> {
        let end = start.saturating_add(length);
        if end > self.size || end == u64::MAX {
            return Err(ImageError::Truncated {
                part: part(),
                start,
                end,
                size: self.size,
            });
        }
        Ok(())
    }

    /// Fills `bytes` with what the file has at `offset`: a part of that name.
    pub(super) fn read(
        &mut self,
        offset: u64,
        bytes: &mut [u8],
        part: impl FnOnce() -> String,
    ) -> Result<(), ImageError> {
        self.check(offset, bytes.len() as u64, part)?;
        self.at(offset)?.read_exact(bytes).map_err(ImageError::Read)
    }

    /// A header at `offset`.
    pub(super) fn header<T: ByteValued + Default>(
        &mut self,
        offset: u64,
        part: impl FnOnce() -> String,
    ) -> Result<T, ImageError> {
        let mut header = T::default();
        self.read(offset, header.as_mut_slice(), part)?;
        Ok(header)
    }

    /// The first `most` bytes, or all if there are fewer.
    pub(super) fn beginning(&mut self, most: u64) -> Result<Vec<u8>, ImageError> {
        let mut bytes = vec![0; most.min(self.size) as usize];
        self.read(0, &mut bytes, || "its beginning".to_owned())?;
        Ok(bytes)
    }

    /// Whether a part of the file has these bytes.
    pub(super) fn contains(
        &mut self,
        start: u64,
        length: u64,
        wanted: &[u8],
    ) -> Result<bool, ImageError> {
        const PIECE: u64 = 1 << 20;
        let end = start.saturating_add(length).min(self.size);
        let overlap = wanted.len() as u64 - 1;
        let mut offset = start;
        let mut piece = Vec::new();
        while offset + overlap < end {
            piece.resize((end - offset).min(PIECE) as usize, 0);
            self.read(offset, &mut piece, || "a segment".to_owned())?;
            if piece.windows(wanted.len()).any(|part| part == wanted) {
                return Ok(true);
            }
            offset += piece.len() as u64 - overlap;
        }
        Ok(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Cursor;

    #[test]
    fn bytes_are_found_across_pieces() {
        let mut bytes = vec![0; (1 << 20) + 100];
        bytes[(1 << 20) - 3..(1 << 20) + 2].copy_from_slice(b"Linux");
        let mut source = Cursor::new(&bytes[..]);
        let mut reader = Reader::new(&mut source).unwrap();
        let size = reader.size();
        assert!(reader.contains(0, size, b"Linux").unwrap());
        assert!(reader.contains((1 << 20) - 3, 5, b"Linux").unwrap());
        assert!(!reader.contains((1 << 20) - 2, u64::MAX, b"Linux").unwrap());
        assert!(!reader.contains(0, (1 << 20) + 1, b"Linux").unwrap());
    }
}
