//! Administration of a running NIC: what [`Control`] asks for.

use std::fmt;
use std::sync::atomic::Ordering::Relaxed;

use postern_abi::window::{FEATURE_CSUM, FEATURE_TSO4, FEATURE_TSO6, FEATURE_USO, PortId};
use serde_json::Value;

use super::connection::Stage;
use super::native::NativeError;
use super::notes::CaptureNote;
use super::ports::{Refusal, Tenant};
use super::store::StoreError;
use super::{Server, explain, suggested_mac};
use crate::policies::acl_hits;
use postern_nic_client::control::{Control, Holder, Mac, MacInfo, PolicyInfo, PortInfo};
use postern_nic_client::policy::port::PortPolicy;
use postern_nic_client::protocol::Status;
use postern_switch::fdb::{Learned, STATIC, Station};
use postern_switch::state::MODE_NO_LEARNING;
use postern_switch::tenant::mac_word;

/// Most stations that people can tell a NIC.
const STATIONS: usize = 4096;

/// Why a request is not fulfilled.
#[derive(Debug)]
pub(super) struct Denial {
    pub(super) status: Status,
    pub(super) text: String,
}

impl Denial {
    /// The request makes no sense.
    pub(super) fn bad(text: impl Into<String>) -> Denial {
        Denial {
            status: Status::BadRequest,
            text: text.into(),
        }
    }

    /// The system refuses.
    pub(super) fn failed(text: impl Into<String>) -> Denial {
        Denial {
            status: Status::Failed,
            text: text.into(),
        }
    }
}

impl fmt::Display for Denial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl From<Refusal> for Denial {
    fn from(refusal: Refusal) -> Denial {
        Denial {
            status: refusal.status(),
            text: refusal.to_string(),
        }
    }
}

impl From<StoreError> for Denial {
    fn from(error: StoreError) -> Denial {
        Denial::failed(explain(&error))
    }
}

impl From<NativeError> for Denial {
    fn from(error: NativeError) -> Denial {
        Denial::failed(explain(&error))
    }
}

impl From<serde_json::Error> for Denial {
    fn from(error: serde_json::Error) -> Denial {
        Denial::failed(error.to_string())
    }
}

impl Server {
    /// Does what a client asks for.
    pub(super) fn control(&mut self, text: &[u8]) -> Result<Value, Denial> {
        let control: Control = serde_json::from_slice(text)
            .map_err(|error| Denial::bad(format!("the NIC does not understand that: {error}")))?;
        let done = |()| Value::Null;
        match control {
            Control::Ports => Ok(serde_json::to_value(self.port_list())?),
            Control::Macs => Ok(serde_json::to_value(self.mac_list())?),
            Control::Policies => Ok(serde_json::to_value(self.policy_list())?),
            Control::Uplinks => {
                let list: Vec<_> = self.uplinks.iter().map(|(at, one)| one.info(*at)).collect();
                Ok(serde_json::to_value(list)?)
            }
            Control::Captures => {
                let captures = self.captures.iter();
                let list: Vec<_> = captures.map(|(via, one)| one.info(*via)).collect();
                Ok(serde_json::to_value(list)?)
            }
            Control::SetPolicy { port, policy } => self.set_policy(port, *policy).map(done),
            Control::Enable { port } => self.enable(port).map(done),
            Control::Disable { port } => self.disable(port).map(done),
            Control::AddMac { port, mac, vlan } => self.add_mac(port, mac, vlan).map(done),
            Control::RemoveMac { mac, vlan } => self.remove_mac(mac, vlan).map(done),
            Control::FlushMacs { port } => self.flush_macs(port).map(done),
            Control::AddUplink {
                port,
                interface,
                busy,
            } => self.add_uplink(port, &interface, busy).map(done),
            Control::RemoveUplink { port } => self.remove_uplink(port).map(done),
            Control::AddCapture {
                port,
                via,
                file,
                format,
                snap,
            } => {
                let note = CaptureNote {
                    port,
                    file,
                    format,
                    snap,
                };
                self.add_capture(via, note).map(done)
            }
            Control::RemoveCapture { file } => self.remove_capture(&file),
            Control::Stop { keep } => self.end(keep).map(done),
        }
    }

    fn end(&mut self, keep: bool) -> Result<(), Denial> {
        if keep && self.ports.books.store.is_none() {
            return Err(Denial::bad(
                "the NIC has no keeper, so it ends with its owner; stop it without --keep",
            ));
        }
        self.ending = Some(keep);
        Ok(())
    }

    fn port_list(&self) -> Vec<PortInfo> {
        let switch = self.ports.memory.switch();
        let state = switch.state();
        let info = |port: PortId| {
            let number = port.number();
            let features = switch.port(port).map(|port| port.features.load(Relaxed));
            let features = [
                (FEATURE_CSUM, "csum"),
                (FEATURE_TSO4, "tso4"),
                (FEATURE_TSO6, "tso6"),
                (FEATURE_USO, "uso"),
            ]
            .iter()
            .filter(|(bit, _)| features.unwrap_or(0) & bit != 0);
            PortInfo {
                port: number,
                holder: self.holder(port),
                mac: Mac(suggested_mac(port)),
                tenancy: state.tenancy(port),
                features: features.map(|(_, name)| (*name).to_owned()).collect(),
                learning: state.mode(port) & MODE_NO_LEARNING == 0,
                policy: self.policy(port) != PortPolicy::default(),
            }
        };
        switch.geometry().all_ports().map(info).collect()
    }

