//! Records of the owner's socket. Input: a byte that says which kind of record, then the record.
#![forbid(unsafe_code)]

use postern_abi::window::{Geometry, MIN_RING};
use postern_nic_client::policy::port::PortPolicy;
use postern_nic_client::protocol::{Reply, Request};
use postern_nic_owner::installed_policies::Policies;

use super::nic::FuzzNic;

/// Each kind of record, to which others are easily added.
const KINDS: [fn(&[u8]); 4] = [request, reply, policy, policies];

/// Runs an input.
pub fn run(data: &[u8]) {
    if let Some((kind, record)) = data.split_first() {
        KINDS[usize::from(*kind) % KINDS.len()](record);
    }
}

fn request(record: &[u8]) {
    match Request::decode(record) {
        Ok(request) => assert_eq!(Request::decode(&request.encode()), Ok(request)),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

fn reply(record: &[u8]) {
    match Reply::decode(record) {
        Ok(reply) => {
            let again = Reply::decode(&reply.encode());
            // Bytes that are no text take more room when they are written again.
            assert!(again.is_err() || again == Ok(reply));
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

fn policy(record: &[u8]) {
    if let Ok(policy) = serde_json::from_slice::<PortPolicy>(record) {
        let text = serde_json::to_vec(&policy).unwrap();
        assert_eq!(serde_json::from_slice::<PortPolicy>(&text).unwrap(), policy);
    }
}

fn policies(record: &[u8]) {
    if let Ok(policies) = serde_json::from_slice::<Policies>(record) {
        let text = serde_json::to_vec(&policies).unwrap();
        assert_eq!(serde_json::from_slice::<Policies>(&text).unwrap(), policies);
        let nic = FuzzNic::new(Geometry::new(4, 1, MIN_RING, MIN_RING).unwrap());
        match policies.apply_all(&nic.switch()) {
            Ok(()) => {}
            Err(error) => assert!(!error.to_string().is_empty()),
        }
    }
}
