//! Laboratories that tests need, made when the first one does.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use anyhow::{Context, Result};

use super::machine::{Boot, Kvm};
use crate::machine::Machine;
use crate::setup::{Flavour, Lab, Programs};

/// Laboratories by kernel.
#[derive(Default)]
pub struct Labs(HashMap<Flavour, Lab>);

impl Labs {
    /// None yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// The one with this kernel.
    ///
    /// # Errors
    ///
    /// It cannot be made.
    pub fn with(&mut self, flavour: Flavour) -> Result<&mut Lab> {
        Ok(match self.0.entry(flavour) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => entry.insert(Lab::prepare(flavour)?),
        })
    }

    /// Makes what a test boots.
    ///
    /// # Errors
    ///
    /// It cannot be made.
    pub fn prepare(&mut self, boot: Boot) -> Result<()> {
        let lab = self.with(boot.flavour)?;
        match boot.kvm {
            Kvm::Weakened(_) => lab.prepare_weakened(),
            Kvm::None | Kvm::Stock | Kvm::Patched(_) => Ok(()),
        }
    }

    /// A machine that boots this, and the programs for it.
    ///
    /// # Errors
    ///
    /// It was not made before.
    pub fn machine(&self, boot: Boot) -> Result<(Machine<'_>, &Programs)> {
        let lab = self
            .0
            .get(&boot.flavour)
            .context("the kernel is not made ready")?;
        let machine = match boot.kvm {
            Kvm::None => Machine::new(&lab.platform, &lab.tree.kernel),
            Kvm::Stock => lab.stock_machine(),
            Kvm::Patched(parameters) => lab.machine(parameters),
            Kvm::Weakened(parameters) => lab.weakened_machine(parameters)?,
        };
        Ok((machine, &lab.programs))
    }
}
