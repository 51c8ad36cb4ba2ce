//! Requests to a service of the host, one type a path.
//!
//! | type | path | instruction |
//! | --- | --- | --- |
//! | [`Gate`] | elisa, elisa-strict | VMFUNC: no VM exit |
//! | [`Hypercall`] | exit-kernel | VMCALL |
//! | [`PortRequest`] | exit-user | OUT |
//! | `postern_guest::direct::Direct` | direct | none: a function call |

use core::arch::asm;

use postern_abi::{machine, service};

use crate::gate::Gate;

/// A way to call a service.
pub trait Service {
    /// Makes one request (see [`postern_abi::service`]) with two arguments. The result is `None`
    /// where the path carries none back: what the request did is then seen in the shared memory.
    fn call(&mut self, op: u64, a: u64, b: u64) -> Option<u64>;
}

impl Service for Gate {
    #[inline(always)]
    fn call(&mut self, op: u64, a: u64, b: u64) -> Option<u64> {
        Some(Gate::call(*self, op, a, b))
    }
}

/// Calls by VMCALL, at any privilege level.
#[derive(Clone, Copy, Debug)]
pub struct Hypercall(());

impl Hypercall {
    /// Takes the hypercall into use.
    ///
    /// # Safety
    ///
    /// The program runs in a VM whose host serves [`service::HYPERCALL`]: elsewhere VMCALL may raise
    /// an exception or mean something else.
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

/// Calls by writing to an I/O port of the VMM.
#[derive(Clone, Copy, Debug)]
pub struct PortRequest(());

impl PortRequest {
    /// Takes the I/O port into use.
    ///
    /// # Safety
    ///
    /// The program runs in a VM whose VMM serves [`machine::PORT_REQUEST`], and may execute OUT
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
                in("dx") machine::PORT_REQUEST,
                in("eax") machine::user_request(op, a, b),
                options(nostack, preserves_flags),
            );
        }
        None
    }
}
