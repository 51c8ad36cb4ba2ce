//! Links the guest as `guest.ld` says, at fixed addresses.

use std::path::PathBuf;
use std::{env, fs};

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=guest.ld");
    if env::var("CARGO_CFG_TARGET_OS").as_deref() == Ok("none") {
        // Beside what is built with it, which may outlive the checkout.
        let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets it"));
        let script = out.join("guest.ld");
        fs::copy("guest.ld", &script).expect("copy guest.ld");
        println!("cargo::rustc-link-arg-bins=-T{}", script.display());
        // The target's default is a position-independent executable. The code stays so; the file
        // has one place, and no relocations are left.
        println!("cargo::rustc-link-arg-bins=--no-pie");
        println!("cargo::rustc-link-arg-bins=-zmax-page-size=4096");
    }
}
