//! The slow path against a model of a bridge with VLANs and private VLANs that is simple enough to
//! believe.

use std::collections::{BTreeMap, HashMap};

use postern_nic_client::policy::port::Isolation;
use postern_nic_client::policy::vlan::VlanSpec;
use postern_switch::state::Cause;
use proptest::collection::vec;
use proptest::prelude::*;

use crate::ports::packet::{frame, tagged};
use crate::ports::{BROADCAST, Net, mac, port, secret};

const PORTS: u32 = 5;

#[derive(Clone, Debug)]
struct Port {
    attached: bool,
    vlan: VlanSpec,
    isolation: Isolation,
}

impl Port {
    fn native(&self) -> Option<u16> {
        match &self.vlan {
            VlanSpec::Access { pvid } => Some(*pvid),
            VlanSpec::Trunk { pvid, .. } => *pvid,
        }
    }

    fn classify(&self, tag: Option<u16>) -> Option<u16> {
        let vid = tag.unwrap_or(0) & 0xfff;
        match &self.vlan {
            _ if vid == 0 => self.native(),
            VlanSpec::Access { .. } => None,
            VlanSpec::Trunk { pvid, members, .. } => {
                (members.contains(&vid) || *pvid == Some(vid)).then_some(vid)
            }
        }
    }

    /// The form in which a frame of a VLAN leaves through the port, if it does.
    fn form(&self, bare: &[u8], tag: Option<u16>, vid: u16) -> Option<Vec<u8>> {
        let tci = tag.unwrap_or(0) & 0xf000 | vid;
        match &self.vlan {
            _ if self.native() == Some(vid) => Some(bare.to_vec()),
            VlanSpec::Access { .. } => None,
            VlanSpec::Trunk { untagged, .. } if untagged.contains(&vid) => Some(bare.to_vec()),
            VlanSpec::Trunk { members, .. } => members.contains(&vid).then(|| tagged(bare, tci)),
        }
    }
}

struct Model {
    ports: Vec<Port>,
    stations: HashMap<(u16, [u8; 6]), u32>,
    drops: BTreeMap<(u32, &'static str), u64>,
}

impl Model {
    fn drop(&mut self, from: u32, cause: Cause) {
        *self.drops.entry((from, cause.name())).or_default() += 1;
    }

    fn lets(&self, from: u32, to: u32) -> bool {
        let role = |port: u32| self.ports[port as usize].isolation;
        match (role(from), role(to)) {
            (Isolation::Community(a), Isolation::Community(b)) => a == b,
            (a, b) => a == Isolation::Promiscuous || b == Isolation::Promiscuous,
        }
    }

