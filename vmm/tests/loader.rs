//! Which kernels are loaded, and what is said of the others.

#![allow(clippy::unwrap_used, reason = "a test fails by a panic")]

mod elf;

use elf::{Elf, PHOFF, PHSIZE, PT_INTERP, PT_LOAD, Segment};
use postern_vmm::layout;
use postern_vmm::loader::{Entry, ImageError, Kernel, Module, place_initrd, place_kernel};
use postern_vmm::memory::reserve_ram;
use proptest::prelude::*;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

const RAM: u64 = 16 << 20;

fn ram() -> GuestMemoryMmap {
    reserve_ram(RAM).unwrap()
}

fn refused(elf: &Elf) -> ImageError {
    place_kernel(&ram(), &elf.bytes()).unwrap_err()
}

fn message(elf: &Elf) -> String {
    refused(elf).to_string()
}

#[test]
fn a_sane_kernel_is_loaded() {
    let ram = ram();
    let mut elf = Elf::kernel(b"code");
    elf.segments[0].memory = 0x3000;
    elf.segments.push(Segment::load(0x20_0000, b"data"));
    let kernel = place_kernel(&ram, &elf.bytes()).unwrap();
    assert_eq!(
        kernel,
        Kernel {
            entry: Entry::Long(GuestAddress(0x10_0000)),
            end: GuestAddress(0x20_0004),
            initrd_end: RAM,
            max_cmdline: 4095,
            setup: None,
        }
    );
    let mut found = [0; 5];
    ram.read_slice(&mut found, GuestAddress(0x10_0000)).unwrap();
    assert_eq!(&found, b"code\0");
    ram.read_slice(&mut found, GuestAddress(0x20_0000)).unwrap();
    assert_eq!(&found, b"data\0");
}

#[test]
fn linux_without_pvh_is_told_from_other_kernels() {
    let banner = b"....Linux version 6.1.0 (somebody)....";
    let mut elf = Elf::kernel(banner);
    assert!(
        place_kernel(&ram(), &elf.bytes()).is_ok(),
        "linked elsewhere"
    );
    elf.segments[0].offset = 0xffff_ffff_8000_0000;
    assert!(matches!(refused(&elf), ImageError::LinuxWithoutPvh));
    assert!(message(&elf).contains("Linux kernel without CONFIG_PVH"));
    elf.segments.push(Segment::pvh_note(0x10_0000));
    assert!(place_kernel(&ram(), &elf.bytes()).is_ok(), "with PVH");
    let mut other = Elf::kernel(&[0x90; 64]);
    other.segments[0].offset = 0xffff_ffff_8000_0000;
    assert!(
        place_kernel(&ram(), &other.bytes()).is_ok(),
        "another kernel"
    );
}

#[test]
fn a_pvh_note_decides_the_entry() {
    let mut elf = Elf::kernel(&[0x90; 64]);
    elf.segments.push(Segment::pvh_note(0x10_0020));
    let kernel = place_kernel(&ram(), &elf.bytes()).unwrap();
    assert_eq!(kernel.entry, Entry::Pvh(GuestAddress(0x10_0020)));

    elf.segments[1] = Segment::pvh_note(0x7000_0000);
    assert!(message(&elf).contains("PVH entry point 0x70000000"));
}

#[test]
fn every_truncation_is_noticed() {
    let file = Elf::kernel(&[0x90; 200]).bytes();
    for length in 0..file.len() {
        let error = place_kernel(&ram(), &file[..length]).unwrap_err();
        match error {
            ImageError::Foreign { .. } => assert!(length < 4),
            ImageError::Truncated { end, size, .. } => {
                assert!(end > size && size == length as u64);
            }
            other => panic!("{length} bytes: {other}"),
        }
    }
}

#[test]
fn files_of_other_kinds_are_named() {
    let sane = Elf::kernel(b"code");
    let cases = [
        (
            Elf {
                class: 1,
                ..sane.clone()
            },
            "a 32-bit ELF file",
        ),
        (
            Elf {
                data: 2,
                ..sane.clone()
            },
            "a big-endian ELF file",
        ),
        (
            Elf {
                machine: 183,
                ..sane.clone()
            },
            "machine 183",
        ),
        (
            Elf {
                kind: 1,
                ..sane.clone()
            },
            "an object file",
        ),
        (
            Elf {
                kind: 3,
                ..sane.clone()
            },
            "relocation-model=static",
        ),
    ];
    for (elf, part) in cases {
        let text = message(&elf);
        assert!(text.contains(part), "{text}");
    }
    let mut program = sane.clone();
    program.segments[0].kind = PT_INTERP;
    assert!(message(&program).contains("dynamic linker"));
    for other in [&b"\x1f\x8b\x08\0"[..], b"MZ", b"", b"#!/bin/sh\n"] {
        assert!(matches!(
            place_kernel(&ram(), other),
            Err(ImageError::Foreign { .. })
        ));
    }
}

