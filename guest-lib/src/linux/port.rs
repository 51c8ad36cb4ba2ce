//! The VM's NIC port, opened.

use std::path::Path as FilePath;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard};

use postern_abi::nic_device::{BAR_WINDOW, NicDevice};
use postern_abi::platform::{CallPath, NIC_SLOT, PORT_REQUEST};
use postern_abi::service::{OP_NOP, OP_TX, tx_flags};
use postern_abi::window::{Geometry, PortId};

use super::device::{DEVICES, Device};
use super::error::Error;
use super::interrupt::{Interrupt, NODES};
use super::mapping::Mapping;
use super::path::{Bells, Path, PathService};
use super::queue_lock::QueueLock;
use super::registers::Registers;
use super::sleeper::Sleeper;
use super::{gate_area, io_port, trial};
#[cfg(feature = "direct")]
use crate::direct::Direct;
use crate::nic::Nic;
use crate::ring::Window;
use crate::service::{Hypercall, PortRequest};

/// The VM's NIC port: its device is on, its memory is mapped, and a call was served from each CPU
/// that the opening thread may run on.
///
/// A process opens a device once; the mapping stays until it ends, and so do all values made of it.
/// See [the module](super) for threads, processes and vCPUs.
#[derive(Clone, Copy, Debug)]
pub struct Port {
    open: &'static Open,
}

/// A device that this process has opened.
#[derive(Debug)]
struct Open {
    device: Device,
    /// The window and the path to the switch, both plain values. (They are not `Sync` by
    /// themselves.)
    mapped: Mutex<(Window, Path)>,
    /// Where bells are rung, if the device has a doorbell.
    registers: Option<Registers>,
}

/// The devices that this process has opened, by their memory's files.
static OPENED: Mutex<Vec<(PathBuf, &'static Open)>> = Mutex::new(Vec::new());

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is in there is whole at each instruction.
    mutex
        .lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner())
}

impl Port {
    /// Opens the VM's only NIC port: finds its PCI device, maps window, registers and gate area, and
    /// tries a call from each CPU.
    ///
    /// # Errors
    ///
    /// [`Error`]: there is no port or more than one, or it cannot be used from here: no permission,
    /// another ABI version, an address that is taken, a kernel without what is needed. All but
    /// [`Error::QueueInUse`], [`Error::NoSuchQueue`] and those of [`Port::sleeper`] are possible.
    #[doc(alias = "Device::open")]
    pub fn open() -> Result<Port, Error> {
        Port::open_device(Device::find(FilePath::new(DEVICES))?)
    }

    /// Opens the NIC port at a PCI address, such as `0000:00:03.0`.
    ///
    /// # Errors
    ///
    /// As [`Port::open`].
    pub fn open_at(address: &str) -> Result<Port, Error> {
        Port::open_device(Device::at(&FilePath::new(DEVICES).join(address))?)
    }

    /// Opens the NIC port that is a device of some folder.
    ///
    /// # Errors
    ///
    /// As [`Port::open`].
    pub fn open_device(device: Device) -> Result<Port, Error> {
        let mut opened = lock(&OPENED);
        let resource = device.resource(BAR_WINDOW);
        if let Some(&(_, open)) = opened.iter().find(|(of, _)| *of == resource) {
            return Ok(Port { open });
        }
        device.enable()?;
        let description = device.description();
        let mapping = Mapping::new(&device.open_memory()?, description.size)
            .map_err(|error| Error::of("map the device's memory", &resource, error))?;
        let (window, path) = take_into_use(&mapping, description)?;
        if matches!(path, Path::Gate(_) | Path::Hypercall(_)) {
            trial::on_each_cpu(path, window.request(OP_NOP))?;
        }
        let registers = match description.vectors {
            0 => None,
            _ => Some(Registers::map(&device)?),
        };
        for mapping in [
            Some(&mapping),
            registers.as_ref().map(|(mapping, _)| mapping),
        ] {
            let kept = mapping.map_or(Ok(()), Mapping::keep_from_children);
            kept.map_err(|error| Error::of("keep the memory from children", &resource, error))?;
        }
        // From here on nothing fails: the window, the path and the registers are given out.
        mapping.leak();
        let registers = registers.map(|(mapping, registers)| {
            mapping.leak();
            registers
        });
        let mapped = Mutex::new((window, path));
        let open = Box::leak(Box::new(Open {
            device,
            mapped,
            registers,
        }));
        opened.push((resource, open));
        Ok(Port { open })
    }

