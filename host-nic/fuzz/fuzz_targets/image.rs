//! See `postern_nic_fuzz::image`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| postern_nic_fuzz::image::run(data));
