//! See `postern_nic_fuzz::capture`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| postern_nic_fuzz::capture::run(data));
