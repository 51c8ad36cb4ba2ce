//! Sets `cfg(loom)`, by which the switch uses the atomics of src/atomics.rs.

fn main() {
    println!("cargo::rustc-cfg=loom");
    let features = r#""std", "attack-lock", "attack-no-secret", "without-policy""#;
    println!("cargo::rustc-check-cfg=cfg(feature, values({features}))");
    println!("cargo::rerun-if-changed=build.rs");
}
