//! See `postern_nic_fuzz::descriptor`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| postern_nic_fuzz::descriptor::run(data));
