//! See `postern_vmm_fuzz::virtio`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| postern_vmm_fuzz::virtio::run(data));
