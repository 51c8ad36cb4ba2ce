//! Files that are given as kernels and are none, by their first bytes: what they are, and what to do.
#![deny(unsafe_code)]

/// How many bytes tell.
pub(super) const BEGINNING: u64 = 512;

/// A kind of file.
struct Kind {
    offset: usize,
    magic: &'static [u8],
    what: &'static str,
    remedy: &'static str,
}

const DECOMPRESS: &str = "decompress it, or give the distribution's vmlinuz";
const OF_X86: &str = "give a kernel for x86-64";
const NO_KERNEL: &str = "give a bzImage (a distribution's vmlinuz) or an ELF64 kernel";

const fn kind(
    offset: usize,
    magic: &'static [u8],
    what: &'static str,
    remedy: &'static str,
) -> Kind {
    Kind {
        offset,
        magic,
        what,
        remedy,
    }
}

/// The kinds; of two that fit the first is meant. Magic numbers from Linux: "lib/decompress.c",
/// "Documentation/arm64/booting.rst", "Documentation/riscv/boot-image-header.rst",
/// "drivers/firmware/efi/libstub/zboot-header.S".
const KINDS: [Kind; 17] = [
    kind(0x38, b"ARM\x64", "a Linux kernel for arm64", OF_X86),
    kind(0x38, b"RSC\x05", "a Linux kernel for RISC-V", OF_X86),
    kind(
        0x24,
        b"\x18\x28\x6f\x01",
        "a Linux kernel for 32-bit ARM",
        OF_X86,
    ),
    kind(
        4,
        b"zimg",
        "a compressed EFI program (zboot)",
        "unpack the kernel in it, or give a bzImage",
    ),
    kind(
        0,
        b"MZ",
        "an EFI program without the Linux boot protocol",
        "of a unified kernel image give the kernel in it (objcopy --dump-section .linux=FILE)",
    ),
    kind(0, b"\x1f\x8b", "compressed with gzip", DECOMPRESS),
    kind(0, b"\xfd7zXZ\0", "compressed with xz", DECOMPRESS),
    kind(0, b"\x28\xb5\x2f\xfd", "compressed with zstd", DECOMPRESS),
    kind(0, b"BZh", "compressed with bzip2", DECOMPRESS),
    kind(0, b"\x02\x21\x4c\x18", "compressed with LZ4", DECOMPRESS),
    kind(0, b"\x04\x22\x4d\x18", "compressed with LZ4", DECOMPRESS),
    kind(0, b"\x89LZO\0\r\n", "compressed with LZO", DECOMPRESS),
    kind(0, b"\x5d\0\0", "compressed with LZMA", DECOMPRESS),
    kind(
        0,
        b"070701",
        "a cpio archive",
        "give it with --initrd, and a kernel here",
    ),
    kind(0, b"\x27\x05\x19\x56", "an image of U-Boot", NO_KERNEL),
    kind(0, b"QFI\xfb", "a qcow2 disk", NO_KERNEL),
    kind(0, b"#!", "a script", NO_KERNEL),
];

/// What a file is that begins with these bytes, and what to do about it.
pub(super) fn identify(beginning: &[u8]) -> (&'static str, &'static str) {
    if beginning.is_empty() {
        return ("empty", NO_KERNEL);
    }
    let fits = |kind: &&Kind| {
        let bytes = beginning.get(kind.offset..);
        bytes.is_some_and(|bytes| bytes.starts_with(kind.magic))
    };
    match KINDS.iter().find(fits) {
        Some(kind) => (kind.what, kind.remedy),
        None => ("no kernel of a kind that is known", NO_KERNEL),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_more_special_kind_is_meant() {
        let mut image = vec![0; 64];
        image[..2].copy_from_slice(b"MZ");
        assert!(identify(&image).0.contains("EFI"));
        image[0x38..0x3c].copy_from_slice(b"ARM\x64");
        assert!(identify(&image).0.contains("arm64"));
        image[4..8].copy_from_slice(b"zimg");
        image[0x38] = 0;
        assert!(identify(&image).0.contains("zboot"));
        assert!(identify(b"").0.contains("empty"));
        assert!(identify(b"M").0.contains("no kernel"));
    }

    #[test]
    fn all_kinds_are_within_the_beginning() {
        for kind in &KINDS {
            assert!(kind.offset + kind.magic.len() <= BEGINNING as usize);
        }
    }
}
