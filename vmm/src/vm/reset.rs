//! The reset of a VM: vCPUs stop, memory, devices and interrupt controllers are as at the start, and
//! vCPUs run again. What belongs to the VM outside stays: its port of the NIC, its console, files.
#![deny(unsafe_code)]

use std::fmt;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use kvm_bindings::{
    KVM_IRQCHIP_IOAPIC, KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE, kvm_irqchip,
};
use kvm_ioctls::VmFd;

use super::devices::Devices;
use super::error::Error;
use super::event::Event;
use super::guest::Guest;
use super::vcpu_thread::{Common, Order, VcpuThread};
use crate::run_report::Outcome;
use crate::{kvm, signals};

/// KVM's interrupt controllers besides local APICs, as they were before the guest ran.
pub(super) struct InterruptControllers(Vec<kvm_irqchip>);

impl fmt::Debug for InterruptControllers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InterruptControllers")
            .finish_non_exhaustive()
    }
}

impl InterruptControllers {
    /// Their state now.
    pub(super) fn of(vm: &VmFd) -> Result<InterruptControllers, kvm::Error> {
        let chips = [
            KVM_IRQCHIP_PIC_MASTER,
            KVM_IRQCHIP_PIC_SLAVE,
            KVM_IRQCHIP_IOAPIC,
        ];
        let state = |chip_id| {
            let mut chip = kvm_irqchip {
                chip_id,
                ..Default::default()
            };
            vm.get_irqchip(&mut chip)
                .map_err(kvm::call("KVM_GET_IRQCHIP"))?;
            Ok(chip)
        };
        Ok(InterruptControllers(
            chips.into_iter().map(state).collect::<Result<_, _>>()?,
        ))
    }

    fn restore(&self, vm: &VmFd) -> Result<(), kvm::Error> {
        let mut chips = self.0.iter();
        chips.try_for_each(|chip| vm.set_irqchip(chip).map_err(kvm::call("KVM_SET_IRQCHIP")))
    }
}

/// What a VM that restarts needs for it.
#[derive(Debug)]
pub(super) struct Restart {
    pub(super) guest: Guest,
    pub(super) controllers: InterruptControllers,
}

/// How often a vCPU that has not stopped is signalled.
const KICK_INTERVAL: Duration = Duration::from_millis(1);

impl Restart {
    /// Resets the VM, one vCPU of which has stopped. Returns an outcome if it has to end meanwhile.
    pub(super) fn reset(
        &mut self,
        vm: &VmFd,
        devices: &Devices,
        threads: &[VcpuThread],
        common: &Common,
        events: &Receiver<Event>,
    ) -> Result<Option<Outcome>, Error> {
        common.halt.store(true, Ordering::Relaxed);
        if let Some(outcome) = wait_for_all(threads, threads.len() - 1, events, true) {
            return Ok(Some(outcome));
        }
        devices.reset();
        let start = self.guest.reload()?;
        self.controllers.restore(vm)?;
        for (number, thread) in threads.iter().enumerate() {
            let start = (number == 0).then(|| start.clone());
            // One that has ended by itself has said why.
            let _ = thread.orders.send(Order::Restore(start));
        }
        if let Some(outcome) = wait_for_all(threads, threads.len(), events, false) {
            return Ok(Some(outcome));
        }
        common.halt.store(false, Ordering::Relaxed);
        for thread in threads {
            let _ = thread.orders.send(Order::Run);
        }
        Ok(None)
    }
}

/// Waits for `count` vCPUs to say that they have stopped, or been restored; a signal to the VMM, or
/// a vCPU that ends when it should not, is the VM's end.
fn wait_for_all(
    threads: &[VcpuThread],
    count: usize,
    events: &Receiver<Event>,
    stopping: bool,
) -> Option<Outcome> {
    let mut left = count;
    while left > 0 {
        match events.recv_timeout(KICK_INTERVAL) {
            Ok(Event::Signal(signal)) => return Some(Outcome::Signal(signal)),
            // However the others ended, the reset came first.
            Ok(Event::Ended { .. }) if stopping => left -= 1,
            Ok(Event::Ended { vcpu, end }) => return Some(Outcome::Ended { vcpu, end }),
            Ok(Event::Restored) => left -= 1,
            Err(RecvTimeoutError::Timeout) if stopping => {
                let kicked = threads.iter();
                signals::kick_once(kicked.map(|thread| (&thread.handle, &thread.number)));
            }
            Err(_) => {}
        }
    }
    None
}
