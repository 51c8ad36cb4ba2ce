//! The NIC port of a VM as a PCI device, compatible with ivshmem (QEMU, "Device Specification for
//! Inter-VM shared memory device", revision 1).
//!
//! | BAR | what is behind it |
//! | --- | --- |
//! | 0 | registers ([`register`]), [`REGISTERS_SIZE`] bytes |
//! | 1 | MSI-X table and pending bits; only where the device has a doorbell |
//! | 2 | the port's window or, on [`CallPath::Direct`], the NIC's memory. A BAR's size is a power of two: only the first [`NicDevice::size`] bytes exist |
//!
//! What ivshmem cannot say is in a vendor-specific capability of its configuration space, which
//! never changes while the VM runs. Offsets are from the capability's first byte, numbers little
//! endian:
//!
//! | offset | bytes | what |
//! | --- | --- | --- |
//! | 0 | 1 | [`CAPABILITY_ID`] |
//! | 1 | 1 | pointer to the next capability |
//! | 2 | 1 | length of the capability, [`CAPABILITY_SIZE`]; a later one may be longer |
//! | 3 | 1 | 0 |
//! | 4 | 4 | [`MAGIC`] |
//! | 8 | 4 | [`ABI_VERSION`] of the host |
//! | 12 | 1 | the path, [`path_code`] |
//! | 13 | 1 | number of the port |
//! | 14 | 2 | number of MSI-X vectors; 0 where the device has no doorbell |
//! | 16 | 8 | bytes behind BAR 2 |
//! | 24 | 4 | slot of the NIC, for calls by gate and by VMCALL ([`platform::NIC_SLOT`]) |
//! | 28 | 2 | I/O port of requests on [`CallPath::ExitUser`] ([`platform::PORT_REQUEST`]), 0 on others |
//! | 30 | 2 | 0 |
//!
//! The first twelve bytes are the same in all versions, so that either side, older or newer, can say
//! why the two do not work together ([`NicDevice::find`]).
//!
//! # Interrupts
//!
//! The bell of the port's RX queue `q` is MSI-X vector `q`. While the driver has MSI-X off, all bells
//! set the interrupt status, and the INTx pin is asserted as long as status and mask have the bit. A
//! driver acknowledges that by a read of [`register::INTERRUPT_STATUS`], as ivshmem has it, or by
//! setting INTx Disable in the command register while the pin is asserted. The second way is
//! Postern's own: generic drivers (Linux: `uio_pci_generic`) mask INTx so, and know no other register.
//! A bell that rings while INTx is disabled interrupts when it is enabled.
//!
//! Bells of other ports are rung by a write to [`register::DOORBELL`]; on [`CallPath::ExitUser`] the
//! host rings them, behind each request.
//!
//! Linux shows configuration space to root as `/sys/bus/pci/devices/ADDRESS/config` and BAR 2 as
//! `resource2` (not cached) and `resource2_wc` beside it. Calls of [`CallPath::ExitUser`] need the
//! right to I/O ports (`ioperm`); VMCALL of [`CallPath::ExitKernel`] works at any CPL.
#![forbid(unsafe_code)]

use core::fmt;

use crate::platform::{self, CallPath};
use crate::port_word::PortWord;
use crate::window::{MAX_SENDERS, PortId};
use crate::{ABI_VERSION, PAGE_SIZE};

/// PCI vendor ID: Red Hat, of whom ivshmem is.
pub const VENDOR_ID: u16 = 0x1af4;
/// PCI device ID of ivshmem.
pub const DEVICE_ID: u16 = 0x1110;
/// PCI revision ID: that of ivshmem-plain and ivshmem-doorbell.
pub const REVISION_ID: u8 = 1;
/// PCI class code: memory controller, RAM.
pub const CLASS: [u8; 3] = [0x05, 0x00, 0x00];

/// Number of the BAR that has the registers.
pub const BAR_REGISTERS: usize = 0;
/// Number of the BAR that has the MSI-X table.
pub const BAR_MSIX: usize = 1;
/// Number of the BAR that is the window.
pub const BAR_WINDOW: usize = 2;

/// Size of BAR 0 in bytes.
pub const REGISTERS_SIZE: u64 = 2048;

