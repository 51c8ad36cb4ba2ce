//! The DSDT: devices that a guest cannot find by itself.
#![deny(unsafe_code)]

use acpi_tables::Aml;
use acpi_tables::aml::{
    AddressSpace, AddressSpaceCacheable, Device, EISAName, IO, Interrupt, Memory32Fixed, Method,
    Name, Package, PackageBuilder, Path, ResourceTemplate, Scope, ZERO,
};
use acpi_tables::sdt::Sdt;
use postern_abi::platform;

use super::{OEM, OEM_REVISION, OEM_TABLE, Platform};
use crate::devices::{PanicPort, PowerPorts, Serial};
use crate::layout;

/// Revision 2: integers are 64 bits wide.
const REVISION: u8 = 2;

/// The table's bytes.
pub(super) fn dsdt(platform: &Platform) -> Vec<u8> {
    let mut table = Sdt::new(*b"DSDT", 36, REVISION, OEM, OEM_TABLE, OEM_REVISION);
    let mut body = Vec::new();
    soft_off(&mut body);
    serial(&mut body);
    panic(&mut body);
    if platform.pci {
        pci_root(&mut body, platform.own_pin);
    }
    table.append_slice(&body);
    table.update_checksum();
    table.as_slice().to_vec()
}

/// S5, soft off: what the sleep control register takes for it.
fn soft_off(body: &mut Vec<u8>) {
    Name::new(
        Path::new("_S5_"),
        &Package::new(vec![&PowerPorts::SOFT_OFF, &ZERO, &ZERO, &ZERO]),
    )
    .to_aml_bytes(body);
}

/// A device on the system's bus, with what it says of itself.
fn device(body: &mut Vec<u8>, name: &str, objects: &[(&str, &dyn Aml)]) {
    let objects: Vec<Name> = objects
        .iter()
        .map(|&(name, value)| Name::new(Path::new(name), value))
        .collect();
    let objects: Vec<&dyn Aml> = objects.iter().map(|object| object as _).collect();
    let device = Device::new(Path::new(name), objects);
    Scope::new(Path::new("_SB_"), vec![&device]).to_aml_bytes(body);
}

/// COM1, a 16550A.
fn serial(body: &mut Vec<u8>) {
    let first = platform::PORT_SERIAL;
    let line = u32::from(platform::IRQ_SERIAL);
    device(
        body,
        "COM1",
        &[
            ("_HID", &EISAName::new("PNP0501")),
            ("_UID", &ZERO),
            (
                "_CRS",
                &ResourceTemplate::new(vec![
                    &IO::new(first, first, 1, Serial::PORTS as u8),
                    &Interrupt::new(true, true, false, false, line),
                ]),
            ),
        ],
    );
}

/// The panic device, as Linux's pvpanic-mmio finds it (QEMU: docs/specs/pvpanic).
fn panic(body: &mut Vec<u8>) {
    /// Present, enabled, shown, working (ACPI 6.5, "_STA").
    const WORKS: u8 = 0xf;
    let port = PanicPort::PORT;
    device(
        body,
        "PEVT",
        &[
            ("_HID", &"QEMU0001"),
            ("_STA", &WORKS),
            (
                "_CRS",
                &ResourceTemplate::new(vec![&IO::new(port, port, 1, 1)]),
            ),
        ],
    );
}

/// Name of the interrupt link.
const LINK: &str = "LNKA";

/// The interrupt link that the pin which is not shared is routed to. A link can say that its interrupt
/// is edge-triggered. There is nothing to choose of it (ACPI 6.5, "_PRS", "_SRS", "_DIS").
fn link(body: &mut Vec<u8>) {
    let edge = Interrupt::new(true, true, false, false, layout::PCI_OWN_GSI);
    let interrupt = ResourceTemplate::new(vec![&edge]);
    let [present, possible] = ["_CRS", "_PRS"].map(|name| Name::new(Path::new(name), &interrupt));
    let id = Name::new(Path::new("_HID"), &EISAName::new("PNP0C0F"));
    let number = Name::new(Path::new("_UID"), &ZERO);
    let set = Method::new(Path::new("_SRS"), 1, false, Vec::new());
    let disable = Method::new(Path::new("_DIS"), 0, false, Vec::new());
    let objects: Vec<&dyn Aml> = vec![&id, &number, &present, &possible, &set, &disable];
    let device = Device::new(Path::new(LINK), objects);
    Scope::new(Path::new("_SB_"), vec![&device]).to_aml_bytes(body);
}

/// The root of PCI bus 0, with its windows and the interrupt lines of its devices, and the range of
/// its configuration space, which the PCI firmware specification ("MCFG Table Description") wants
/// reserved by a device of the system.
fn pci_root(body: &mut Vec<u8>, own_pin: Option<usize>) {
    let (ecam, size) = (layout::PCI_ECAM.0 as u32, layout::PCI_ECAM_SIZE as u32);
    device(
        body,
        "ECAM",
        &[
            ("_HID", &EISAName::new("PNP0C02")),
            (
                "_CRS",
                &ResourceTemplate::new(vec![&Memory32Fixed::new(true, ecam, size)]),
            ),
        ],
    );
    if own_pin.is_some() {
        link(body);
    }
    // Address of the device, pin, the line's controller and the index of its resource, or 0 and a GSI
    // (ACPI 6.5, "_PRT").
    let (own, mut routes) = (Path::new(LINK), PackageBuilder::new());
    for device in 0..layout::PCI_DEVICES {
        const INTA: u8 = 0;
        let address = (device as u32) << 16 | 0xffff;
        let gsi = layout::pci_intx_gsi(device);
        let is_own = own_pin == Some(device);
        let (source, index): (&dyn Aml, &dyn Aml) =
            if is_own { (&own, &ZERO) } else { (&ZERO, &gsi) };
        routes.add_element(&Package::new(vec![&address, &INTA, source, index]));
    }
    let buses = AddressSpace::<u16>::new_bus_number(0, 0);
    let low = AddressSpace::<u32>::new_memory(
        AddressSpaceCacheable::NotCacheable,
        true,
        layout::PCI_LOW.0 as u32,
        (layout::PCI_ECAM.0 - 1) as u32,
        None,
    );
    let high = AddressSpace::<u64>::new_memory(
        AddressSpaceCacheable::PreFetchable,
        true,
        layout::PCI_HIGH.0,
        layout::PCI_HIGH_END.0 - 1,
        None,
    );
    let windows = ResourceTemplate::new(vec![&buses, &low, &high]);
    device(
        body,
        "PCI0",
        &[
            ("_HID", &EISAName::new("PNP0A08")),
            ("_CID", &EISAName::new("PNP0A03")),
            ("_SEG", &ZERO),
            ("_BBN", &ZERO),
            ("_UID", &ZERO),
            ("_CRS", &windows),
            ("_PRT", &routes),
        ],
    );
}
