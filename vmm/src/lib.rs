//! Virtual machine monitor of Postern, on KVM: one process runs one VM.
//!
//! | module | object |
//! | --- | --- |
//! | [`vm`] | a VM as a whole, put together and run |
//! | [`kvm`] | KVM of the host, and what the VMM needs of it |
//! | [`vcpu`] | a virtual processor and the loop that runs it |
//! | [`memory`], [`layout`] | memory slots; every guest-physical address that the VMM chooses |
//! | [`loader`], [`boot`], [`acpi`], [`cpuid`] | what a guest finds at its start |
//! | [`console`] | where the serial port's output goes and its input comes from; the terminal |
//! | [`control`] | the socket at which a running VM is asked for statistics and its console |
//! | [`devices`] | port I/O: serial port, power, panic, exit, snapshots, outbox, requests to the NIC |
//! | [`pci`], [`virtio`] | the PCI bus and its functions; virtio devices |
//! | [`nic`], [`view`] | the VM's port of the shared NIC, and the NIC's view on a vCPU |
//! | [`event_counters`], [`kvm_stats`], [`measurement`] | what is counted, and snapshots of it |
//! | [`run_report`], [`status`] | how a VM ended |
//! | [`size`], [`geometry`], [`socket_path`] | values that people write |
//! | [`topology`] | several VMs and a NIC, described in a TOML file |
//! | [`check`] | what the host has of what views need |
//! | [`self_test`] | what views rely on, asked of this machine |
//!
//! A VM is built and run in this order: [`vm::Builder::new`] reserves [`memory`] and loads the
//! kernel ([`loader`]); [`vm::Builder::connect`] adds a port of a [`nic`]; [`vm::Builder::build`]
//! writes what the guest finds at its start ([`boot`]), makes [`vcpu`]s and opens [`kvm_stats`];
//! [`vm::Vm::run`] runs a thread for each vCPU, whose exits go to [`devices`], until one ends the
//! VM, and returns a [`run_report`].
//!
//! # Example
//!
//! A topology is read as `postern up` reads it, changed, and written again.
//!
//! ```
//! use std::path::Path;
//!
//! use postern_vmm::topology::{Topology, VmConfig};
//!
//! let text = r#"
//! [nic]
//! ports = 2
//!
//! [[vm]]
//! name = "receiver"
//! kernel = "guest"
//! cmdline = "role=receive"
//! port = 1
//! path = "exit-user"
//! "#;
//! let mut topology = Topology::parse(text, Path::new("/vms"))?;
//! assert_eq!(topology.vms[0].kernel, Path::new("/vms/guest"));
//!
//! topology.vms.push(VmConfig::new("idle", "/vms/guest"));
//! let written = topology.to_toml()?;
//! assert_eq!(Topology::parse(&written, Path::new("/"))?, topology);
//!
//! // What cannot be is said with the line that it stands in.
//! let error = Topology::parse("[nic]\nports = 1\n", Path::new("/")).unwrap_err();
//! assert!(error.to_string().contains("2 to 256 ports"), "{error}");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

pub mod acpi;
pub mod bells;
pub mod boot;
pub mod check;
pub mod console;
pub mod control;
pub mod cpuid;
pub mod devices;
mod event;
pub mod event_counters;
pub mod geometry;
pub mod kvm;
pub mod kvm_stats;
pub mod layout;
pub mod loader;
pub mod measurement;
pub mod memory;
pub mod nic;
pub mod pci;
pub mod run_report;
pub mod self_test;
pub mod signals;
pub mod size;
pub mod socket_path;
pub mod status;
pub mod topology;
pub mod vcpu;
mod vcpu_state;
pub mod view;
pub mod virtio;
pub mod vm;