/// Offsets of the registers in BAR 0. Each has 32 bits.
pub mod register {
    /// Interrupt mask: INTx is asserted while bit 0 is set here and in [`INTERRUPT_STATUS`]. The other
    /// bits do nothing, unless the whole is [`PULSE`].
    pub const INTERRUPT_MASK: u64 = 0;
    /// A value of [`INTERRUPT_MASK`] with a meaning that ivshmem does not have: INTx is asserted as with
    /// 1, INTx Disable in the command register has no effect, and a read of the status register of PCI
    /// acknowledges the interrupt.
    ///
    /// A driver that sets both this and INTx Disable has interrupts that take one access to configuration space: a generic
    /// handler (Linux: `pci_check_and_mask_intx`) finds INTx asserted, and disabled already, so that
    /// it writes nothing, and nobody has to enable it again. Each such access is an exit to the VMM.
    pub const PULSE: u32 = 3;
    /// Interrupt status: bit 0 is set when a peer rings while MSI-X is off. A read clears it, and so
    /// does INTx Disable in the command register, set while the pin is asserted.
    pub const INTERRUPT_STATUS: u64 = 4;
    /// Number of the port, read only.
    pub const IV_POSITION: u64 = 8;
    /// Doorbell, write only: number of the peer's port in the high half, its vector in the low half,
    /// which is the RX queue of that port whose guest is woken.
    ///
    /// It is there for drivers of ivshmem. [`BELLS`] do the same at less cost.
    pub const DOORBELL: u64 = 12;
    /// First of the bells, write only, which ivshmem does not have: a write of any value to the register
    /// of number `n` wakes the guest of the RX queue of that number in the whole NIC. KVM signals the
    /// bell by itself, and looks neither at the value nor at the instruction.
    pub const BELLS: u64 = 1024;
}

/// Capability ID "vendor specific" (PCI Local Bus Specification, "Capability IDs").
pub const CAPABILITY_ID: u8 = 9;
/// Length of the capability in bytes.
pub const CAPABILITY_SIZE: usize = 32;
/// What tells the capability from those of others: "PSTN", little endian.
pub const MAGIC: u32 = u32::from_le_bytes(*b"PSTN");

/// Bytes of a function's conventional configuration space.
pub const CONFIG_SIZE: usize = 256;
/// Bytes of configuration space that Linux shows to users that are not root: too few.
const CONFIG_HEADER: usize = 64;

/// The number that stands for a path in the capability.
pub const fn path_code(path: CallPath) -> u8 {
    match path {
        CallPath::Elisa => 1,
        CallPath::ElisaStrict => 2,
        CallPath::ExitKernel => 3,
        CallPath::ExitUser => 4,
        CallPath::Direct => 5,
    }
}

/// What the device says of the VM's NIC port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NicDevice {
    /// How requests reach the data plane.
    pub path: CallPath,
    /// The port.
    pub port: PortId,
    /// Bytes behind BAR 2.
    pub size: u64,
    /// MSI-X vectors; 0 where the device has no doorbell.
    pub vectors: u16,
}

impl NicDevice {
    /// The capability, without its ID and the pointer to the next one: what the VMM gives its bus.
    pub fn capability(&self) -> [u8; CAPABILITY_SIZE - 2] {
        let port_request = match self.path {
            CallPath::ExitUser => platform::PORT_REQUEST,
            _ => 0,
        };
        let mut whole = [0; CAPABILITY_SIZE];
        let mut put = |offset: usize, bytes: &[u8]| {
            whole[offset..offset + bytes.len()].copy_from_slice(bytes);
        };
        put(LENGTH, &[CAPABILITY_SIZE as u8]);
        put(MAGIC_AT, &MAGIC.to_le_bytes());
        put(ABI, &ABI_VERSION.to_le_bytes());
        put(PATH, &[path_code(self.path)]);
        put(PORT, &[self.port.number() as u8]);
        put(VECTORS, &self.vectors.to_le_bytes());
        put(SIZE, &self.size.to_le_bytes());
        put(SLOT, &platform::NIC_SLOT.to_le_bytes());
        put(REQUEST, &port_request.to_le_bytes());
        let mut body = [0; CAPABILITY_SIZE - 2];
        body.copy_from_slice(&whole[2..]);
        body
    }