    fn holder(&self, port: PortId) -> Holder {
        let number = port.number();
        match self.ports.tenant(port) {
            Tenant::Taken { pid, path } => Holder::Attached {
                pid: pid.map(|pid| pid.as_raw_pid()),
                path: path.name().to_owned(),
            },
            Tenant::Leaving { pid, .. } => Holder::Leaving {
                pid: pid.as_raw_pid(),
            },
            _ => {
                if let Some(uplink) = self.uplinks.get(&number) {
                    let interface = uplink.interface().to_owned();
                    return Holder::Uplink { interface };
                }
                if let Some(capture) = self.captures.get(&number) {
                    let file = capture.file().to_owned();
                    return Holder::Capture { file };
                }
                match self.ports.books.notes.disabled.contains(&number) {
                    true => Holder::Disabled,
                    false => Holder::Vacant,
                }
            }
        }
    }

    fn mac_list(&self) -> Vec<MacInfo> {
        let switch = self.ports.memory.switch();
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

    fn policy_list(&self) -> Vec<PolicyInfo> {
        let switch = self.ports.memory.switch();
        let info = |port: PortId| PolicyInfo {
            port: port.number(),
            policy: self.policy(port),
            acl_hits: acl_hits(&switch, port).unwrap_or_default(),
        };
        switch.geometry().all_ports().map(info).collect()
    }

    fn enable(&mut self, number: u32) -> Result<(), Denial> {
        self.ports.port(number)?;
        self.ports.books.notes.disabled.remove(&number);
        self.save()
    }

    fn disable(&mut self, number: u32) -> Result<(), Denial> {
        let port = self.ports.port(number)?;
        if let Tenant::Native = self.ports.tenant(port) {
            return Err(Refusal::Native { port }.into());
        }
        self.ports.books.notes.disabled.insert(number);
        self.save()?;
        let stage = Stage::Attached(port);
        if let Some(index) = self.connections.iter().position(|one| one.stage == stage) {
            self.close(index);
        }
        Ok(())
    }

    fn station(vlan: u16, mac: Mac) -> Result<Station, Denial> {
        match vlan {
            0..4095 => Ok(Station::new(vlan.into(), mac_word(mac.0))),
            _ => Err(Denial::bad(format!(
                "{vlan} is no VLAN: 1 to 4094, or 0 for none"
            ))),
        }
    }

    fn add_mac(&mut self, number: u32, mac: Mac, vlan: u16) -> Result<(), Denial> {
        let port = self.ports.port(number)?;
        let station = Server::station(vlan, mac)?;
        self.refuse_own(mac, vlan)?;
        let stations = &mut self.ports.books.notes.stations;
        stations.retain(|(other, address, _)| (*other, *address) != (vlan, mac));
        if stations.len() >= STATIONS {
            return Err(Denial::bad(format!(
                "the NIC has been told {STATIONS} stations already; remove some first"
            )));
        }
        stations.push((vlan, mac, number));
        self.save()?;
        let switch = self.ports.memory.switch();
        match switch.state().fdb.pin(switch.key(), station, port) {
            Learned::Refused => {
                let stations = &mut self.ports.books.notes.stations;
                stations.pop();
                self.save()?;
                Err(Denial::failed(format!(
                    "the table has no room for {mac}: too many stations for good share its place"
                )))
            }
            _ => {
                switch.state().generation.fetch_add(1, Relaxed);
                Ok(())
            }
        }
    }

    /// The address of a port's own tenant stays where it is.
    fn refuse_own(&self, mac: Mac, vlan: u16) -> Result<(), Denial> {
        let mut ports = self.ports.memory.geometry().all_ports();
        match ports.find(|port| vlan == 0 && suggested_mac(*port) == mac.0) {
            Some(port) => Err(Denial::bad(format!(
                "{mac} is the address of port {port} itself; it comes and goes with the port's tenant"
            ))),
            None => Ok(()),
        }
    }

    fn remove_mac(&mut self, mac: Mac, vlan: u16) -> Result<(), Denial> {
        let station = Server::station(vlan, mac)?;
        self.refuse_own(mac, vlan)?;
        let stations = &mut self.ports.books.notes.stations;
        stations.retain(|(other, address, _)| (*other, *address) != (vlan, mac));
        self.save()?;
        let switch = self.ports.memory.switch();
        if !switch.state().fdb.unpin(switch.key(), station) {
            return Err(Denial::bad(format!(
                "the table has no {mac} in VLAN {vlan}; postern nic show lists what it has"
            )));
        }
        switch.state().generation.fetch_add(1, Relaxed);
        Ok(())
    }

    fn flush_macs(&mut self, port: Option<u32>) -> Result<(), Denial> {
        let port = port.map(|number| self.ports.port(number)).transpose()?;
        let state = self.ports.memory.switch().state();
        state.fdb.flush(port);
        state.generation.fetch_add(1, Relaxed);
        Ok(())
    }
}
