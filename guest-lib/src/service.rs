//! Requests to a service of the host: the trait, one type for each path of a request, and what the
//! NIC answers to a request that it refuses.
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
use core::fmt;

use postern_abi::{platform, service};

use crate::gate::Gate;

/// A service of the host, as its caller sees it.
pub trait Service {
    /// Makes one request: its word (that of a request to the NIC is
    /// [`Window::request`](crate::ring::Window::request) of its number) and two arguments. The
    /// result is `None` where the path carries none back: the effect of the request
    /// is then seen in the shared memory alone.
    fn call(&mut self, request: u64, a: u64, b: u64) -> Option<u64>;

    /// The flags of a request to take frames ([`service::OP_TX`]) that the path allows:
    /// [`service::TX_AVX`] where its calls may use the caller's vector registers, or 0.
    fn tx_flags(&self) -> u64 {
        0
    }

    /// Rings the bell of a receiver that sleeps: of the RX queue of this number in the whole NIC
    /// ([`Geometry::rx_queue`](postern_abi::window::Geometry::rx_queue)). Where nobody can, it does
    /// nothing, and the NIC's owner wakes the receiver later.
    fn ring(&mut self, queue: u32) {
        let _ = queue;
    }
}

/// A request that the NIC refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// The request did not carry the secret of the port's present tenancy.
    NoSecret,
    /// The port is no longer this guest's, the calling vCPU has no number that the port has a queue
    /// for, or an argument is not valid.
    BadRequest,
}

impl Refused {
    /// The result of a request to the NIC, if it was not refused.
    ///
    /// # Errors
    ///
    /// The reason of the refusal.
    #[inline]
    pub const fn check(result: u64) -> Result<u64, Refused> {
        match result {
            service::ERR_NO_SECRET => Err(Refused::NoSecret),
            service::ERR_BAD_REQUEST => Err(Refused::BadRequest),
            result => Ok(result),
        }
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Refused::NoSecret => {
                "the NIC refuses requests without the secret of the port's tenancy: the window's \
                 header was overwritten, or is a former tenancy's; start the VM anew"
            }
            Refused::BadRequest => {
                "the NIC refuses the request: the port has another tenant or none, or fewer queues \
                 than the VM has vCPUs"
            }
        })
    }
}

impl core::error::Error for Refused {}

impl Service for Gate {
    #[inline(always)]
    fn call(&mut self, request: u64, a: u64, b: u64) -> Option<u64> {
        Some(Gate::call(*self, request, a, b))
    }

    fn tx_flags(&self) -> u64 {
        match self.lends_avx() {
            true => service::TX_AVX,
            false => 0,
        }
    }
}

/// The right to call by VMCALL, at any privilege level.
#[derive(Clone, Copy, Debug)]
pub struct Hypercall {
    /// What RAX says.
    number: u64,
}

impl Hypercall {
    /// Takes the hypercall to the service at this slot into use.
    ///
    /// # Safety
    ///
    /// The program runs in a VM whose host serves [`service::hypercall`] of the slot: elsewhere
    /// VMCALL may raise an exception or mean something else.
    pub const unsafe fn new(slot: u32) -> Hypercall {
        Hypercall {
            number: service::hypercall(slot),
        }
    }
}

impl Service for Hypercall {
    #[inline(always)]
    fn call(&mut self, request: u64, a: u64, b: u64) -> Option<u64> {
        let result;
        // SAFETY: `new` was promised that the host serves this hypercall. It writes RAX and this
        // VM's window, which Rust code reaches by raw pointers alone.
        unsafe {
            asm!(
                "vmcall",
                inlateout("rax") self.number => result,
                in("rdi") request,
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
    fn call(&mut self, request: u64, a: u64, b: u64) -> Option<u64> {
        // SAFETY: `new` was promised that this port is the VMM's. The request writes this VM's
        // window, which Rust code reaches by raw pointers alone.
        unsafe {
            asm!(
                "out dx, eax",
                in("dx") platform::PORT_REQUEST,
                in("eax") b as u32,
                in("rdi") request,
                in("rsi") a,
                options(nostack, preserves_flags),
            );
        }
        None
    }
}