    /// Finds the device in the configuration space of a PCI function, as far as it can be read.
    ///
    /// # Errors
    ///
    /// The function is another device, only its header can be read, or the host's version is another
    /// than the guest's.
    pub fn find(config: &[u8]) -> Result<NicDevice, NicDeviceError> {
        let id = |offset| bytes(config, offset).map(u16::from_le_bytes);
        if id(0) != Some(VENDOR_ID) || id(2) != Some(DEVICE_ID) {
            return Err(NicDeviceError::OtherDevice);
        }
        if config.len() <= CONFIG_HEADER {
            return Err(NicDeviceError::HeaderOnly);
        }
        let capability = capabilities(config)
            .find(|found| {
                found.first() == Some(&CAPABILITY_ID)
                    && bytes(found, MAGIC_AT).map(u32::from_le_bytes) == Some(MAGIC)
            })
            .ok_or(NicDeviceError::OtherIvshmem)?;
        let whole = || NicDeviceError::Malformed;
        let version = bytes(capability, ABI).map(u32::from_le_bytes);
        match version.ok_or_else(whole)? {
            ABI_VERSION => {}
            host => return Err(NicDeviceError::Version { host }),
        }
        if capability.get(LENGTH).copied() < Some(CAPABILITY_SIZE as u8) {
            return Err(NicDeviceError::Malformed);
        }
        let [code] = bytes(capability, PATH).ok_or_else(whole)?;
        let [port] = bytes(capability, PORT).ok_or_else(whole)?;
        let found = NicDevice {
            path: CallPath::ALL
                .into_iter()
                .find(|&path| path_code(path) == code)
                .ok_or_else(whole)?,
            port: PortId::from_number(port),
            size: bytes(capability, SIZE)
                .map(u64::from_le_bytes)
                .ok_or_else(whole)?,
            vectors: bytes(capability, VECTORS)
                .map(u16::from_le_bytes)
                .ok_or_else(whole)?,
        };
        // What follows from the rest: constants of this version.
        if capability.get(2..CAPABILITY_SIZE) != Some(&found.capability()[..]) {
            return Err(NicDeviceError::Malformed);
        }
        Ok(found)
    }

    /// The command line's word for the same port, with BAR 2 at `gpa`.
    pub const fn port_word(&self, gpa: u64) -> PortWord {
        PortWord {
            path: self.path,
            port: self.port,
            gpa,
            size: self.size,
        }
    }

    /// Size of BAR 2 in bytes.
    pub const fn bar_size(&self) -> u64 {
        let size = match self.size.checked_next_power_of_two() {
            Some(size) => size,
            None => 1 << 63,
        };
        if size < PAGE_SIZE { PAGE_SIZE } else { size }
    }
}

const LENGTH: usize = 2;
const MAGIC_AT: usize = 4;
const ABI: usize = 8;
const PATH: usize = 12;
const PORT: usize = 13;
const VECTORS: usize = 14;
const SIZE: usize = 16;
const SLOT: usize = 24;
const REQUEST: usize = 28;

const _: () = {
    assert!(REQUEST + 4 == CAPABILITY_SIZE);
    assert!(CAPABILITY_SIZE.is_multiple_of(4) && CAPABILITY_SIZE <= u8::MAX as usize);
    assert!(register::DOORBELL + 4 <= register::BELLS);
    assert!(register::BELLS + 4 * MAX_SENDERS as u64 <= REGISTERS_SIZE);
};

fn bytes<const N: usize>(from: &[u8], offset: usize) -> Option<[u8; N]> {
    from.get(offset..offset.checked_add(N)?)?.try_into().ok()
}

/// The capabilities of a function, each from its first byte on to the end of configuration space.
/// The list ends at a pointer into the header, and after as many as there is room for.
fn capabilities(config: &[u8]) -> impl Iterator<Item = &[u8]> {
    const STATUS: usize = 6;
    const POINTER: usize = 0x34;
    const MOST: usize = (CONFIG_SIZE - CONFIG_HEADER) / 4;
    let has_list = config.get(STATUS).is_some_and(|status| status & 0x10 != 0);
    let mut pointer = config.get(POINTER).copied().filter(|_| has_list);
    core::iter::from_fn(move || {
        let at = usize::from(pointer? & !3);
        let found = config.get(at..).filter(|_| at >= CONFIG_HEADER)?;
        pointer = found.get(1).copied();
        Some(found)
    })
    .take(MOST)
}

/// Why a PCI function is not a NIC port that this guest can use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NicDeviceError {
    /// Vendor or device ID is not that of ivshmem.
    OtherDevice,
    /// An ivshmem device without the capability: not Postern's.
    OtherIvshmem,
    /// No more than the header of configuration space can be read.
    HeaderOnly,
    /// The host was built for another [`ABI_VERSION`].
    Version {
        /// The host's version.
        host: u32,
    },
    /// The capability contradicts itself.
    Malformed,
}

