//! Role `storm`.

use anyhow::{Result, ensure};
use postern_guest::linux::Port;
use postern_guest::service::Service;

/// Plays the role.
pub fn run(port: &Port, peer: u32, queue: u32, rings: u64) -> Result<()> {
    let geometry = port.geometry();
    ensure!(
        peer < geometry.ports() && queue < geometry.queues(),
        "the NIC has {} ports of {} queues",
        geometry.ports(),
        geometry.queues()
    );
    let mut nic = port.queue(0)?;
    let number = peer * geometry.queues() + queue;
    for _ in 0..rings {
        nic.service().ring(number);
    }
    println!(
        "result role=storm path={} rings={}",
        port.path().name(),
        nic.service().rings()
    );
    Ok(())
}
