//! Linker arguments of the image: its script, with the address from the ABI.

use std::path::PathBuf;
use std::{env, fs};

use postern_abi::view::IMAGE_GVA;

fn main() {
    println!("cargo::rerun-if-changed=image.ld.in");
    let template = fs::read_to_string("image.ld.in").expect("read image.ld.in");
    let script = template.replace("@IMAGE_GVA@", &format!("{IMAGE_GVA:#x}"));
    let path = PathBuf::from(env::var_os("OUT_DIR").expect("OUT_DIR")).join("image.ld");
    fs::write(&path, script).expect("write image.ld");

    println!("cargo::rustc-link-arg-bins=--script={}", path.display());
    // The image is linked at its final address, so that nothing is left to relocate.
    println!("cargo::rustc-link-arg-bins=--no-pie");
    println!("cargo::rustc-link-arg-bins=--build-id=none");
}
