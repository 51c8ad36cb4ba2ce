//! A guest that changes its frame while the switch reads it. The bytes that a policy has read are
//! those that are delivered.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::thread;

use postern_abi::window::{FEATURES, Geometry, RecordHeader};
use postern_nic_client::policy::acl::AclSpec;
use postern_nic_client::policy::port::Source;
use postern_nic_client::policy::vlan::VlanSpec;
use postern_switch::policy::acl::Verdict;
use postern_switch::state::Cause;

use crate::ports::packet::{Flow, Kind, frame, payload, tagged, udp};
use crate::ports::{Net, mac, port};

const RING: u32 = 4096;

/// Size in bytes of the records of these tests.
const RECORD: u32 = 256;

/// Sends `honest` again and again, while another thread keeps exchanging the four bytes at offset
/// `at` of the frame for those of `evil`. Returns how many frames arrived with the honest and with
/// the evil bytes.
fn attack(net: &Net, header: RecordHeader, honest: &[u8], evil: &[u8], at: usize) -> (u64, u64) {
    assert_eq!(at % 4, 0);
    assert_eq!((honest.len() + 31) & !15, RECORD as usize);
    let different = |(byte, (a, b)): (usize, (&u8, &u8))| {
        assert!(a == b || (at..at + 4).contains(&byte), "byte {byte}");
    };
    honest.iter().zip(evil).enumerate().for_each(different);
    let word = |bytes: &[u8]| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
    let words = [word(evil), word(honest)];
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let (memory, stop) = (&net.memory, &stop);
        let attacker = scope.spawn(move || {
            let ring = memory.switch().tx_ring(port(0), 0).unwrap();
            let place = |record: u32| {
                // SAFETY: the word is aligned and in the ring, all of which is accessed atomically.
                unsafe {
                    AtomicU32::from_ptr(ring.add((record * RECORD) as usize + 16 + at).cast())
                }
            };
            while !stop.load(Relaxed) {
                for word in words {
                    (0..RING / RECORD).for_each(|record| place(record).store(word, Relaxed));
                }
            }
        });
        let (mut sender, mut receiver) = (net.guest(0), net.guest(1));
        let refused = || net.drops(0, Cause::Spoofed) + net.drops(0, Cause::Policy);
        let (mut arrived, mut taken) = ([0u64, 0], 0);
        // Send until the switch has seen both often enough.
        while (taken < 30_000 || arrived[1] < 100 || refused() < 100) && taken < 3_000_000 {
            for _ in 0..RING / RECORD {
                sender.put_on(0, header, honest);
            }
            taken += sender.call();
            for bytes in receiver.receive() {
                let honest = word(&bytes) == words[1];
                assert!(honest || word(&bytes) == words[0]);
                arrived[usize::from(honest)] += 1;
            }
        }
        stop.store(true, Relaxed);
        attacker.join().unwrap();
        assert!(refused() != 0, "nothing was ever refused");
        (arrived[1], arrived[0])
    })
}

fn net() -> Net {
    Net::sized(Geometry::new(2, 1, RING, 64 << 10).unwrap())
}

/// Length in bytes of a frame whose record has [`RECORD`] bytes.
const LENGTH: usize = RECORD as usize - 16;

#[test]
fn a_spoofed_address_never_arrives() {
    let net = net();
    net.set(0, |policy| policy.source = Source::Own);
    let honest = frame(mac(1), mac(0), LENGTH, 1);
    let mut evil = honest.clone();
    evil[8..12].copy_from_slice(&mac(66)[2..]);
    let (honest, evil) = attack(&net, RecordHeader::default(), &honest, &evil, 8);
    assert_eq!(evil, 0, "beside {honest} honest ones");
    assert!(honest > 0);
}

#[test]
fn a_port_that_the_list_denies_never_arrives() {
    let net = net();
    net.set(0, |policy| {
        policy.acl = AclSpec {
            rules: vec!["permit in udp dport 53".parse().unwrap()],
            default: Verdict::Deny,
        }
    });
    let honest = udp(mac(1), mac(0), (9, 53), LENGTH - 42, 1);
    let mut evil = honest.clone();
    evil[36..38].copy_from_slice(&22u16.to_be_bytes());
    let (honest, evil) = attack(&net, RecordHeader::default(), &honest, &evil, 36);
    assert_eq!(evil, 0, "beside {honest} honest ones");
    assert!(honest > 0);
}

#[test]
fn a_vlan_that_the_port_is_not_in_never_arrives() {
    let net = net();
    let trunk = |members: &[u16]| {
        Some(VlanSpec::Trunk {
            pvid: None,
            members: members.into(),
            untagged: vec![],
        })
    };
    net.set(0, |policy| policy.vlan = trunk(&[10]));
    net.set(1, |policy| policy.vlan = trunk(&[10, 20]));
    let honest = tagged(&frame(mac(1), mac(0), LENGTH - 4, 1), 10);
    let mut evil = honest.clone();
    evil[15] = 20;
    let (honest, evil) = attack(&net, RecordHeader::default(), &honest, &evil, 12);
    assert_eq!(evil, 0, "beside {honest} honest ones");
    assert!(honest > 0);
}

/// A denied port is in none of the frames that a large segment is cut into.
#[test]
fn a_cut_segment_has_the_headers_that_were_looked_at() {
    let net = net();
    net.guest(0).agree(FEATURES);
    net.set(0, |policy| {
        policy.acl = AclSpec {
            rules: vec!["permit in tcp dport 443".parse().unwrap()],
            default: Verdict::Deny,
        }
    });
    let flow = Flow::new(Kind::Tcp4, mac(1), mac(0));
    let head = flow.whole(&[]).len();
    let (header, honest) = flow.large(&payload(LENGTH - head, 1), 60);
    let mut evil = honest.clone();
    evil[36..38].copy_from_slice(&22u16.to_be_bytes());
    let (honest, evil) = attack(&net, header, &honest, &evil, 36);
    assert_eq!(evil, 0, "beside {honest} honest ones");
    assert!(honest > 0);
}
