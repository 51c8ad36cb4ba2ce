//! State of the caller's processor that a call must neither depend on nor hand out: vector registers
//! and the direction flag. The builds are called by a few lines of assembly, with nothing in between.
#![allow(clippy::unwrap_used, reason = "a failure is a failed test")]

mod common;

use std::arch::asm;

use common::build::Build;
use common::{Guest, LARGE, TestNic, frame, geometry, mac};
use postern_abi::service::{OP_TX, TX_AVX, TX_HOLD};

/// Lengths of frames: those at which the copy takes another way, and the longest.
const LENGTHS: [usize; 14] = [
    60, 95, 96, 97, 112, 127, 240, 255, 256, 300, 1024, 1499, 1500, 9000,
];

const SKIP: &str = "SKIP: this machine has no AVX";

/// A vector register, lower half first.
type Register = [u128; 2];

/// Sixteen vector registers with something in every byte.
fn filled() -> [Register; 16] {
    std::array::from_fn(|n| {
        std::array::from_fn(|half| {
            u128::from_le_bytes(std::array::from_fn(|byte| {
                (1 + n * 13 + half * 7 + byte) as u8
            }))
        })
    })
}

/// Calls a function with these vector registers, and perhaps with the direction flag set. Gives its
/// result, and leaves the registers as they are then.
///
/// # Safety
///
/// The processor has AVX. The function follows the System V ABI, whatever the flag, and may be called
/// with the arguments.
unsafe fn call(
    (function, arguments): (usize, [u64; 6]),
    registers: &mut [Register; 16],
    direction: bool,
) -> u64 {
    let result;
    // SAFETY: the caller vouches for the function. The registers that it and the lines around it
    // change are those that the ABI lets it, and the flag is clear at the end.
    unsafe {
        asm!(
            "vmovups ymm0, [r13]",
            "vmovups ymm1, [r13 + 32]",
            "vmovups ymm2, [r13 + 64]",
            "vmovups ymm3, [r13 + 96]",
            "vmovups ymm4, [r13 + 128]",
            "vmovups ymm5, [r13 + 160]",
            "vmovups ymm6, [r13 + 192]",
            "vmovups ymm7, [r13 + 224]",
            "vmovups ymm8, [r13 + 256]",
            "vmovups ymm9, [r13 + 288]",
            "vmovups ymm10, [r13 + 320]",
            "vmovups ymm11, [r13 + 352]",
            "vmovups ymm12, [r13 + 384]",
            "vmovups ymm13, [r13 + 416]",
            "vmovups ymm14, [r13 + 448]",
            "vmovups ymm15, [r13 + 480]",
            "test r14, r14",
            "jz 2f",
            "std",
            "2:",
            "call r12",
            "cld",
            "vmovups [r13], ymm0",
            "vmovups [r13 + 32], ymm1",
            "vmovups [r13 + 64], ymm2",
            "vmovups [r13 + 96], ymm3",
            "vmovups [r13 + 128], ymm4",
            "vmovups [r13 + 160], ymm5",
            "vmovups [r13 + 192], ymm6",
            "vmovups [r13 + 224], ymm7",
            "vmovups [r13 + 256], ymm8",
            "vmovups [r13 + 288], ymm9",
            "vmovups [r13 + 320], ymm10",
            "vmovups [r13 + 352], ymm11",
            "vmovups [r13 + 384], ymm12",
            "vmovups [r13 + 416], ymm13",
            "vmovups [r13 + 448], ymm14",
            "vmovups [r13 + 480], ymm15",
            "vzeroupper",
            in("r12") function,
            in("r13") registers.as_mut_ptr(),
            in("r14") u64::from(direction),
            in("rdi") arguments[0],
            in("rsi") arguments[1],
            in("rdx") arguments[2],
            in("rcx") arguments[3],
            in("r8") arguments[4],
            in("r9") arguments[5],
            lateout("rax") result,
            clobber_abi("sysv64"),
        );
    }
    result
}

/// Sends a frame of each length by such a call, checks that it arrives, and hands the registers
/// behind each call to a check.
fn send_each(build: Build, flags: u64, direction: bool, check: impl Fn(usize, [Register; 16])) {
    let nic = TestNic::new(build, geometry(2, 1, LARGE, LARGE));
    let mut guests = [0, 1].map(|port| Guest::attach(&nic, port, 1));
    let [sender, receiver] = &mut guests;
    for length in LENGTHS {
        // The image knows the caller from the call page, which this call fills.
        assert_eq!(sender.call(0, false), 0);
        let sent = frame(mac(1), mac(0), length, length as u64);
        sender.send(&sent);
        let request = [sender.caller.secret().request(OP_TX), 1, flags];
        let mut registers = filled();
        // SAFETY: the tests have looked for AVX. The NIC's memory is mapped where the build expects
        // it, and the caller is the last request's.
        let taken = unsafe {
            call(
                nic.raw_call(&sender.caller, request),
                &mut registers,
                direction,
            )
        };
        assert_eq!(taken, 1, "{build:?}, {length} bytes");
        let received = receiver.receive(0, 9);
        assert!(received == [sent], "{build:?}, {length} bytes");
        check(length, registers);
    }
}

#[test]
fn registers_that_are_not_lent_are_kept() {
    if !std::arch::is_x86_feature_detected!("avx") {
        return println!("{SKIP}");
    }
    // The kernel's object uses none, whatever a guest says.
    for (build, flags) in [
        (Build::Image, 0),
        (Build::Image, TX_HOLD),
        (Build::KernelObject, 0),
        (Build::KernelObject, TX_AVX),
    ] {
        send_each(build, flags, false, |length, registers| {
            assert_eq!(registers, filled(), "{build:?}, {flags}, {length} bytes");
        });
    }
}

#[test]
fn registers_that_are_lent_come_back_with_nothing_of_a_frame() {
    if !std::arch::is_x86_feature_detected!("avx") {
        return println!("{SKIP}");
    }
    for flags in [TX_AVX, TX_AVX | TX_HOLD] {
        send_each(Build::Image, flags, false, |length, registers| {
            let before = filled();
            for (n, [low, high]) in registers.into_iter().enumerate() {
                // Short frames are copied without them.
                let used = length >= 96;
                let expected = match (used, n) {
                    (false, _) => before[n],
                    (true, 0..4) => [0, 0],
                    (true, _) => [before[n][0], 0],
                };
                assert_eq!(
                    [low, high],
                    expected,
                    "{flags}, {length} bytes, register {n}"
                );
            }
        });
    }
}

/// The stub of the kernel module clears the flag, and so does KVM's exit. The builds do not rely on
/// either.
#[test]
fn a_call_with_the_direction_flag_set_copies_rightly() {
    if !std::arch::is_x86_feature_detected!("avx") {
        return println!("{SKIP}");
    }
    for build in [Build::Image, Build::KernelObject] {
        for flags in [0, TX_AVX] {
            send_each(build, flags, true, |_, _| ());
        }
    }
}
