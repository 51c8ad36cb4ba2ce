//! What a process of a guest may not do, by name.

use clap::ValueEnum;

/// Something that a process may not do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Misuse {
    /// VMFUNC to the NIC's own view, past the gate.
    VmfuncPastGate,
    /// VMFUNC with an index that no EPTP list has.
    VmfuncNoIndex,
    /// VMFUNC with the number of a function that does not exist.
    VmfuncNoFunction,
    /// VMFUNC to the gate's view, but not from the gate area.
    VmfuncElsewhere,
    /// VMFUNC into the middle of the gate.
    GateMiddle,
    /// The gate's page, called in the default view.
    JumpToGate,
    /// A call, single-stepped.
    TrapFlag,
    /// Reading the view's EPTP list.
    ReadList,
    /// Reading the view's stack.
    ReadStack,
    /// Reading the page that says who calls.
    ReadCallPage,
    /// Reading the service's code.
    ReadImage,
    /// Reading the switch's state.
    ReadState,
}

impl Misuse {
    /// The signal of which the process dies.
    pub fn signal(self) -> i32 {
        match self {
            Misuse::VmfuncPastGate
            | Misuse::VmfuncNoIndex
            | Misuse::VmfuncNoFunction
            | Misuse::VmfuncElsewhere
            | Misuse::GateMiddle
            | Misuse::TrapFlag => libc::SIGILL,
            Misuse::JumpToGate
            | Misuse::ReadList
            | Misuse::ReadStack
            | Misuse::ReadCallPage
            | Misuse::ReadImage
            | Misuse::ReadState => libc::SIGSEGV,
        }
    }

    /// The name that the command line has for it.
    pub fn name(self) -> String {
        let value = self.to_possible_value();
        value
            .map(|value| value.get_name().to_owned())
            .unwrap_or_default()
    }
}
