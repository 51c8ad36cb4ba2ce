//! Kinds of threads.
#![deny(unsafe_code)]

use std::fmt;

/// What a thread does, and so what it may ask of the kernel (see `table.rs`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Kind {
    /// Starts the others once a process is confined. It takes nothing from a guest.
    Starter,
    /// Waits for signals and tells others of them.
    Signals,

    /// VMM: the main thread, which waits for the VM's end and writes its report.
    Main,
    /// VMM: runs a vCPU and, on its exits, device models.
    Vcpu,
    /// VMM: moves bytes between the guest's console and a terminal, file, socket or pseudo-terminal.
    Console,
    /// VMM: waits for the end of a NIC port's tenancy.
    NicEnd,
    /// VMM: interrupts the guest when somebody rings a bell of its NIC port.
    Bells,
    /// VMM: serves queues of a disk.
    Disk,
    /// VMM: serves queues of a network or socket device, with a TAP or vhost.
    Net,
    /// VMM: serves the queue of an entropy device.
    Rng,
    /// VMM: answers questions about a running VM at a socket.
    Control,

    /// Owner of a NIC: serves clients and administrators.
    NicServer,
    /// Owner: the process that keeps a NIC for its next owner.
    NicKeeper,
    /// Owner: moves frames between a port and an interface.
    Uplink,
    /// Owner: takes frames from a port that others are mirrored to.
    Capture,
    /// Owner: writes frames to a capture file.
    CaptureFile,
    /// Owner: writes the NIC's clock.
    Clock,
}

impl Kind {
    /// All kinds.
    pub const ALL: [Kind; 17] = [
        Kind::Starter,
        Kind::Signals,
        Kind::Main,
        Kind::Vcpu,
        Kind::Console,
        Kind::NicEnd,
        Kind::Bells,
        Kind::Disk,
        Kind::Net,
        Kind::Rng,
        Kind::Control,
        Kind::NicServer,
        Kind::NicKeeper,
        Kind::Uplink,
        Kind::Capture,
        Kind::CaptureFile,
        Kind::Clock,
    ];

    /// Its name, for people.
    pub const fn name(self) -> &'static str {
        match self {
            Kind::Starter => "starter",
            Kind::Signals => "signals",
            Kind::Main => "main",
            Kind::Vcpu => "vCPU",
            Kind::Console => "console",
            Kind::NicEnd => "NIC end",
            Kind::Bells => "bells",
            Kind::Disk => "disk",
            Kind::Net => "network",
            Kind::Rng => "entropy",
            Kind::Control => "control",
            Kind::NicServer => "NIC server",
            Kind::NicKeeper => "NIC keeper",
            Kind::Uplink => "uplink",
            Kind::Capture => "capture",
            Kind::CaptureFile => "capture file",
            Kind::Clock => "clock",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
