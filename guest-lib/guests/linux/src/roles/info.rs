//! Role `info`.

use anyhow::Result;
use postern_abi::ABI_VERSION;
use postern_guest::linux::Port;

/// Plays the role.
pub fn run(port: &Port) -> Result<()> {
    let geometry = port.geometry();
    let mac: Vec<String> = port
        .mac()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    println!(
        "result role=info device={} path={} port={} ports={} queues={} mac={} abi={ABI_VERSION}",
        port.address(),
        port.path().name(),
        port.port().number(),
        geometry.ports(),
        geometry.queues(),
        mac.join(":"),
    );
    Ok(())
}
