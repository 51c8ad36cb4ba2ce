use std::collections::BTreeSet;

use proptest::prelude::*;

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use postern_switch::policy::headers::{Headers, Tag};
use postern_switch::policy::vlan::{CLOSED, Egress};

use super::*;

fn zero() -> Box<Vlan> {
    // SAFETY: all zero are valid settings.
    unsafe { Box::<Vlan>::new_zeroed().assume_init() }
}

/// The control word, the first of the settings.
fn control_word(vlan: &Vlan) -> &AtomicU64 {
    // SAFETY: `Vlan` is made of atomic words, in the order of its documentation.
    unsafe { &*(&raw const *vlan).cast() }
}

fn port(spec: &VlanSpec) -> Box<Vlan> {
    let vlan = zero();
    spec.install(&vlan).unwrap();
    vlan
}

fn trunk(pvid: Option<u16>, members: &[u16], untagged: &[u16]) -> VlanSpec {
    VlanSpec::Trunk {
        pvid,
        members: members.to_vec(),
        untagged: untagged.to_vec(),
    }
}

fn tagged(vid: u16) -> Option<Tag> {
    // Priority and DEI do not matter.
    Some(Tag::customer(0xf000 | vid))
}

/// The VLAN of a frame with this tag and no other.
fn ingress(vlan: &Vlan, outer: Option<Tag>) -> Option<u16> {
    vlan.ingress(&Headers {
        outer,
        ..Headers::default()
    })
}

#[test]
fn zero_is_an_access_port_of_vlan_1() {
    let vlan = zero();
    assert_eq!(VlanSpec::of(&vlan), Some(VlanSpec::Access { pvid: 1 }));
    assert_eq!(ingress(&vlan, None), Some(1));
    assert_eq!(ingress(&vlan, tagged(0)), Some(1));
    assert_eq!(ingress(&vlan, tagged(1)), None);
    assert_eq!(vlan.egress(1), Egress::Untagged);
    assert_eq!(vlan.egress(2), Egress::Drop);
    assert_eq!(vlan.egress(0), Egress::Drop);
}

#[test]
fn an_access_port_has_one_vlan_and_admits_no_tag() {
    let vlan = port(&VlanSpec::Access { pvid: 77 });
    assert_eq!(ingress(&vlan, None), Some(77));
    assert_eq!(ingress(&vlan, tagged(0)), Some(77));
    for vid in 1..4096 {
        assert_eq!(ingress(&vlan, tagged(vid)), None);
        let expected = if vid == 77 {
            Egress::Untagged
        } else {
            Egress::Drop
        };
        assert_eq!(vlan.egress(vid), expected);
    }
}

#[test]
fn a_trunk_without_pvid_admits_only_tagged_frames() {
    let vlan = port(&trunk(None, &[5, 4094], &[]));
    assert_eq!(ingress(&vlan, None), None);
    assert_eq!(ingress(&vlan, tagged(0)), None);
    assert_eq!(ingress(&vlan, tagged(5)), Some(5));
    assert_eq!(ingress(&vlan, tagged(4094)), Some(4094));
    assert_eq!(ingress(&vlan, tagged(4095)), None);
    assert_eq!(vlan.egress(4094), Egress::Tagged);
}

#[test]
fn settings_out_of_range_are_refused_and_change_nothing() {
    let spec = trunk(Some(3), &[3, 5], &[5]);
    let vlan = port(&spec);
    for (bad, message) in [
        (VlanSpec::Access { pvid: 0 }, "0 is no VLAN"),
        (VlanSpec::Access { pvid: 4095 }, "4095 is no VLAN"),
        (trunk(Some(0), &[], &[]), "0 is no VLAN"),
        (trunk(None, &[1, 9999], &[]), "9999 is no VLAN"),
        (trunk(None, &[1], &[2]), "VLAN 2 cannot leave untagged"),
    ] {
        let error = bad.install(&vlan).unwrap_err();
        assert_eq!(bad.check(), Err(error));
        assert!(error.to_string().starts_with(message), "{error}");
        assert_eq!(VlanSpec::of(&vlan).as_ref(), Some(&spec));
    }
}

#[test]
fn json() {
    for (spec, text) in [
        (VlanSpec::Access { pvid: 7 }, r#"{"access":{"pvid":7}}"#),
        (trunk(None, &[1, 2], &[]), r#"{"trunk":{"members":[1,2]}}"#),
    ] {
        assert_eq!(serde_json::to_string(&spec).unwrap(), text);
        assert_eq!(serde_json::from_str::<VlanSpec>(text).unwrap(), spec);
    }
    let text = r#"{"access":{"pvid":7,"members":[1]}}"#;
    assert!(serde_json::from_str::<VlanSpec>(text).is_err());
}

#[test]
fn noise_does_no_harm() {
    let vlan = zero();
    for control in [u64::MAX, !CLOSED, !TRUNK & !CLOSED, TRUNK] {
        control_word(&vlan).store(control, Relaxed);
        for vid in [0, 1, 4095, 4096, u16::MAX] {
            let _ = (ingress(&vlan, tagged(vid)), vlan.egress(vid));
        }
    }
    control_word(&vlan).store(CLOSED, Relaxed);
    assert_eq!(ingress(&vlan, None), None);
    assert_eq!(vlan.egress(1), Egress::Drop);
    assert_eq!(VlanSpec::of(&vlan), None);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_trunk_is_its_sets(
        before in prop::collection::vec(1u16..4095, 0..50),
        members in prop::collection::btree_set(1u16..4095, 1..50),
        keep in any::<u64>(),
        pvid in prop::option::of(1u16..4095),
    ) {
        let vlan = port(&trunk(None, &before, &before));
        let kept = |vid: &u16| keep >> (vid & 63) & 1 != 0;
        let untagged: BTreeSet<u16> = members.iter().copied().filter(kept).collect();
        let list = |set: &BTreeSet<u16>| set.iter().copied().collect::<Vec<_>>();
        trunk(pvid, &list(&members), &list(&untagged)).install(&vlan).unwrap();
        prop_assert_eq!(ingress(&vlan, None), pvid);
        prop_assert_eq!(ingress(&vlan, tagged(0)), pvid);
        for vid in 1..4095 {
            let native = pvid == Some(vid);
            let member = native || members.contains(&vid);
            prop_assert_eq!(ingress(&vlan, tagged(vid)), member.then_some(vid));
            let expected = match (member, native || untagged.contains(&vid)) {
                (false, _) => Egress::Drop,
                (true, false) => Egress::Tagged,
                (true, true) => Egress::Untagged,
            };
            prop_assert_eq!(vlan.egress(vid), expected);
        }
    }
}