#[test]
fn a_kernel_larger_than_memory_tells_how_much_it_needs() {
    let mut elf = Elf::kernel(b"code");
    elf.segments[0].memory = RAM;
    let text = message(&elf);
    assert!(text.contains("segment 0"), "{text}");
    assert!(text.contains("at least 17 MiB with --memory"), "{text}");
    // All of it, whichever segment is the first for which there is no room.
    elf.segments.push(Segment::load(50 << 20, b"more"));
    let text = message(&elf);
    assert!(text.contains("at least 51 MiB with --memory"), "{text}");
    elf.segments.pop();
    elf.segments[0].address = 0xc000_0000;
    let text = message(&elf);
    assert!(text.contains("link it below 0xc0000000"), "{text}");
}

#[test]
fn overlaps_are_refused() {
    let mut elf = Elf::kernel(&[0; 0x2000]);
    elf.segments.push(Segment::load(0x10_1fff, b"x"));
    let text = message(&elf);
    assert!(
        text.contains("segment 1") && text.contains("overlaps segment 0"),
        "{text}"
    );

    let mut elf = Elf::kernel(b"code");
    elf.segments
        .push(Segment::load(layout::PML4.0, b"no page table"));
    assert!(message(&elf).contains("the boot structures"));
}

#[test]
fn contradictions_are_refused() {
    let mut elf = Elf::kernel(b"code");
    elf.segments[0].memory = 2;
    assert!(message(&elf).contains("4 bytes in the file") || message(&elf).contains("0x4 bytes"));

    let mut elf = Elf::kernel(b"code");
    elf.segments[0].address = u64::MAX - 2;
    assert!(message(&elf).contains("wraps around"));

    let mut elf = Elf::kernel(b"code");
    elf.entry = 0x10_0004;
    assert!(message(&elf).contains("entry point 0x100004"));

    let mut elf = Elf::kernel(b"");
    elf.segments.clear();
    assert!(message(&elf).contains("nothing to load"));

    let mut odd = Elf::kernel(b"code").bytes();
    odd[54] = 55;
    let error = place_kernel(&ram(), &odd).unwrap_err();
    assert!(error.to_string().contains("program headers of 55 bytes"));
}

#[test]
fn the_initrd_is_at_the_end_of_memory() {
    let ram = ram();
    let kernel = place_kernel(&ram, &Elf::kernel(b"code").bytes()).unwrap();
    let module = place_initrd(&ram, b"0707", &kernel).unwrap();
    assert_eq!(
        module,
        Module {
            start: GuestAddress(RAM - 0x1000),
            size: 4
        }
    );
    let most = vec![1; (RAM - 0x10_1000) as usize];
    assert!(place_initrd(&ram, &most, &kernel).is_ok());
    let too_much = vec![1; (RAM - 0x10_0000) as usize];
    assert!(matches!(
        place_initrd(&ram, &too_much, &kernel),
        Err(ImageError::NoRoom { .. })
    ));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// Whatever a file holds, the loader answers, and what it accepts lies where it may.
    #[test]
    fn no_file_breaks_the_loader(
        changes in prop::collection::vec((0..PHOFF + 3 * PHSIZE, any::<u8>()), 1..12),
        length in 0usize..600,
    ) {
        let mut elf = Elf::kernel(&[0x90; 100]);
        elf.segments.push(Segment::pvh_note(0x10_0000));
        elf.segments.push(Segment::load(0x20_0000, &[1; 50]));
        let mut file = elf.bytes();
        for (offset, byte) in changes {
            file[offset] = byte;
        }
        file.truncate(length.max(64));
        let ram = ram();
        if let Ok(kernel) = place_kernel(&ram, &file) {
            prop_assert!(kernel.end.0 >= layout::KERNEL_START.0 && kernel.end.0 <= RAM);
        }
    }

    /// Kernels all of whose program headers' fields are drawn from interesting values.
    #[test]
    fn no_segment_breaks_the_loader(
        segments in prop::collection::vec(segment(), 0..4),
        entry in number(),
    ) {
        let segments_of_nothing = vec![Segment::load(0, b""); segments.len()];
        let elf = Elf { segments: segments_of_nothing, entry, ..Elf::kernel(b"") };
        let mut file = elf.bytes();
        for (index, (kind, fields)) in segments.iter().enumerate() {
            let header = PHOFF + index * PHSIZE;
            file[header..header + 4].copy_from_slice(&kind.to_le_bytes());
            for (field, value) in fields.iter().enumerate() {
                let at = header + 8 + field * 8;
                file[at..at + 8].copy_from_slice(&value.to_le_bytes());
            }
        }
        file.resize(file.len() + 4096, 0x04);
        let ram = ram();
        let _ = place_kernel(&ram, &file);
        // The boot structures stay free.
        let mut boot = [0u8; 16];
        ram.read_slice(&mut boot, layout::BOOT_START).unwrap();
        prop_assert_eq!(boot, [0; 16]);
    }
}

fn number() -> impl Strategy<Value = u64> {
    prop_oneof![
        Just(0),
        Just(u64::MAX),
        Just(1 << 63),
        Just(RAM),
        Just(RAM - 1),
        0u64..0x1000,
        0xf000u64..0x2_0000,
        0x10_0000u64..0x10_2000,
        any::<u64>(),
    ]
}

fn segment() -> impl Strategy<Value = (u32, [u64; 5])> {
    (
        prop_oneof![Just(PT_LOAD), Just(4u32), Just(0u32)],
        [number(), number(), number(), number(), number()],
    )
}
