//! Which bzImages are loaded, where, and what is said of the others.

#![allow(clippy::unwrap_used, reason = "a test fails by a panic")]

use postern_vmm::loader::{Entry, ImageError, Kernel, KernelFile, place_initrd, place_kernel};
use postern_vmm::memory::reserve_ram;
use proptest::prelude::*;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

const RAM: u64 = 64 << 20;

/// Where the kernel prefers to be.
const START: u64 = 16 << 20;

/// How much it needs from there on.
const NEEDS: u32 = 8 << 20;

fn ram() -> GuestMemoryMmap {
    reserve_ram(RAM).unwrap()
}

/// A bzImage of one setup sector and three paragraphs of code, with fields at the offsets of Linux's
/// Documentation/x86/boot.rst.
fn bzimage() -> Vec<u8> {
    let mut file = vec![0; 1024];
    let mut put = |offset: usize, bytes: &[u8]| {
        file[offset..offset + bytes.len()].copy_from_slice(bytes);
    };
    put(0x1f1, &[1]); // setup_sects
    put(0x1f4, &3_u32.to_le_bytes()); // syssize
    put(0x1fe, &[0x55, 0xaa]); // boot_flag
    put(0x202, b"HdrS");
    put(0x206, &0x20f_u16.to_le_bytes()); // version
    put(0x211, &[1]); // loadflags: LOADED_HIGH
    put(0x22c, &0x7fff_ffff_u32.to_le_bytes()); // initrd_addr_max
    put(0x230, &0x20_0000_u32.to_le_bytes()); // kernel_alignment
    put(0x234, &[1]); // relocatable_kernel
    put(0x236, &3_u16.to_le_bytes()); // xloadflags: KERNEL_64, CAN_BE_LOADED_ABOVE_4G
    put(0x238, &2047_u32.to_le_bytes()); // cmdline_size
    put(0x258, &START.to_le_bytes()); // pref_address
    put(0x260, &NEEDS.to_le_bytes()); // init_size
    file.extend((0..48).map(|byte| byte as u8 + 1));
    file
}

fn with(offset: usize, bytes: &[u8]) -> Vec<u8> {
    let mut file = bzimage();
    file[offset..offset + bytes.len()].copy_from_slice(bytes);
    file
}

fn message(file: &[u8]) -> String {
    place_kernel(&ram(), file).unwrap_err().to_string()
}

#[test]
fn a_bzimage_is_loaded_where_it_prefers() {
    let ram = ram();
    let kernel = place_kernel(&ram, &bzimage()).unwrap();
    assert_eq!(kernel.entry, Entry::Linux(GuestAddress(START + 0x200)));
    assert_eq!(kernel.end.0, START + u64::from(NEEDS));
    assert_eq!(kernel.initrd_end, 0x8000_0000);
    assert_eq!(kernel.max_cmdline, 2047);
    assert_eq!({ kernel.setup.unwrap().version }, 0x20f);
    let mut found = [0; 49];
    ram.read_slice(&mut found, GuestAddress(START)).unwrap();
    assert_eq!((found[0], found[47], found[48]), (1, 48, 0));
}

#[test]
fn the_initrd_stays_above_the_kernel_and_below_its_limit() {
    let limit = START as u32 + NEEDS + 0x2fff;
    let ram = ram();
    let kernel = place_kernel(&ram, &with(0x22c, &limit.to_le_bytes())).unwrap();
    let module = place_initrd(&ram, &[7; 0x3000], &kernel).unwrap();
    assert_eq!(module.start, kernel.end);
    let error = place_initrd(&ram, &[7; 0x3001], &kernel).unwrap_err();
    assert!(matches!(error, ImageError::NoRoom { size: 0x3001, .. }));
    let text = error.to_string();
    assert!(text.contains("it has to end at 0x1803000"), "{text}");
}

#[test]
fn an_initrd_larger_than_memory_tells_how_much_it_needs() {
    let ram = ram();
    let kernel = place_kernel(&ram, &bzimage()).unwrap();
    let file = vec![7; (RAM - kernel.end.0 + 1) as usize];
    let text = place_initrd(&ram, &file, &kernel).unwrap_err().to_string();
    assert!(text.contains("at least 65 MiB with --memory"), "{text}");
    assert!(place_initrd(&ram, &file[1..], &kernel).is_ok());
}

#[test]
fn every_cut_is_noticed() {
    let file = bzimage();
    for length in 0..file.len() {
        match place_kernel(&ram(), &file[..length]) {
            // The last paragraph of the code need not be whole.
            Ok(_) => assert!(length > file.len() - 16, "{length} bytes"),
            Err(ImageError::Foreign { .. }) => assert!(length < 0x206, "{length} bytes"),
            Err(ImageError::Truncated { end, size, .. }) => {
                assert!(end > size && size == length as u64);
            }
            Err(other) => panic!("{length} bytes: {other}"),
        }
    }
}

#[test]
fn kernels_that_cannot_be_entered_say_so() {
    // 32-bit: no XLF_KERNEL_64.
    assert!(message(&with(0x236, &[0, 0])).contains("amd64"));
    // Before xloadflags.
    let text = message(&with(0x206, &0x20b_u16.to_le_bytes()));
    assert!(text.contains("boot protocol 2.11"), "{text}");
    // A zImage.
    assert!(message(&with(0x211, &[0])).contains("no bzImage"));
    assert!(message(&with(0x1f4, &[0; 4])).contains("syssize"));
    assert!(message(&with(0x258, &[0; 8])).contains("below 1 MiB"));
}

#[test]
fn a_kernel_larger_than_memory_tells_how_much_it_needs() {
    let text = message(&with(0x260, &(RAM as u32).to_le_bytes()));
    assert!(text.contains("at least 80 MiB with --memory"), "{text}");
    let text = message(&with(0x258, &u64::MAX.to_le_bytes()));
    assert!(text.contains("--memory"), "{text}");
}

#[test]
fn devices_and_directories_are_no_kernels() {
    for (path, what) in [("/dev/zero", "a device"), ("/proc", "a directory")] {
        let error = KernelFile::open(path.as_ref()).unwrap_err();
        let source = std::error::Error::source(&error).unwrap().to_string();
        assert!(source.contains(what), "{source}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// Whatever the setup header says, the loader answers, and what it accepts lies where it may.
    #[test]
    fn no_header_breaks_the_loader(
        changes in prop::collection::vec((0x1f1usize..0x268, any::<u8>()), 1..12),
        length in 0x200usize..1100,
    ) {
        let mut file = bzimage();
        for (offset, byte) in changes {
            file[offset] = byte;
        }
        file.truncate(length);
        let ram = ram();
        if let Ok(Kernel { entry: Entry::Linux(entry), end, .. }) = place_kernel(&ram, &file) {
            prop_assert!(entry.0 >= 0x10_0200 && entry.0 < RAM && end.0 <= RAM);
        }
    }
}
