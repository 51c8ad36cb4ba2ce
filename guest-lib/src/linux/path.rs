//! Requests on whatever path the VM is.
#![deny(unsafe_code)]

#[cfg(feature = "direct")]
use crate::direct::Direct;
use crate::gate::Gate;
use crate::service::{Hypercall, PortRequest, Service};

use super::queue_lock::QueueLock;
use super::registers::Registers;

/// A service of the path that the device names.
#[derive(Clone, Copy, Debug)]
pub(super) enum Path {
    /// elisa, elisa-strict.
    Gate(Gate),
    /// exit-kernel.
    Hypercall(Hypercall),
    /// exit-user.
    PortRequest(PortRequest),
    /// direct.
    #[cfg(feature = "direct")]
    Direct(Direct),
}

impl Path {
    /// The path for the `Nic` that has this queue. Where the host does not say who calls, the queue
    /// does.
    pub(super) fn of_queue(self, queue: u32) -> Path {
        match self {
            #[cfg(feature = "direct")]
            Path::Direct(direct) => Path::Direct(direct.for_vcpu(queue)),
            path => {
                let _ = queue;
                path
            }
        }
    }

    /// Makes one request.
    #[inline(always)]
    pub(super) fn call(&mut self, request: u64, a: u64, b: u64) -> Option<u64> {
        match self {
            Path::Gate(service) => Service::call(service, request, a, b),
            Path::Hypercall(service) => service.call(request, a, b),
            Path::PortRequest(service) => service.call(request, a, b),
            #[cfg(feature = "direct")]
            Path::Direct(service) => service.call(request, a, b),
        }
    }

    /// The flags of a request to take frames that the path allows.
    fn tx_flags(&self) -> u64 {
        match self {
            Path::Gate(service) => Service::tx_flags(service),
            Path::Hypercall(service) => service.tx_flags(),
            Path::PortRequest(service) => service.tx_flags(),
            #[cfg(feature = "direct")]
            Path::Direct(service) => service.tx_flags(),
        }
    }
}

/// The service of a [`Nic`](crate::nic::Nic) that [`Port`](super::Port) gives: requests on the path
/// that the device names, and the lock of the `Nic`'s queues.
#[derive(Debug)]
pub struct PathService {
    pub(super) path: Path,
    pub(super) bells: Bells,
    pub(super) _lock: QueueLock,
}

impl Service for PathService {
    #[inline(always)]
    fn call(&mut self, request: u64, a: u64, b: u64) -> Option<u64> {
        self.path.call(request, a, b)
    }

    fn tx_flags(&self) -> u64 {
        self.path.tx_flags()
    }

    fn ring(&mut self, number: u32) {
        self.bells.ring(number);
    }
}

impl PathService {
    /// Number of bells that were rung: VM exits, but for those of interrupts.
    pub fn rings(&self) -> u64 {
        self.bells.rung
    }
}

/// The bells of sleeping receivers.
#[derive(Debug)]
pub(super) struct Bells {
    registers: Option<Registers>,
    rung: u64,
}

impl Bells {
    pub(super) fn new(registers: Option<Registers>) -> Bells {
        Bells { registers, rung: 0 }
    }

    /// Rings the bell of an RX queue, by its number in the whole NIC. Without a doorbell the owner of
    /// the NIC sees to it some time later.
    #[cold]
    fn ring(&mut self, number: u32) {
        if let Some(registers) = self.registers {
            registers.ring(number);
            self.rung += 1;
        }
    }
}