impl fmt::Display for NicDeviceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NicDeviceError::OtherDevice => f.write_str("the PCI device is not an ivshmem device"),
            NicDeviceError::OtherIvshmem => {
                f.write_str("the ivshmem device is not a port of a Postern NIC")
            }
            NicDeviceError::HeaderOnly => f.write_str(
                "only the first 64 bytes of the device's configuration space can be read: run the \
                 program as root",
            ),
            NicDeviceError::Version { host } if *host > ABI_VERSION => write!(
                f,
                "the host has ABI version {host} and this program {ABI_VERSION}: build the program \
                 anew with the guest library of the host's version"
            ),
            NicDeviceError::Version { host } => write!(
                f,
                "the host has ABI version {host} and this program {ABI_VERSION}: update Postern on \
                 the host, or use a program of the host's version"
            ),
            NicDeviceError::Malformed => {
                f.write_str("the device's description of the NIC port contradicts itself")
            }
        }
    }
}

impl core::error::Error for NicDeviceError {}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn device(path: CallPath) -> NicDevice {
        NicDevice {
            path,
            port: PortId::from_number(7),
            size: 0x12_3000,
            vectors: 2,
        }
    }

    /// Configuration space with another capability in front of the device's.
    fn config(device: &NicDevice) -> [u8; CONFIG_SIZE] {
        let mut config = [0; CONFIG_SIZE];
        config[..2].copy_from_slice(&VENDOR_ID.to_le_bytes());
        config[2..4].copy_from_slice(&DEVICE_ID.to_le_bytes());
        config[6] = 0x10;
        config[0x34] = 0x40;
        config[0x40] = 0x11;
        config[0x41] = 0x4c;
        config[0x4c] = CAPABILITY_ID;
        config[0x4e..0x4c + CAPABILITY_SIZE].copy_from_slice(&device.capability());
        config
    }

    #[test]
    fn each_path_is_found() {
        for path in CallPath::ALL {
            let device = device(path);
            let config = config(&device);
            assert_eq!(NicDevice::find(&config), Ok(device));
            let request = u16::from_le_bytes([config[0x4c + 28], config[0x4c + 29]]);
            assert_eq!(request != 0, path == CallPath::ExitUser);
        }
        let word = device(CallPath::Direct).port_word(0xc000_0000);
        assert_eq!(word.to_string(), "postern.nic=direct,7,0xc0000000,0x123000");
    }

    #[test]
    fn another_version_is_told_from_another_device_in_both_directions() {
        let good = config(&device(CallPath::Elisa));
        let find = |change: &dyn Fn(&mut [u8; CONFIG_SIZE])| {
            let mut config = good;
            change(&mut config);
            NicDevice::find(&config).unwrap_err()
        };
        assert_eq!(find(&|config| config[2] = 0), NicDeviceError::OtherDevice);
        assert_eq!(find(&|config| config[6] = 0), NicDeviceError::OtherIvshmem);
        assert_eq!(
            find(&|config| config[0x50] = 0),
            NicDeviceError::OtherIvshmem
        );
        let newer = find(&|config| config[0x54] = ABI_VERSION as u8 + 1);
        assert!(newer.to_string().contains("build the program"), "{newer}");
        let older = find(&|config| config[0x54] = ABI_VERSION as u8 - 1);
        assert!(older.to_string().contains("update Postern"), "{older}");
        // A version with another layout is told by its version alone.
        let shorter = find(&|config| {
            config[0x54] = 99;
            config[0x4e] = 12;
            config[0x58..].fill(0xff);
        });
        assert_eq!(shorter, NicDeviceError::Version { host: 99 });
        for (offset, value) in [(12, 0), (12, 6), (28, 1), (24, 9), (2, 31)] {
            let error = find(&|config| config[0x4c + offset] = value);
            assert_eq!(error, NicDeviceError::Malformed, "{offset}");
        }
        assert_eq!(
            NicDevice::find(&good[..64]),
            Err(NicDeviceError::HeaderOnly)
        );
        assert_eq!(NicDevice::find(&[]), Err(NicDeviceError::OtherDevice));
    }

    #[test]
    fn the_bar_has_room_for_the_window() {
        let sized = |size| {
            NicDevice {
                size,
                ..device(CallPath::Elisa)
            }
            .bar_size()
        };
        assert_eq!([sized(1), sized(4096), sized(4097)], [4096, 4096, 8192]);
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_device_or_refused(
            mut config in proptest::collection::vec(any::<u8>(), 0..300),
            first: u8,
        ) {
            for (byte, id) in config.iter_mut().zip([0xf4, 0x1a, 0x10, 0x11]) {
                *byte = id;
            }
            if config.len() > 0x34 {
                config[6] |= 0x10;
                config[0x34] = first;
            }
            if let Ok(found) = NicDevice::find(&config) {
                prop_assert!(found.capability().len() < config.len());
            }
        }
    }
}
