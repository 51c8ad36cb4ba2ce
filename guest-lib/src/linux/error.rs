//! What can be wrong with a port, each with its remedy.
#![deny(unsafe_code)]

use std::io;
use std::path::PathBuf;

use postern_abi::nic_device::NicDeviceError;
use postern_abi::platform::CallPath;
use postern_abi::view::GATE_AREA_GVA;
use postern_abi::window::{HeaderError, PortId};
use thiserror::Error as ThisError;

use crate::service::Refused;

/// Why the VM's NIC port cannot be used.
#[derive(Debug, ThisError)]
pub enum Error {
    /// No PCI device of the VM is a NIC port.
    #[error(
        "{}: no PCI device is a port of a Postern NIC: give the VM one (postern run --nic SOCKET)",
        .0.display()
    )]
    NoDevice(PathBuf),
    /// Several PCI devices are, and none was chosen.
    #[error("several PCI devices are ports of Postern NICs: choose one of {}", .0.join(", "))]
    SeveralDevices(Vec<String>),
    /// The PCI device that was chosen does not exist.
    #[error("{}: there is no such PCI device: lspci lists those that there are", .0.display())]
    NoSuchDevice(PathBuf),
    /// The device is no port that this program can use.
    #[error("PCI device {address}: {error}")]
    Device {
        /// Its address.
        address: String,
        /// What is wrong.
        error: NicDeviceError,
    },
    /// The kernel refuses access.
    #[error(
        "{}: no permission to {operation}: run the program as root, without lockdown of the kernel \
         (/sys/kernel/security/lockdown)",
        path.display()
    )]
    Permission {
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: PathBuf,
    },
    /// The system does not do something.
    #[error("{}: {operation}: {error}", path.display())]
    System {
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// Its answer.
        error: io::Error,
    },
    /// The device's memory does not begin as a window does.
    #[error("the window: {0}")]
    Window(HeaderError),
    /// The device's memory is not that of a NIC.
    #[cfg(feature = "direct")]
    #[error("the NIC's memory: {0}")]
    Direct(crate::direct::DirectError),
    /// The window is another port's than the device says.
    #[error("the device is port {}, and its window that of port {}: start the VM anew",
        device.number(), window.number())]
    OtherPort {
        /// The port in the device's description.
        device: PortId,
        /// The port in the window's header.
        window: PortId,
    },
    /// The library was built without this path.
    #[error("the path is {}: build the program with the feature `direct` of postern-guest",
        .0.name())]
    PathNotBuilt(CallPath),
    /// Something else lies at the gate's address.
    #[error(
        "address {GATE_AREA_GVA:#x}, where the gate has to be, is in use in this process: build it \
         without sanitizers, and map nothing there"
    )]
    GateAddress,
    /// The gate area cannot be made.
    #[error(
        "the gate area cannot be made executable: {0}; allow the program executable memory \
         (SELinux: execmem; no PR_SET_MDWE)"
    )]
    GateCode(io::Error),
    /// VMFUNC is refused on a vCPU.
    #[error(
        "views are not armed on CPU {cpu}: the first call raised SIGILL; {}",
        remedy(.missing)
    )]
    NotArmed {
        /// The CPU that was tried.
        cpu: usize,
        /// What the kernel does not use of what views need, `smep` or `smap`.
        missing: Vec<&'static str>,
    },
    /// VMCALL is not served on a vCPU.
    #[error(
        "CPU {cpu}: VMCALL is not served: the port was taken from this VM, or the VM runs on \
         another host now; start it anew"
    )]
    NoHypercall {
        /// The CPU that was tried.
        cpu: usize,
    },
    /// The NIC refuses requests from a vCPU.
    #[error("CPU {cpu}: {refused}")]
    Refused {
        /// The CPU that was tried.
        cpu: usize,
        /// The reason.
        refused: Refused,
    },
    /// The process that tried a call ended otherwise than expected.
    #[error("CPU {cpu}: the process that tried a call ended with wait status {status:#x}")]
    Trial {
        /// The CPU that was tried.
        cpu: usize,
        /// How it ended, as `waitpid` tells.
        status: i32,
    },
    /// The right to the I/O port of requests is refused.
    #[error(
        "no right to I/O port {port:#x}, by which requests go on the path exit-user: {error}; run \
         the program with CAP_SYS_RAWIO, on a kernel with CONFIG_X86_IOPL_IOPERM and without \
         lockdown"
    )]
    IoPort {
        /// The port.
        port: u16,
        /// The kernel's answer.
        error: io::Error,
    },
    /// The device has no doorbell.
    #[error(
        "PCI device {0} has no doorbell, so nothing can interrupt this VM: start it without \
         --nic-plain, or poll"
    )]
    NoDoorbell(String),
    /// Another driver has the device.
    #[error(
        "PCI device {address} is bound to the driver {driver}: unbind it (echo {address} > \
         /sys/bus/pci/drivers/{driver}/unbind), so that uio_pci_generic gets it, or poll"
    )]
    OtherDriver {
        /// The device's address.
        address: String,
        /// The driver.
        driver: String,
    },
    /// The kernel has no driver that hands interrupts to user space.
    #[error(
        "the kernel does not have the driver uio_pci_generic: modprobe uio_pci_generic \
         (CONFIG_UIO_PCI_GENERIC), or poll"
    )]
    NoUio,
    /// The device cannot interrupt, as far as the kernel knows.
    #[error(
        "uio_pci_generic finds no interrupt line of PCI device {0} (dmesg says more): boot the VM \
         with ACPI and without pci=noacpi, or poll"
    )]
    NoInterrupt(String),
    /// The port has no such queue.
    #[error("there is no queue {queue}: the port has queues 0 to {}", queues - 1)]
    NoSuchQueue {
        /// The number.
        queue: u32,
        /// Number of the port's queues.
        queues: u32,
    },
    /// Another `Nic` has the queue, in this process or another.
    #[error(
        "queue {0} of the port is in use by another thread or process: end it, or use another queue"
    )]
    QueueInUse(u32),
}

fn remedy(missing: &[&str]) -> String {
    match missing {
        [] => "remove hardware breakpoints (debuggers, perf record -e mem:), or, if the port was \
               taken from this VM, start it anew"
            .to_owned(),
        missing => format!(
            "the kernel runs without {}: remove no{} from its command line",
            missing.join(" and "),
            missing.join(" and no")
        ),
    }
}

impl Error {
    /// The error of an operation on a file.
    pub(super) fn of(operation: &'static str, path: impl Into<PathBuf>, error: io::Error) -> Error {
        let path = path.into();
        match error.kind() {
            io::ErrorKind::PermissionDenied => Error::Permission { operation, path },
            _ => Error::System {
                operation,
                path,
                error,
            },
        }
    }
}
