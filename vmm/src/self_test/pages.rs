//! Pages of this process that a guest has, too.

use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

use postern_abi::PAGE_SIZE;
use postern_kvm::SharedPages;
use vm_memory::MmapRegion;

use super::error::Error;

/// Zeroed pages, mapped until the value is dropped.
pub struct Pages(MmapRegion);

impl Pages {
    /// `count` pages, each of which begins with the word `mark`.
    pub fn filled(count: u64, mark: u8) -> Result<Pages, Error> {
        let size = (count * PAGE_SIZE) as usize;
        let region = MmapRegion::new(size).map_err(|error| Error::Guest(error.to_string()))?;
        let pages = Pages(region);
        for page in 0..count {
            pages.store(page * PAGE_SIZE, u64::from(mark));
        }
        Ok(pages)
    }

    /// A page that begins with these bytes.
    pub fn with_code(code: &[u8]) -> Result<Pages, Error> {
        let pages = Pages::filled(1, 0)?;
        for (word, bytes) in (0..PAGE_SIZE / 8).zip(code.chunks(8)) {
            let mut whole = [0; 8];
            whole[..bytes.len()].copy_from_slice(bytes);
            pages.store(word * 8, u64::from_le_bytes(whole));
        }
        Ok(pages)
    }

    /// Address in this process.
    pub fn address(&self) -> u64 {
        self.0.as_ptr().addr() as u64
    }

    /// The pages, for a template. It pins them, and so keeps them from others.
    pub fn shared(&self) -> Result<SharedPages, Error> {
        let base = NonNull::new(self.0.as_ptr());
        let base = base.ok_or_else(|| Error::Guest("memory at address 0".to_owned()))?;
        // SAFETY: the pages are mapped as long as `self`, and this file, which alone refers to
        // them, does so by atomic words only.
        Ok(unsafe { SharedPages::new(base, self.0.size() as u64) })
    }

    /// The word at an offset; nothing beyond the end.
    fn word(&self, offset: u64) -> Option<&AtomicU64> {
        let offset = offset as usize;
        if !offset.is_multiple_of(8) || offset.checked_add(8)? > self.0.size() {
            return None;
        }
        // SAFETY: the word is aligned and within the mapping, which lives as long as `self`, and
        // all of this process refers to it as an atomic.
        Some(unsafe { &*self.0.as_ptr().add(offset).cast::<AtomicU64>() })
    }

    /// Reads a word; 0 beyond the end.
    pub fn load(&self, offset: u64) -> u64 {
        self.word(offset)
            .map_or(0, |word| word.load(Ordering::Relaxed))
    }

    /// Writes a word, unless it is beyond the end.
    pub fn store(&self, offset: u64, value: u64) {
        if let Some(word) = self.word(offset) {
            word.store(value, Ordering::Relaxed);
        }
    }
}
