//! Sets `cfg(loom)`, by which the switch uses the atomics of src/atomics.rs.

fn main() {
    println!("cargo::rustc-cfg=loom");
    let features = r#""std", "view", "without-policy""#;
    let attacks = r#""attack-lock", "attack-no-secret", "attack-caller-state""#;
    println!("cargo::rustc-check-cfg=cfg(feature, values({features}, {attacks}))");
    println!("cargo::rerun-if-changed=build.rs");
}
