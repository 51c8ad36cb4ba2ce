//! Stations in the NIC's forwarding database: those that people have told it, and those that it has
//! learned.
#![forbid(unsafe_code)]

use std::sync::atomic::Ordering::Relaxed;

use postern_abi::window::PortId;
use postern_nic_client::control::MacInfo;
use postern_nic_client::mac::Mac;
use postern_switch::fdb::{Learned, STATIC, Station};
use postern_switch::tenant::mac_word;

use super::error::RequestError;
use super::nic::ServedNic;
use super::saved_state::{SavedState, StateSaver};

/// Most stations that people can tell a NIC.
const MAX_STATIONS: usize = 4096;

/// Puts the stations of a port that people have told into the table again.
pub(super) fn pin_again(nic: &ServedNic, state: &SavedState, port: PortId) {
    let switch = nic.switch();
    let told = state.stations.iter();
    for (vlan, mac, _) in told.filter(|told| told.2 == port.number()) {
        let station = Station::new((*vlan).into(), mac_word(mac.0));
        switch.state().fdb.pin(switch.key(), station, port);
    }
    switch.forget_shadowed();
    // Frames to them may have been flooded meanwhile, and their routes cached.
    switch.state().generation.fetch_add(1, Relaxed);
}

/// All stations, by port.
pub(super) fn list(nic: &ServedNic) -> Vec<MacInfo> {
    let switch = nic.switch();
    let entries = switch.state().fdb.entries(switch.key());
    let mut list: Vec<_> = entries
        .map(|entry| {
            let [a, b, c, d, e, f, ..] = entry.station.mac().to_le_bytes();
            MacInfo {
                mac: Mac([a, b, c, d, e, f]),
                vlan: entry.station.vlan(),
                port: entry.port,
                pinned: entry.stamp == STATIC,
            }
        })
        .collect();
    list.sort_unstable_by_key(|entry| (entry.port, entry.vlan, entry.mac));
    list
}

/// Says behind which port a station is, for good.
pub(super) fn add(
    nic: &ServedNic,
    saver: &mut StateSaver,
    number: u32,
    mac: Mac,
    vlan: u16,
) -> Result<(), RequestError> {
    let port = nic.port(number)?;
    let station = station(vlan, mac)?;
    if mac.is_zero() {
        return Err(RequestError::bad(format!(
            "{mac} is nobody's address: give one such as 02:00:00:00:00:01"
        )));
    }
    refuse_own(nic, &saver.state, mac)?;
    let stations = &mut saver.state.stations;
    stations.retain(|(other, address, _)| (*other, *address) != (vlan, mac));
    if stations.len() >= MAX_STATIONS {
        return Err(RequestError::bad(format!(
            "the NIC has been told {MAX_STATIONS} stations already; remove some first"
        )));
    }
    stations.push((vlan, mac, number));
    saver.save()?;
    let switch = nic.switch();
    match switch.state().fdb.pin(switch.key(), station, port) {
        Learned::Refused => {
            saver.state.stations.pop();
            saver.save()?;
            Err(RequestError::failed(format!(
                "the table has no room for {mac}: too many stations for good share its place"
            )))
        }
        _ => {
            switch.forget_shadowed();
            switch.state().generation.fetch_add(1, Relaxed);
            Ok(())
        }
    }
}

/// Forgets a station.
pub(super) fn remove(
    nic: &ServedNic,
    saver: &mut StateSaver,
    mac: Mac,
    vlan: u16,
) -> Result<(), RequestError> {
    let station = station(vlan, mac)?;
    if vlan == 0 {
        refuse_own(nic, &saver.state, mac)?;
    }
    let stations = &mut saver.state.stations;
    stations.retain(|(other, address, _)| (*other, *address) != (vlan, mac));
    saver.save()?;
    let switch = nic.switch();
    if !switch.state().fdb.unpin(switch.key(), station) {
        return Err(RequestError::bad(format!(
            "the table has no {mac} in VLAN {vlan}; postern nic show lists what it has"
        )));
    }
    switch.state().generation.fetch_add(1, Relaxed);
    Ok(())
}

/// Forgets the stations that were learned, behind one port or behind all.
pub(super) fn flush(nic: &ServedNic, port: Option<u32>) -> Result<(), RequestError> {
    let port = port.map(|number| nic.port(number)).transpose()?;
    let state = nic.switch().state();
    state.fdb.flush(port);
    state.generation.fetch_add(1, Relaxed);
    Ok(())
}

fn station(vlan: u16, mac: Mac) -> Result<Station, RequestError> {
    match vlan {
        0..4095 => Ok(Station::new(vlan.into(), mac_word(mac.0))),
        _ => Err(RequestError::bad(format!(
            "{vlan} is no VLAN: 1 to 4094, or 0 for all of the port's"
        ))),
    }
}

/// Refuses the address of a port's own tenant, which stays where it is, in every VLAN of the port.
fn refuse_own(nic: &ServedNic, state: &SavedState, mac: Mac) -> Result<(), RequestError> {
    let mut ports = nic.geometry().all_ports();
    match ports.find(|port| state.mac(*port) == mac) {
        Some(port) => Err(RequestError::bad(format!(
            "{mac} is the address of port {port} itself, in every VLAN; \
             it comes and goes with the port's tenant"
        ))),
        None => Ok(()),
    }
}
