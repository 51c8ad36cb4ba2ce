//! Where a figure comes from: the label that every figure of a machine carries.
#![forbid(unsafe_code)]

use core::arch::x86_64::__cpuid;

/// Bit of CPUID leaf 1, ECX: the CPU is a virtual one, a hypervisor is below.
pub const CPUID_HYPERVISOR: u32 = 1 << 31;

/// Origin of a measured figure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The emulated machine: instruction counts are exact, there are no times.
    Emulated,
    /// A CPU that a hypervisor below this host gives out. A VMFUNC or VM exit may cost a trip into
    /// that hypervisor, which no counter of this host shows: nothing follows for a real CPU.
    Nested,
    /// The CPU of this host.
    Hardware,
}

impl Source {
    /// All of them.
    pub const ALL: [Source; 3] = [Source::Emulated, Source::Nested, Source::Hardware];

    /// The label of a figure.
    pub const fn name(self) -> &'static str {
        match self {
            Source::Emulated => "emulated",
            Source::Nested => "nested",
            Source::Hardware => "hardware",
        }
    }

    /// The label of what is measured on a machine: `emulated` says that it is the emulated one
    /// ([`crate::emulated`]), `hypervisor` that its CPUID shows one below.
    pub const fn decide(emulated: bool, hypervisor: bool) -> Source {
        match (emulated, hypervisor) {
            (true, _) => Source::Emulated,
            (false, true) => Source::Nested,
            (false, false) => Source::Hardware,
        }
    }

    /// The label of what is measured on this CPU, which is not the emulated machine's.
    pub fn of_this_cpu() -> Source {
        Source::decide(false, hypervisor_below())
    }
}

/// Whether CPUID shows a hypervisor below this host.
pub fn hypervisor_below() -> bool {
    // Leaf 1 exists on every x86-64 CPU.
    __cpuid(1).ecx & CPUID_HYPERVISOR != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hypervisor_below_is_never_called_hardware() {
        assert_eq!(Source::decide(false, true), Source::Nested);
        assert_eq!(Source::decide(false, false), Source::Hardware);
        // The emulated machine is told by its own ports, whatever its CPUID says.
        assert_eq!(Source::decide(true, true), Source::Emulated);
        assert_eq!(Source::decide(true, false), Source::Emulated);
        let expected = match hypervisor_below() {
            true => Source::Nested,
            false => Source::Hardware,
        };
        assert_eq!(Source::of_this_cpu(), expected);
    }

    #[test]
    fn labels_differ() {
        assert_eq!(
            Source::ALL.map(Source::name),
            ["emulated", "nested", "hardware"]
        );
    }
}
