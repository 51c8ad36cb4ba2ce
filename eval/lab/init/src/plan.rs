//! What the machine is to do.

use serde::{Deserialize, Serialize};

/// The plan of one boot: everything that is done in it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// Kernel modules, in the order of loading.
    pub modules: Vec<Module>,
    /// Number of disks to wait for once the modules are loaded: `/dev/sda` and so on.
    pub disks: usize,
    /// Commands, one after another; a failing one does not keep the next from running.
    pub commands: Vec<Command>,
    /// Run a shell on the console at the end.
    pub shell: bool,
}

/// A kernel module.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Module {
    /// Its file in the machine.
    pub path: String,
    /// Parameters, separated by blanks.
    pub params: String,
}

/// A command line and what is wanted of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Command {
    /// Working directory; it is made if it does not exist.
    pub dir: String,
    /// Script for the shell.
    pub script: String,
    /// Files to send back afterwards; relative ones are in `dir`.
    pub fetch: Vec<String>,
    /// Seconds of the machine's own clock after which the command is killed.
    pub timeout_s: u64,
}