    /// Forwards a frame. Returns the ports that get it, each with the form in which it leaves
    /// there.
    fn send(&mut self, from: u32, bare: &[u8], tag: Option<u16>) -> Vec<(u32, Vec<u8>)> {
        let Some(vid) = self.ports[from as usize].classify(tag) else {
            self.drop(from, Cause::Spoofed);
            return vec![];
        };
        let to: [u8; 6] = bare[..6].try_into().unwrap();
        let source: [u8; 6] = bare[6..12].try_into().unwrap();
        if source[0] & 1 == 0 {
            self.stations.insert((vid, source), from);
        }
        let form = |model: &Model, to: u32| {
            let form = model.ports[to as usize].form(bare, tag, vid);
            form.filter(|_| model.lets(from, to)).map(|form| (to, form))
        };
        let known = self.stations.get(&(vid, to)).copied();
        if let Some(to) = known.filter(|_| to[0] & 1 == 0) {
            if to == from {
                self.drop(from, Cause::NoDestination);
                return vec![];
            }
            let one = form(self, to);
            if one.is_none() {
                self.drop(from, Cause::Policy);
            }
            return one.into_iter().collect();
        }
        let others = (0..PORTS).filter(|to| *to != from && self.ports[*to as usize].attached);
        let flood: Vec<_> = others.filter_map(|to| form(self, to)).collect();
        if flood.is_empty() {
            self.drop(from, Cause::NoDestination);
        }
        flood
    }
}

#[derive(Clone, Debug)]
enum Step {
    Send {
        from: u32,
        source: [u8; 6],
        to: [u8; 6],
        tag: Option<u16>,
        length: usize,
    },
    Vlan(u32, VlanSpec),
    Isolate(u32, Isolation),
    Detach(u32),
    Attach(u32),
}

fn address() -> impl Strategy<Value = [u8; 6]> {
    prop_oneof![
        6 => (0..7u32).prop_map(mac),
        1 => Just(BROADCAST),
        1 => Just([1, 0, 0x5e, 1, 2, 3]),
    ]
}

fn vlan() -> impl Strategy<Value = VlanSpec> {
    let trunk = (prop::option::of(1..5u16), vec(1..5u16, 1..4), any::<bool>());
    prop_oneof![
        (1..5u16).prop_map(|pvid| VlanSpec::Access { pvid }),
        trunk.prop_map(|(pvid, members, bare)| VlanSpec::Trunk {
            pvid,
            untagged: members[..usize::from(bare)].to_vec(),
            members,
        }),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let vid = prop_oneof![8 => 0..5u16, 1 => Just(4095), 1 => Just(100)];
    let tci = (vid, 0..16u16).prop_map(|(vid, high)| high << 12 | vid);
    let length = prop_oneof![14..200usize, Just(1514)];
    let send = (
        0..PORTS,
        address(),
        address(),
        prop::option::of(tci),
        length,
    );
    let role = prop_oneof![
        Just(Isolation::Promiscuous),
        Just(Isolation::Isolated),
        (0..2u16).prop_map(Isolation::Community),
    ];
    prop_oneof![
        30 => send.prop_map(|(from, source, to, tag, length)| Step::Send { from, source, to, tag, length }),
        2 => (0..PORTS, vlan()).prop_map(|(port, vlan)| Step::Vlan(port, vlan)),
        1 => (0..PORTS, role).prop_map(|(port, role)| Step::Isolate(port, role)),
        1 => (0..PORTS).prop_map(Step::Detach),
        1 => (0..PORTS).prop_map(Step::Attach),
    ]
}

fn run(specs: &[VlanSpec], steps: Vec<Step>) -> Result<(), TestCaseError> {
    let net = Net::new(PORTS);
    for (port, spec) in (0..).zip(specs) {
        net.set(port, |policy| policy.vlan = Some(spec.clone()));
    }
    let mut guests = net.guests();
    let port_of = |vlan: &VlanSpec| Port {
        attached: true,
        vlan: vlan.clone(),
        isolation: Isolation::Promiscuous,
    };
    let mut model = Model {
        ports: specs.iter().map(port_of).collect(),
        stations: HashMap::new(),
        drops: BTreeMap::new(),
    };
    for (seed, step) in (0u64..).zip(steps) {
        match step {
            Step::Send {
                from,
                source,
                to,
                tag,
                length,
            } => {
                if !model.ports[from as usize].attached {
                    continue;
                }
                let bare = frame(to, source, length, seed);
                let sent = tag.map_or(bare.clone(), |tci| tagged(&bare, tci));
                let expected = model.send(from, &bare, tag);
                guests[from as usize].send(&sent);
                let mut got = Vec::new();
                for guest in &mut guests {
                    let number = guest.number();
                    got.extend(guest.receive().into_iter().map(|bytes| (number, bytes)));
                }
                prop_assert_eq!(
                    got,
                    expected,
                    "tag {:?} from {} in {:?}",
                    tag,
                    from,
                    model.ports
                );
            }
            Step::Vlan(port, vlan) => {
                net.set(port, |policy| policy.vlan = Some(vlan.clone()));
                model.ports[port as usize].vlan = vlan;
            }
            Step::Isolate(port, role) => {
                net.set(port, |policy| policy.isolation = role);
                model.ports[port as usize].isolation = role;
            }
            Step::Detach(number) => {
                net.memory.switch().evict(port(number));
                model.ports[number as usize].attached = false;
                model.stations.retain(|_, behind| *behind != number);
            }
            Step::Attach(number) => {
                net.memory.switch().admit(
                    port(number),
                    100 + seed as u32,
                    secret(100 + seed as u32),
                    mac(number),
                );
                guests[number as usize] = net.guest(number);
                model.ports[number as usize].attached = true;
                model.stations.retain(|_, behind| *behind != number);
                model.drops.retain(|(from, _), _| *from != number);
            }
        }
    }
    for from in 0..PORTS {
        for cause in Cause::ALL {
            let expected = model.drops.get(&(from, cause.name())).copied();
            prop_assert_eq!(
                net.drops(from, cause),
                expected.unwrap_or(0),
                "{} of {}",
                cause.name(),
                from
            );
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn the_slow_path_does_what_the_model_does(
        specs in vec(vlan(), PORTS as usize),
        steps in vec(step(), 1..300),
    ) {
        run(&specs, steps)?;
    }
}
