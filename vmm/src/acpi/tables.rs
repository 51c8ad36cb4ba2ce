//! The tables but for the DSDT.
#![deny(unsafe_code)]

use acpi_tables::fadt::{FADT, FADTBuilder, Flags};
use acpi_tables::gas::{AccessSize, AddressSpace, GAS};
use acpi_tables::madt::{
    EnabledStatus, IoApic, LocalInterruptController, MADT, ProcessorLocalApic,
};
use acpi_tables::mcfg::MCFG;
use acpi_tables::xsdt::XSDT;

use super::{OEM, OEM_REVISION, OEM_TABLE, Platform};
use crate::devices::PowerPorts;
use crate::layout;
use crate::pci::FIRST_ID;

/// A register of one byte in I/O space.
fn port(port: u16) -> GAS {
    GAS::new(
        AddressSpace::SystemIo,
        8,
        0,
        AccessSize::ByteAccess,
        u64::from(port),
    )
}

/// The fixed description, with the DSDT at that address.
pub(super) fn fadt(dsdt: u64) -> FADT {
    // "IA-PC Boot Architecture Flags": what there is not. That bit 1 is clear says that there is no
    // 8042.
    const NO_VGA: u16 = 1 << 2;
    const NO_CMOS_RTC: u16 = 1 << 5;
    let mut fadt = FADTBuilder::new(OEM, OEM_TABLE, OEM_REVISION)
        .dsdt_64(dsdt)
        .flag(Flags::HwReducedAcpi)
        .flag(Flags::ResetRegSup)
        .flag(Flags::Headless)
        .flag(Flags::Wbinvd);
    fadt.iapc_boot_arch = (NO_VGA | NO_CMOS_RTC).into();
    fadt.reset_reg = port(PowerPorts::RESET);
    fadt.reset_value = PowerPorts::RESET_VALUE;
    fadt.sleep_control_reg = port(PowerPorts::SLEEP_CONTROL);
    fadt.sleep_status_reg = port(PowerPorts::SLEEP_STATUS);
    fadt.finalize()
}

/// The interrupt controllers.
pub(super) fn madt(platform: &Platform) -> MADT {
    let local = LocalInterruptController::Address(layout::LOCAL_APIC.0 as u32);
    let mut madt = MADT::new(OEM, OEM_TABLE, OEM_REVISION, local);
    for number in 0..platform.vcpus.min(layout::MAX_VCPUS) as u8 {
        madt.add_structure(ProcessorLocalApic::new(
            number,
            number,
            EnabledStatus::Enabled,
        ));
    }
    madt.add_structure(IoApic::new(0, layout::IO_APIC.0 as u32, 0));
    if platform.own_pin.is_some() {
        let address = layout::PCI_IO_APIC.0 as u32;
        madt.add_structure(IoApic::new(FIRST_ID, address, layout::PCI_OWN_GSI));
    }
    madt
}

/// Where PCI configuration space is.
pub(super) fn mcfg() -> MCFG {
    let mut mcfg = MCFG::new(OEM, OEM_TABLE, OEM_REVISION);
    mcfg.add_ecam(layout::PCI_ECAM.0, 0, 0, 0);
    mcfg
}

/// The list of the others.
pub(super) fn xsdt(tables: &[u64]) -> XSDT {
    let mut xsdt = XSDT::new(OEM, OEM_TABLE, OEM_REVISION);
    for &table in tables {
        xsdt.add_entry(table);
    }
    xsdt
}
