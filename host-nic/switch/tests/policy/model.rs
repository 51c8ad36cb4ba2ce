//! The switch against a model of a bridge with VLANs and private VLANs that is simple enough to
//! believe. Its rules are those of IEEE 802.1Q for a C-VLAN bridge, in the standard's order: reception
//! (802.3), ingress, learning, filtering, egress. It is stricter than the standard in one point, second
//! tags, as `postern_switch::policy::vlan` says.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::Ordering::Relaxed;

use postern_nic_client::policy::port::{Isolation, ReservedAddress};
use postern_nic_client::policy::vlan::VlanSpec;
use postern_switch::fdb::Station;
use postern_switch::state::Cause;
use postern_switch::tenant::mac_word;
use proptest::collection::vec;
use proptest::prelude::*;

use crate::ports::packet::{frame, with_tag};
use crate::ports::{BROADCAST, Net, mac, port, secret};

const PORTS: u32 = 5;
/// The EtherType of a C-TAG.
const CUSTOMER: u16 = 0x8100;

/// A tag: its EtherType and control information.
type Tag = (u16, u16);

/// A frame: addresses and payload without tags, and the tags, outermost first.
#[derive(Clone, Debug)]
struct Sent {
    bare: Vec<u8>,
    tags: Vec<Tag>,
}

impl Sent {
    fn bytes(&self) -> Vec<u8> {
        let tags = self.tags.iter().rev();
        tags.fold(self.bare.clone(), |bytes, (kind, tci)| {
            with_tag(&bytes, *kind, *tci)
        })
    }

    fn to(&self) -> [u8; 6] {
        self.bare[..6].try_into().unwrap()
    }

    fn source(&self) -> [u8; 6] {
        self.bare[6..12].try_into().unwrap()
    }

    /// The tag that sorts the frame, if it has one, and those behind it.
    fn split(&self) -> (Option<u16>, &[Tag]) {
        match self.tags.split_first() {
            Some(((CUSTOMER, tci), rest)) => (Some(*tci), rest),
            _ => (None, &self.tags),
        }
    }
}

#[derive(Clone, Debug)]
struct Port {
    attached: bool,
    vlan: Option<VlanSpec>,
    isolation: Isolation,
    /// Last bytes of the reserved addresses to which it forwards frames.
    relayed: BTreeSet<u8>,
}

impl Port {
    /// The default of the standard: an access port of VLAN 1.
    fn spec(&self) -> VlanSpec {
        self.vlan.clone().unwrap_or(VlanSpec::Access { pvid: 1 })
    }

    fn native(&self) -> Option<u16> {
        match self.spec() {
            VlanSpec::Access { pvid } => Some(pvid),
            VlanSpec::Trunk { pvid, .. } => pvid,
        }
    }

    fn is_member(&self, vid: u16) -> bool {
        let listed = match self.spec() {
            VlanSpec::Access { .. } => false,
            VlanSpec::Trunk { members, .. } => members.contains(&vid),
        };
        listed || self.native() == Some(vid)
    }

    /// Ingress: the VLAN of a frame, if the port admits it.
    fn classify(&self, sent: &Sent) -> Option<u16> {
        let (tag, rest) = sent.split();
        match tag.map_or(0, |tci| tci & 0xfff) {
            0 => self.native().filter(|_| rest.is_empty()),
            vid => {
                let trunk = matches!(self.spec(), VlanSpec::Trunk { .. });
                (trunk && self.is_member(vid)).then_some(vid)
            }
        }
    }

    /// Egress: the form in which a frame of a VLAN leaves through the port, if it does.
    fn form(&self, sent: &Sent, vid: u16) -> Option<Vec<u8>> {
        let (tag, rest) = sent.split();
        let bare = match self.spec() {
            VlanSpec::Access { .. } => self.native() == Some(vid),
            VlanSpec::Trunk { untagged, .. } => {
                self.native() == Some(vid) || untagged.contains(&vid)
            }
        };
        if !self.is_member(vid) || bare && !rest.is_empty() {
            return None;
        }
        let mut left = Sent {
            bare: sent.bare.clone(),
            tags: rest.to_vec(),
        };
        if !bare {
            let tci = tag.unwrap_or(0) & 0xf000 | vid;
            left.tags.insert(0, (CUSTOMER, tci));
        }
        Some(left.bytes())
    }
}

struct Model {
    ports: Vec<Port>,
    /// Dynamic filtering entries.
    learned: HashMap<(u16, [u8; 6]), u32>,
    /// Static filtering entries; those for all VLANs have VLAN 0.
    told: HashMap<(u16, [u8; 6]), u32>,
    drops: BTreeMap<(u32, &'static str), u64>,
}

/// Last byte of a reserved address (IEEE 802.1Q, addresses that a C-VLAN component does not relay).
fn reserved(to: [u8; 6]) -> Option<u8> {
    match to {
        [0x01, 0x80, 0xc2, 0x00, 0x00, last @ 0x00..=0x0f] => Some(last),
        _ => None,
    }
}

impl Model {
    fn drop(&mut self, from: u32, cause: Cause) -> Vec<(u32, Vec<u8>)> {
        *self.drops.entry((from, cause.name())).or_default() += 1;
        vec![]
    }

