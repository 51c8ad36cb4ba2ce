//! See `postern_vmm_fuzz::serial`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| postern_vmm_fuzz::serial::run(data));
