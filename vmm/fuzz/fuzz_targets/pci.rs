//! See `postern_vmm_fuzz::pci`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| postern_vmm_fuzz::pci::run(data));
