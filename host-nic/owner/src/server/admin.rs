//! Administration of a running NIC: the requests that [`Control`] describes.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::Ordering::Relaxed;

use postern_abi::platform::CallPath;
use postern_abi::window::{FEATURE_CSUM, FEATURE_TSO4, FEATURE_TSO6, FEATURE_USO, PortId};
use postern_nic_client::control::{Control, Holder, PathInfo, PathReport, PortInfo, Revocation};
use postern_nic_client::policy::port::PortPolicy;
use postern_nic_client::protocol::Status;
use postern_switch::state::MODE_NO_LEARNING;
use serde_json::Value;

use super::Server;
use super::connection::Stage;
use super::error::{RequestError, TenancyError};
use super::policies::{self, PortPolicies};
use super::ports::Tenant;
use super::saved_state::SavedCapture;
use super::stations;

impl Server {
    /// Does what a client asks for.
    pub(super) fn control(&mut self, text: &[u8]) -> Result<Value, RequestError> {
        let control: Control = serde_json::from_slice(text).map_err(|error| {
            RequestError::bad(format!("the NIC does not understand that: {error}"))
        })?;
        let done = |()| Value::Null;
        let (ports, clock) = (&mut self.ports, &self.clock);
        match control {
            Control::Ports => Ok(serde_json::to_value(self.port_list())?),
            Control::Macs => Ok(serde_json::to_value(stations::list(&ports.nic))?),
            Control::Policies => Ok(serde_json::to_value(policies::list(ports))?),
            Control::Uplinks => Ok(serde_json::to_value(self.uplinks.list())?),
            Control::Captures => Ok(serde_json::to_value(self.captures.list())?),
            Control::SetPolicy { port, policy } => {
                let set = PortPolicies { ports, clock }.set(port, *policy);
                self.limit_uplinks();
                set.map(done)
            }
            Control::Enable { port } => ports.enable(port).map(done),
            Control::Disable { port } => self.disable(port).map(done),
            Control::Revoke { port, kill } => Ok(serde_json::to_value(self.revoke(port, kill)?)?),
            Control::Paths => Ok(serde_json::to_value(self.path_report())?),
            Control::Learning { port, on } => ports.set_learning(port, on).map(done),
            Control::SetMac { port, mac } => ports.set_mac(port, mac).map(done),
            Control::AddMac { port, mac, vlan } => {
                stations::add(&ports.nic, &mut ports.saver, port, mac, vlan).map(done)
            }
            Control::RemoveMac { mac, vlan } => {
                stations::remove(&ports.nic, &mut ports.saver, mac, vlan).map(done)
            }
            Control::FlushMacs { port } => stations::flush(&ports.nic, port).map(done),
            Control::AddUplink {
                port,
                interface,
                busy,
            } => {
                self.uplinks.add(ports, port, &interface, busy)?;
                self.limit_uplinks();
                Ok(Value::Null)
            }
            Control::RemoveUplink { port } => self.uplinks.remove(ports, port).map(done),
            Control::AddCapture {
                port,
                via,
                file,
                format,
                snap,
                busy,
            } => {
                let capture = SavedCapture {
                    port,
                    file,
                    format,
                    snap,
                    busy,
                };
                self.captures.add(ports, clock, via, capture).map(done)
            }
            Control::RemoveCapture { file } => {
                let info = self.captures.remove(ports, clock, &file)?;
                Ok(serde_json::to_value(info)?)
            }
            // With an owner, that is the end of the NIC as ever.
            Control::Stop { keep, discard: _ } => self.end(keep).map(done),
        }
    }

    /// Has uplinks cut segments where a rate limit has a burst that is smaller.
    pub(super) fn limit_uplinks(&self) {
        let allowed = policies::let_segments_pass(&self.ports.saver.state);
        self.uplinks.allow_segments(allowed);
    }

    fn end(&mut self, keep: bool) -> Result<(), RequestError> {
        if keep && self.ports.saver.keeper.is_none() {
            return Err(RequestError::bad(
                "the NIC has no keeper, so it ends with its owner; stop it without --keep",
            ));
        }
        self.ending = Some(keep);
        Ok(())
    }

    fn port_list(&self) -> Vec<PortInfo> {
        let switch = self.ports.nic.switch();
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
                mac: self.ports.saver.state.mac(port),
                tenancy: state.tenancy(port),
                features: features.map(|(_, name)| (*name).to_owned()).collect(),
                learning: state.mode(port) & MODE_NO_LEARNING == 0,
                policy: policies::given(&self.ports.saver.state, port) != PortPolicy::default(),
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
            Tenant::Leaving { pid, process } => Holder::Leaving {
                pid: pid.map(|pid| pid.as_raw_pid()),
                left: process.is_none(),
            },
            Tenant::Vacant | Tenant::Owner => {
                if let Some(interface) = self.uplinks.interface(number) {
                    let interface = interface.to_owned();
                    return Holder::Uplink { interface };
                }
                if let Some(file) = self.captures.file(number) {
                    let file = file.to_owned();
                    return Holder::Capture { file };
                }
                match self.ports.saver.state.disabled.contains(&number) {
                    true => Holder::Disabled,
                    false => Holder::Vacant,
                }
            }
        }
    }

    /// Ends the tenancy of a port, and has it let to nobody any more.
    fn disable(&mut self, number: u32) -> Result<(), RequestError> {
        let port = self.ports.disable(number)?;
        self.end_tenancy(port, "disabled")?;
        Ok(())
    }

    /// Takes a port from its tenant; the port stays what it is for others.
    fn revoke(&mut self, number: u32, kill: bool) -> Result<Revocation, RequestError> {
        let port = self.ports.nic.port(number)?;
        let pid = match self.ports.tenant(port) {
            Tenant::Taken { pid, .. } | Tenant::Leaving { pid, .. } => *pid,
            Tenant::Owner => return Err(TenancyError::Owner { port }.into()),
            Tenant::Vacant => {
                let text =
                    format!("port {port} has no tenant (postern nic show lists who has which)");
                return Err(RequestError::bad(text));
            }
        };
        let grants = self.end_tenancy(port, "taken from it")?;
        if kill {
            self.ports.kill(port)?;
        }
        Ok(Revocation {
            pid: pid.map(|pid| pid.as_raw_pid()),
            grants,
            holder: self.holder(port),
        })
    }

    /// Ends the tenancy of a port, if it has a tenant, who is told what has become of the port.
    /// Gives how many grants were taken back.
    fn end_tenancy(&mut self, port: PortId, became: &str) -> Result<u32, RequestError> {
        let stage = Stage::Attached(port);
        let mut connections = self.connections.iter();
        let Some(index) = connections.position(|one| one.stage == stage) else {
            return Ok(0);
        };
        let grants = self.close(index);
        let text = format!("port {port} was {became} by postern nic port");
        self.connections[index].refuse(Status::Revoked, text);
        grants
    }

    fn path_report(&self) -> PathReport {
        let missing: BTreeMap<_, _> = self
            .missing_paths()
            .map(|(path, reason)| (path.name(), reason.to_owned()))
            .collect();
        let info = |path: CallPath| PathInfo {
            path: path.name().to_owned(),
            missing: match self.ports.nic.offers(path) {
                true => missing.get(path.name()).cloned(),
                false => Some("the NIC was started without it (--paths)".to_owned()),
            },
        };
        PathReport {
            paths: CallPath::ALL.map(info).to_vec(),
            template: self.ports.nic.templates.info(),
            image: self.ports.nic.templates.image().map(Path::to_owned),
        }
    }
}
