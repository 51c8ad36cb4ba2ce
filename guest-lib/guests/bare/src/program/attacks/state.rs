//! Calls with a state of the processor that the attacker chooses: its direction flag and vector
//! registers. Whoever sends back what it gets on another port shows whether frames arrive as they
//! were sent.

use core::arch::asm;
use core::ptr;
use core::sync::atomic::{AtomicU32, Ordering::Relaxed};

use postern_guest::gate::ENTRY_GVA;
use postern_guest::nic::Nic;
use postern_guest::service::Service;

use super::attacker::{Attacker, GATE_INDEX};
use crate::exception::{Exception, catch_exception};

/// Length of the frames in bytes: they are copied by a string instruction, or in vector registers.
const LENGTH: usize = 1000;

/// The byte that frames are made of, but for their addresses.
const FRAME_BYTE: u8 = 0x5f;

/// Number of the next frame.
static NUMBER: AtomicU32 = AtomicU32::new(0);

/// Sixteen vector registers of 32 bytes.
pub type Registers = [[u8; 32]; 16];

/// The gate, called with a state of the processor.
#[derive(Clone, Copy, Default)]
pub struct State {
    /// Whether the direction flag is set.
    pub direction: bool,
    /// Flags of a request to take frames, besides the queue.
    pub flags: u64,
    /// The vector registers of the next call, and of the last one when it has returned. None where
    /// AVX is off.
    pub registers: Option<Registers>,
}

impl Service for State {
    fn call(&mut self, request: u64, a: u64, b: u64) -> Option<u64> {
        let registers = match &mut self.registers {
            Some(registers) => registers.as_mut_ptr(),
            None => ptr::null_mut(),
        };
        let result;
        // SAFETY: the gate area is there, and the program uses no vector registers of its own. Where
        // registers are asked for, AVX is on.
        unsafe {
            asm!(
                "test r12, r12",
                "jz 2f",
                "vmovups ymm0, [r12]",
                "vmovups ymm1, [r12 + 32]",
                "vmovups ymm2, [r12 + 64]",
                "vmovups ymm3, [r12 + 96]",
                "vmovups ymm4, [r12 + 128]",
                "vmovups ymm5, [r12 + 160]",
                "vmovups ymm6, [r12 + 192]",
                "vmovups ymm7, [r12 + 224]",
                "vmovups ymm8, [r12 + 256]",
                "vmovups ymm9, [r12 + 288]",
                "vmovups ymm10, [r12 + 320]",
                "vmovups ymm11, [r12 + 352]",
                "vmovups ymm12, [r12 + 384]",
                "vmovups ymm13, [r12 + 416]",
                "vmovups ymm14, [r12 + 448]",
                "vmovups ymm15, [r12 + 480]",
                "2:",
                "test r13, r13",
                "jz 3f",
                "std",
                "3:",
                "call rax",
                "cld",
                "test r12, r12",
                "jz 4f",
                "vmovups [r12], ymm0",
                "vmovups [r12 + 32], ymm1",
                "vmovups [r12 + 64], ymm2",
                "vmovups [r12 + 96], ymm3",
                "vmovups [r12 + 128], ymm4",
                "vmovups [r12 + 160], ymm5",
                "vmovups [r12 + 192], ymm6",
                "vmovups [r12 + 224], ymm7",
                "vmovups [r12 + 256], ymm8",
                "vmovups [r12 + 288], ymm9",
                "vmovups [r12 + 320], ymm10",
                "vmovups [r12 + 352], ymm11",
                "vmovups [r12 + 384], ymm12",
                "vmovups [r12 + 416], ymm13",
                "vmovups [r12 + 448], ymm14",
                "vmovups [r12 + 480], ymm15",
                "4:",
                in("r12") registers,
                in("r13") u64::from(self.direction),
                inlateout("rax") ENTRY_GVA => _,
                inlateout("ecx") GATE_INDEX => _,
                inlateout("rdi") request => _,
                inlateout("rsi") a => _,
                inlateout("rdx") b => result,
                lateout("r8") _,
                lateout("r9") _,
                lateout("r10") _,
                lateout("r11") _,
            );
        }
        Some(result)
    }

    fn tx_flags(&self) -> u64 {
        self.flags
    }
}

/// Sends a frame to everybody by a call in this state, which is then the one behind the call. Returns
/// whether the frame comes back as it was sent.
pub fn exchange(attacker: &mut Attacker, state: &mut State) -> Result<bool, Exception> {
    let mut nic = Nic::new(*state, attacker.window());
    nic.rx_discard();
    let mac = nic.mac();
    let mut frame = [FRAME_BYTE; LENGTH];
    frame[..6].fill(0xff);
    frame[6..12].copy_from_slice(&mac);
    // No frame is like another, so that a late answer is not taken for this one's.
    frame[14..18].copy_from_slice(&NUMBER.fetch_add(1, Relaxed).to_le_bytes());
    catch_exception(|| nic.tx_burst(&[frame]))?;
    *state = *nic.service();
    let mut right = false;
    attacker.idle.moved();
    while !right {
        let got = nic.rx_burst(1, |answer| {
            let mut copy = [0; LENGTH];
            if answer.len() == LENGTH {
                answer.copy_to(&mut copy);
            }
            right = copy[..6] == mac && copy[12..] == frame[12..];
        });
        if got == 0 && attacker.idle.wait("a frame to come back", 0).is_err() {
            break;
        }
    }
    Ok(right)
}