    /// Whether the bridge tells VLANs apart.
    fn has_vlans(&self) -> bool {
        self.ports.iter().any(|port| port.vlan.is_some())
    }

    fn lets(&self, from: u32, to: u32) -> bool {
        let role = |port: u32| self.ports[port as usize].isolation;
        match (role(from), role(to)) {
            (Isolation::Community(a), Isolation::Community(b)) => a == b,
            (a, b) => a == Isolation::Promiscuous || b == Isolation::Promiscuous,
        }
    }

    /// The static entry that holds for a station of a VLAN: one for that VLAN, or else one for all
    /// VLANs, which is in those of its port.
    fn told(&self, vid: u16, station: [u8; 6]) -> Option<u32> {
        let exact = self.told.get(&(vid, station));
        let all = self.told.get(&(0, station));
        let all = all.filter(|port| self.ports[**port as usize].is_member(vid));
        exact.or(all).copied()
    }

    /// Forwards a frame. Returns the ports that get it, each with the form in which it leaves
    /// there.
    fn send(&mut self, from: u32, sent: &Sent) -> Vec<(u32, Vec<u8>)> {
        let (to, source) = (sent.to(), sent.source());
        if reserved(to) == Some(0x01) {
            return self.drop(from, Cause::Reserved);
        }
        if source[0] & 1 != 0 || source == [0; 6] {
            return self.drop(from, Cause::BadSource);
        }
        let vid = match self.has_vlans() {
            false => 0,
            true => match self.ports[from as usize].classify(sent) {
                Some(vid) => vid,
                None => return self.drop(from, Cause::Spoofed),
            },
        };
        if self.told(vid, source).is_none() {
            self.learned.insert((vid, source), from);
        }
        let relayed = &self.ports[from as usize].relayed;
        if reserved(to).is_some_and(|last| !relayed.contains(&last)) {
            return self.drop(from, Cause::Reserved);
        }
        let form = |model: &Model, to: u32| {
            let form = match vid {
                0 => Some(sent.bytes()),
                _ => model.ports[to as usize].form(sent, vid),
            };
            form.filter(|_| model.lets(from, to)).map(|form| (to, form))
        };
        let learned = self.learned.get(&(vid, to)).copied();
        let known = self.told(vid, to).or(learned);
        if let Some(to) = known.filter(|_| to[0] & 1 == 0) {
            if to == from || !self.ports[to as usize].attached {
                return self.drop(from, Cause::NoDestination);
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

    fn set_vlan(&mut self, port: u32, vlan: Option<VlanSpec>) {
        let had_vlans = self.has_vlans();
        self.ports[port as usize].vlan = vlan;
        if had_vlans != self.has_vlans() {
            self.learned.clear();
        } else if had_vlans {
            let Model { learned, ports, .. } = self;
            let is_member = |vid| ports[port as usize].is_member(vid);
            learned.retain(|(vid, _), behind| *behind != port || is_member(*vid));
        }
        self.replace_learned();
    }

    fn tell(&mut self, vid: u16, station: [u8; 6], port: u32) {
        self.learned.remove(&(vid, station));
        self.told.insert((vid, station), port);
        self.replace_learned();
    }

    /// Static entries take the place of dynamic ones.
    fn replace_learned(&mut self) {
        if self.has_vlans() {
            let mut learned = std::mem::take(&mut self.learned);
            learned.retain(|(vid, station), _| self.told(*vid, *station).is_none());
            self.learned = learned;
        }
    }

    fn attach(&mut self, port: u32) {
        self.detach(port);
        self.ports[port as usize].attached = true;
        self.tell(0, mac(port), port);
        self.drops.retain(|(from, _), _| *from != port);
    }

    fn detach(&mut self, port: u32) {
        self.ports[port as usize].attached = false;
        self.learned.retain(|_, behind| *behind != port);
        self.told.retain(|_, behind| *behind != port);
    }
}

#[derive(Clone, Debug)]
enum Step {
    Send {
        from: u32,
        source: [u8; 6],
        to: [u8; 6],
        tags: Vec<Tag>,
        length: usize,
    },
    Vlan(u32, Option<VlanSpec>),
    Isolate(u32, Isolation),
    Relay(u32, BTreeSet<u8>),
    Tell(u32, u16, [u8; 6]),
    Detach(u32),
    Attach(u32),
}

fn address() -> impl Strategy<Value = [u8; 6]> {
    prop_oneof![
        12 => (0..7u32).prop_map(mac),
        2 => Just(BROADCAST),
        2 => Just([1, 0, 0x5e, 1, 2, 3]),
        1 => Just([0; 6]),
        2 => (0..0x12u8).prop_map(|last| [0x01, 0x80, 0xc2, 0, 0, last]),
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

fn tags() -> impl Strategy<Value = Vec<Tag>> {
    let vid = prop_oneof![8 => 0..5u16, 1 => Just(4095), 1 => Just(100)];
    let tci = (vid, 0..16u16).prop_map(|(vid, high)| high << 12 | vid);
    let kind = prop_oneof![8 => Just(CUSTOMER), 1 => Just(0x88a8), 1 => Just(0x9100)];
    let tag = (kind, tci);
    prop_oneof![
        3 => Just(vec![]),
        3 => tag.clone().prop_map(|tag| vec![tag]),
        2 => vec(tag, 2..4),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let length = prop_oneof![14..200usize, Just(1514)];
    let send = (0..PORTS, address(), address(), tags(), length);
    let role = prop_oneof![
        Just(Isolation::Promiscuous),
        Just(Isolation::Isolated),
        (0..2u16).prop_map(Isolation::Community),
    ];
    let relayed =
        prop::collection::btree_set((0..16u8).prop_filter("MAC control", |n| *n != 1), 0..8);
    prop_oneof![
        40 => send.prop_map(|(from, source, to, tags, length)| Step::Send { from, source, to, tags, length }),
        3 => (0..PORTS, prop::option::weighted(0.8, vlan())).prop_map(|(port, vlan)| Step::Vlan(port, vlan)),
        1 => (0..PORTS, role).prop_map(|(port, role)| Step::Isolate(port, role)),
        1 => (0..PORTS, relayed).prop_map(|(port, relayed)| Step::Relay(port, relayed)),
        2 => (0..PORTS, 0..5u16, PORTS..7).prop_map(|(port, vid, station)| Step::Tell(port, vid, mac(station))),
        1 => (0..PORTS).prop_map(Step::Detach),
        1 => (0..PORTS).prop_map(Step::Attach),
    ]
}

fn run(specs: &[Option<VlanSpec>], steps: Vec<Step>) -> Result<(), TestCaseError> {
    let net = Net::new(PORTS);
    let mut guests = net.guests();
    let vacant = Port {
        attached: false,
        vlan: None,
        isolation: Isolation::Promiscuous,
        relayed: BTreeSet::new(),
    };
    let mut model = Model {
        ports: vec![vacant; PORTS as usize],
        learned: HashMap::new(),
        told: HashMap::new(),
        drops: BTreeMap::new(),
    };
    for (number, spec) in (0..).zip(specs) {
        model.attach(number);
        model.set_vlan(number, spec.clone());
        net.set(number, |policy| policy.vlan = spec.clone());
    }
    for (seed, step) in (0u64..).zip(steps) {
        match step {
            Step::Send {
                from,
                source,
                to,
                tags,
                length,
            } => {
                if !model.ports[from as usize].attached {
                    continue;
                }
                let bare = frame(to, source, length, seed);
                let sent = Sent { bare, tags };
                let expected = model.send(from, &sent);
                guests[from as usize].send(&sent.bytes());
                let mut got = Vec::new();
                for guest in &mut guests {
                    let number = guest.number();
                    got.extend(guest.receive().into_iter().map(|bytes| (number, bytes)));
                }
                prop_assert_eq!(
                    got,
                    expected,
                    "tags {:x?} from {} in {:?}",
                    sent.tags,
                    from,
                    model.ports
                );
            }
            Step::Vlan(port, vlan) => {
                net.set(port, |policy| policy.vlan = vlan.clone());
                model.set_vlan(port, vlan);
            }
            Step::Isolate(port, role) => {
                net.set(port, |policy| policy.isolation = role);
                model.ports[port as usize].isolation = role;
            }
            Step::Relay(port, relayed) => {
                let address =
                    |last: &u8| -> ReservedAddress { format!("{last:02x}").parse().unwrap() };
                let addresses = relayed.iter().map(address).collect();
                net.set(port, |policy| policy.reserved = addresses);
                model.ports[port as usize].relayed = relayed;
            }
            Step::Tell(number, vid, station) => {
                let switch = net.memory.switch();
                let state = switch.state();
                let entry = Station::new(vid.into(), mac_word(station));
                state.fdb.pin(switch.key(), entry, port(number));
                switch.forget_shadowed();
                state.generation.fetch_add(1, Relaxed);
                model.tell(vid, station, number);
            }
            Step::Detach(number) => {
                net.memory.switch().evict(port(number));
                model.detach(number);
            }
            Step::Attach(number) => {
                net.memory.switch().admit(
                    port(number),
                    100 + seed as u32,
                    secret(100 + seed as u32),
                    mac(number),
                );
                guests[number as usize] = net.guest(number);
                model.attach(number);
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
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn the_switch_does_what_the_model_does(
        specs in vec(prop::option::weighted(0.7, vlan()), PORTS as usize),
        steps in vec(step(), 1..300),
    ) {
        run(&specs, steps)?;
    }
}
