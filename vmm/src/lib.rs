//! Virtual machine monitor of Postern, on KVM.
//!
//! A VM is built and run in this order: [`vm::Builder::new`] reserves [`memory`] and loads the
//! kernel ([`loader`]); [`vm::Builder::connect`] adds a port of a [`nic`]; [`vm::Builder::build`] writes what the guest finds at its start ([`boot`]),
//! makes [`vcpu`]s and readies [`statistics`]; [`vm::Vm::run`] runs a thread for each vCPU, whose
//! exits go to [`devices`], until one ends the VM, and returns a [`report`].

pub mod boot;
pub mod check;
pub mod counters;
pub mod cpuid;
pub mod devices;
pub mod geometry;
pub mod kvm;
pub mod layout;
pub mod loader;
pub mod memory;
pub mod nic;
pub mod recorder;
pub mod report;
pub mod signals;
pub mod size;
pub mod statistics;
pub mod status;
pub mod topology;
pub mod vcpu;
pub mod view;
pub mod vm;
