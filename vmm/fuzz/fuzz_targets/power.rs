//! See `postern_vmm_fuzz::power`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| postern_vmm_fuzz::power::run(data));