    /// The device's address on the PCI bus.
    pub fn address(&self) -> &'static str {
        self.open.device.address()
    }

    /// What the device says of the port.
    pub fn description(&self) -> NicDevice {
        self.open.device.description()
    }

    /// How requests reach the NIC.
    pub fn path(&self) -> CallPath {
        self.description().path
    }

    /// The port.
    pub fn port(&self) -> PortId {
        self.description().port
    }

    /// The port's MAC address.
    pub fn mac(&self) -> [u8; 6] {
        lock(&self.open.mapped).0.mac()
    }

    /// The NIC's numbers of ports and queues and sizes of rings.
    pub fn geometry(&self) -> Geometry {
        lock(&self.open.mapped).0.geometry()
    }

    /// Has the host give memory for the whole window now, so that no frame waits for it later.
    pub fn populate(&self) {
        lock(&self.open.mapped).0.populate();
    }

    /// Gives the calling thread the right to make requests. Only exit-user needs it, and only in a
    /// thread that neither asked for a queue itself nor was started by one that had.
    ///
    /// # Errors
    ///
    /// [`Error::IoPort`].
    pub fn allow_thread(&self) -> Result<(), Error> {
        match self.path() {
            CallPath::ExitUser => io_port::allow(PORT_REQUEST),
            _ => Ok(()),
        }
    }

    /// Opens one TX queue of the port and the RX queue of the same number, until the `Nic` is
    /// dropped. Frames that a former user of the queue had written and not sent are forgotten.
    ///
    /// # Errors
    ///
    /// [`Error::NoSuchQueue`], [`Error::QueueInUse`], [`Error::IoPort`], or that the device's file
    /// cannot be opened again.
    pub fn queue(&self, queue: u32) -> Result<Nic<PathService>, Error> {
        let queues = self.geometry().queues();
        if queue >= queues {
            return Err(Error::NoSuchQueue { queue, queues });
        }
        let (service, window) = self.service(queue, 1)?;
        Ok(Nic::queue(service, window, queue))
    }

    /// Opens TX queue 0 and all RX queues of the port, until the `Nic` is dropped: what a program
    /// needs that sends and receives in one thread.
    ///
    /// # Errors
    ///
    /// As [`Port::queue`]; [`Error::QueueInUse`] has 0, whichever queue is in use.
    pub fn all_queues(&self) -> Result<Nic<PathService>, Error> {
        let (service, window) = self.service(0, self.geometry().queues())?;
        Ok(Nic::new(service, window))
    }

    /// What waits for frames of one `Nic` without polling: each `Nic` that is waited for by itself
    /// needs one of its own. The first one in a VM gives the device to the driver uio_pci_generic.
    ///
    /// # Errors
    ///
    /// [`Error::NoDoorbell`], [`Error::OtherDriver`], [`Error::NoUio`], [`Error::NoInterrupt`], or
    /// that a file of the device cannot be opened.
    pub fn sleeper(&self) -> Result<Sleeper, Error> {
        let Some(registers) = self.open.registers else {
            return Err(Error::NoDoorbell(self.address().to_owned()));
        };
        let interrupt = Interrupt::open(&self.open.device, FilePath::new(NODES))?;
        // A device without an interrupt line says so now, not by never waking anybody.
        interrupt.take()?;
        registers.unmask();
        Ok(Sleeper::new(interrupt))
    }

    /// Locks queues from `first` on, and gives what a `Nic` of them is made of.
    fn service(&self, first: u32, count: u32) -> Result<(PathService, Window), Error> {
        let queue_lock = QueueLock::new(&self.open.device, self.geometry(), first, count)?;
        self.allow_thread()?;
        let (window, path) = *lock(&self.open.mapped);
        let mut path = path.of_queue(first);
        // A former user's call may have been aborted between the NIC's position and the window's.
        path.call(window.request(OP_TX), 0, tx_flags(first, false));
        let service = PathService {
            path,
            bells: Bells::new(self.open.registers),
            _lock: queue_lock,
        };
        Ok((service, window))
    }
}

/// Checks a device's memory, and prepares the path to the switch.
fn take_into_use(mapping: &Mapping, description: NicDevice) -> Result<(Window, Path), Error> {
    let (base, size) = (mapping.base(), mapping.size());
    let path = match description.path {
        CallPath::Elisa | CallPath::ElisaStrict => Path::Gate(gate_area::gate(NIC_SLOT)?),
        // SAFETY: the VMM says, in the device's configuration space, that it serves this.
        CallPath::ExitKernel => Path::Hypercall(unsafe { Hypercall::new(NIC_SLOT) }),
        CallPath::ExitUser => {
            io_port::allow(PORT_REQUEST)?;
            // SAFETY: the VMM says that it serves this. A thread without the right to the port gets
            // SIGSEGV.
            Path::PortRequest(unsafe { PortRequest::new() })
        }
        #[cfg(feature = "direct")]
        CallPath::Direct => {
            // SAFETY: the mapping is page aligned and of that size, and no reference to it exists.
            // `open_device` drops it only if it drops what is made here.
            let direct = unsafe { Direct::new(base, size, description.port) };
            let (direct, window) = direct.map_err(Error::Direct)?;
            return Ok((window, Path::Direct(direct)));
        }
        #[cfg(not(feature = "direct"))]
        CallPath::Direct => return Err(Error::PathNotBuilt(CallPath::Direct)),
    };
    // SAFETY: as above; at least a page is mapped.
    let window = unsafe { Window::new(base, size) }.map_err(Error::Window)?;
    match window.port() == description.port {
        true => Ok((window, path)),
        false => Err(Error::OtherPort {
            device: description.port,
            window: window.port(),
        }),
    }
}
