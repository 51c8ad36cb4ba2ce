//! See `postern_nic_fuzz::control`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| postern_nic_fuzz::control::run(data));
