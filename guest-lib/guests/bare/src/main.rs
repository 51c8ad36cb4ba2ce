//! The bare guest: a small kernel, and a program that runs on it at CPL 3 with a timer going.
//!
//! The VMM enters [`kernel`] at `_start`. It sets up its own descriptor tables and page tables,
//! then runs [`program`] in an address space of its own. Both are compiled from this one crate, and
//! both find themselves at the same addresses: `guest.ld` makes one image, the kernel makes a
//! second copy of it in other page frames, and each runs on its own. What the two say to each other
//! is in [`syscall`].
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
mod arch;
#[cfg(target_os = "none")]
mod console;
#[cfg(target_os = "none")]
mod exception;
#[cfg(target_os = "none")]
mod kernel;
#[cfg(target_os = "none")]
mod layout;
#[cfg(target_os = "none")]
mod program;
#[cfg(target_os = "none")]
mod syscall;

#[cfg(not(target_os = "none"))]
fn main() {
    eprintln!("error: this guest runs on bare metal alone: build it for x86_64-unknown-none");
    std::process::exit(1);
}
