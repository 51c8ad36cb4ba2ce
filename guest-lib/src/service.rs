//! Requests to a service of the host: the trait, and one type for each path of a request.
//!
//! | type | path | instruction |
//! | --- | --- | --- |
//! | [`Gate`] | elisa, elisa-strict | VMFUNC: no VM exit |
//! | [`Hypercall`] | exit-kernel | VMCALL |
//! | [`PortRequest`] | exit-user | OUT |
//! | `crate::direct::Direct` | direct | none: a function call |
//!
//! `examples/service_of_ones_own.rs` has a service other than the NIC.

use core::arch::asm;

use postern_abi::{platform, service};

use crate::gate::Gate;

/// A service of the host, as its caller sees it.
pub trait Service {
    /// Makes one request: its number ([`postern_abi::service`] has those of the NIC) and two
    /// arguments. The result is `None` where the path carries none back: the effect of the request
    /// is then seen in the shared memory alone.
    fn call(&mut self, op: u64, a: u64, b: u64) -> Option<u64>;
}

impl Service for Gate {
    #[inline(always)]
    fn call(&mut self, op: u64, a: u64, b: u64) -> Option<u64> {
        Some(Gate::call(*self, op, a, b))
    }
}

/// The right to call by VMCALL, at any privilege level.
#[derive(Clone, Copy, Debug)]
pub struct Hypercall(());

impl Hypercall {
    /// Takes the hypercall into use.
    ///
    /// # Safety
    ///
    /// The program runs in a VM whose host serves [`service::HYPERCALL`]: elsewhere VMCALL may
    /// raise an exception or mean something else.
    pub const unsafe fn new() -> Hypercall {
        Hypercall(())
    }
}

impl Service for Hypercall {
    #[inline(always)]
    fn call(&mut self, op: u64, a: u64, b: u64) -> Option<u64> {
        let result;
        // SAFETY: `new` was promised that the host serves this hypercall. It writes RAX and this
        // VM's window, which Rust code reaches by raw pointers alone.
        unsafe {
            asm!(
                "vmcall",
                inlateout("rax") service::HYPERCALL => result,
                in("rdi") op,
                in("rsi") a,
                in("rdx") b,
                options(nostack),
            );
        }
        Some(result)
    }
}

/// The right to call by a write to an I/O port of the VMM.
#[derive(Clone, Copy, Debug)]
pub struct PortRequest(());

impl PortRequest {
    /// Takes the I/O port into use.
    ///
    /// # Safety
    ///
    /// The program runs in a VM whose VMM serves [`platform::PORT_REQUEST`], and may execute OUT
    /// there.
    pub const unsafe fn new() -> PortRequest {
        PortRequest(())
    }
}

impl Service for PortRequest {
    #[inline(always)]
    fn call(&mut self, op: u64, a: u64, b: u64) -> Option<u64> {
        // SAFETY: `new` was promised that this port is the VMM's. The request writes this VM's
        // window, which Rust code reaches by raw pointers alone.
        unsafe {
            asm!(
                "out dx, eax",
                in("dx") platform::PORT_REQUEST,
                in("eax") platform::user_request(op, a, b),
                options(nostack, preserves_flags),
            );
        }
        None
    }
}
