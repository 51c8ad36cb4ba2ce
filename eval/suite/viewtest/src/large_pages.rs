//! Data that EPT maps by 2 MiB pages, where the host's pages allow, and data that it cannot.

use anyhow::{Context, Result, ensure};
use postern_abi::PAGE_SIZE;
use postern_abi::kvm::{RIGHT_FAST, RIGHT_STRICT};

use crate::calls::expect_stop;
use crate::grants::{MORE_GVA, map_more};
use crate::guest::{ENTER, Stop, Template, Vm, and_out, call_slot};
use crate::sys::{self, Pages};
use crate::{Test, skip};

pub const TESTS: &[Test] = &[
    ("each page of data is where it should be", small),
    ("large pages of the host are mapped as such", large),
];

const LARGE: u64 = 2 << 20;

/// `mov rax, MORE_GVA; lea rax, [rax+rdi]; mov rdx, [rax]; mov [rax+8], rdx; mov rax, rdx; ret`: gives
/// a word of the data, and writes it to the next.
fn word_service() -> Vec<u8> {
    let mut service = vec![0x48, 0xb8];
    service.extend_from_slice(&MORE_GVA.to_le_bytes());
    service.extend_from_slice(&[0x48, 0x8d, 0x04, 0x38, 0x48, 0x8b, 0x10]);
    service.extend_from_slice(&[0x48, 0x89, 0x50, 0x08, 0x48, 0x89, 0xd0, 0xc3]);
    service
}

/// Checks the pages at these offsets, through a view.
fn check(template: &Template, pages: &Pages, start: u64, offsets: &[u64]) -> Result<()> {
    for right in [RIGHT_FAST, RIGHT_STRICT] {
        let mut vm = Vm::attached(&[], template, right, 0)?;
        for &offset in offsets {
            let (at, value) = ((start + offset) as usize, offset ^ u64::from(right) << 40);
            pages.write_word(at, value);
            pages.write_word(at + 8, 0);
            vm.restart(&and_out(call_slot(0, offset as u32, 0)))?;
            expect_stop(&mut vm, &Stop::Out(0)).with_context(|| format!("at {offset:#x}"))?;
            let read = vm.vcpu.get_regs()?.rdx;
            ensure!(read == value, "at {offset:#x} is {read:#x}");
            let written = pages.read_word(at + 8);
            ensure!(written == value, "at {offset:#x} it wrote {written:#x}");
        }
        drop(vm);
        ensure!(template.revoke(crate::guest::ID)? <= 1, "the grant");
    }
    Ok(())
}

/// Pages of the host that are not in one piece are mapped one by one, however the addresses lie.
fn small() -> Result<()> {
    const SIZE: u64 = 3 * LARGE;
    for (gva_offset, user_offset) in [(0, 0), (PAGE_SIZE, 0), (0, PAGE_SIZE), (LARGE / 2, LARGE)] {
        let pages = Pages::writable((SIZE + LARGE) as usize);
        let template = Template::open(&word_service())?;
        let argument = postern_abi::kvm::EptViewMap {
            gva: MORE_GVA + gva_offset,
            user_addr: pages.address() + user_offset,
            size: SIZE,
            prot: postern_abi::kvm::VIEW_READ | postern_abi::kvm::VIEW_WRITE,
            ..Default::default()
        };
        sys::map(&template.file, &argument)?;
        sys::seal(&template.file, &Template::seal_argument(ENTER))?;
        let offsets: Vec<u64> = (0..SIZE / PAGE_SIZE)
            .step_by(61)
            .chain([511, 512, 513, 1023, 1024, SIZE / PAGE_SIZE - 1])
            .map(|page| page * PAGE_SIZE + gva_offset)
            .collect();
        check(
            &template,
            &pages,
            user_offset.wrapping_sub(gva_offset),
            &offsets,
        )?;
    }
    Ok(())
}

/// Shared memory in large pages, if the kernel has any.
pub fn large_pages(size: u64) -> Option<Pages> {
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    let shared = libc::MAP_SHARED;
    let count = (size / LARGE).to_string();
    if std::fs::write("/proc/sys/vm/nr_hugepages", count).is_ok() {
        let flags = shared | libc::MAP_HUGETLB | libc::MAP_POPULATE;
        if let Ok(pages) = Pages::with_flags(size as usize, protection, flags) {
            return Some(pages);
        }
    }
    None
}

fn large() -> Result<()> {
    const SIZE: u64 = 4 * LARGE;
    let Some(pages) = large_pages(SIZE) else {
        return skip("this kernel has no large pages");
    };
    // Where the addresses agree, all of it; where it begins in the middle, what is whole; where
    // they do not agree, nothing.
    for (offset, size, user_offset, wanted) in [
        (0, SIZE, 0, SIZE),
        (PAGE_SIZE, SIZE - 2 * PAGE_SIZE, PAGE_SIZE, SIZE - 2 * LARGE),
        (0, SIZE - LARGE, PAGE_SIZE, 0),
    ] {
        let template = Template::open(&word_service())?;
        let argument = postern_abi::kvm::EptViewMap {
            gva: MORE_GVA + offset,
            user_addr: pages.address() + user_offset,
            size,
            prot: postern_abi::kvm::VIEW_READ | postern_abi::kvm::VIEW_WRITE,
            ..Default::default()
        };
        sys::map(&template.file, &argument)?;
        // More data behind it are found as well.
        let behind = Pages::writable(PAGE_SIZE as usize);
        map_more(&template, MORE_GVA + offset + size, &behind, PAGE_SIZE)?;
        sys::seal(&template.file, &Template::seal_argument(ENTER))?;
        let info = sys::info(&template.file)?;
        ensure!(
            info.bytes_in_2m == wanted,
            "of {size:#x} bytes at {offset:#x} it maps {:#x} by 2 MiB, wanted {wanted:#x}",
            info.bytes_in_2m
        );
        let offsets: Vec<u64> = (0..size / PAGE_SIZE)
            .step_by(61)
            .chain([size / PAGE_SIZE - 1])
            .map(|page| page * PAGE_SIZE + offset)
            .collect();
        check(
            &template,
            &pages,
            user_offset.wrapping_sub(offset),
            &offsets,
        )?;
        check(
            &template,
            &behind,
            (offset + size).wrapping_neg(),
            &[offset + size],
        )?;
    }
    Ok(())
}
