//! Virtual machine monitor of Postern, on KVM: one process runs one VM.
//!
//! | module | object |
//! | --- | --- |
//! | [`vm`] | a VM as a whole, put together and run |
//! | [`kvm`] | KVM of the host, and what the VMM needs of it |
//! | [`vcpu`] | a virtual processor and the loop that runs it |
//! | [`memory`], [`layout`] | memory slots; every guest-physical address that the VMM chooses |
//! | [`loader`], [`boot`], [`cpuid`] | what a guest finds at its start |
//! | [`devices`] | port I/O: console, exit, snapshots, outbox, requests to the NIC |
//! | [`nic`], [`view`] | the VM's port of the shared NIC, and the NIC's view on a vCPU |
//! | [`event_counters`], [`kvm_stats`], [`measurement`] | what is counted, and snapshots of it |
//! | [`run_report`], [`status`] | how a VM ended |
//! | [`size`], [`geometry`], [`socket_path`] | values that people write |
//! | [`topology`] | several VMs and a NIC, described in a TOML file |
//! | [`check`] | what the host has of what views need |
//!
//! A VM is built and run in this order: [`vm::Builder::new`] reserves [`memory`] and loads the
//! kernel ([`loader`]); [`vm::Builder::connect`] adds a port of a [`nic`]; [`vm::Builder::build`]
//! writes what the guest finds at its start ([`boot`]), makes [`vcpu`]s and opens [`kvm_stats`];
//! [`vm::Vm::run`] runs a thread for each vCPU, whose exits go to [`devices`], until one ends the
//! VM, and returns a [`run_report`].

pub mod boot;
pub mod check;
pub mod cpuid;
pub mod devices;
pub mod event_counters;
pub mod geometry;
pub mod kvm;
pub mod kvm_stats;
pub mod layout;
pub mod loader;
pub mod measurement;
pub mod memory;
pub mod nic;
pub mod run_report;
pub mod signals;
pub mod size;
pub mod socket_path;
pub mod status;
pub mod topology;
pub mod vcpu;
pub mod view;
pub mod vm;
