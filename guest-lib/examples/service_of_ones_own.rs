//! A service other than the NIC: a small key-value store.
//!
//! A service has two sides. The host's side is one function of a request's number and two arguments
//! ([`Store::serve`]); in a view it would be the function that the image's entry calls. The guest's
//! side ([`Client`]) makes the requests through any [`Service`], so it does not know how they
//! travel:
//!
//! * in a VM, through a `Gate` (by VMFUNC, with no VM exit) or a `Hypercall`;
//! * here, through [`InProcess`], which calls the host's side in this very program.
//!
//! ```text
//! cargo run -p postern-guest --example service_of_ones_own
//! ```

use postern_abi::service::{ERR_BAD_REQUEST, OP_NOP};
use postern_guest::service::Service;

/// Request: store a value. First argument: the key. Second: the value. Result: 0, or [`FULL`].
///
/// Numbers of a service of one's own are its own; only [`OP_NOP`] is the same everywhere.
const OP_PUT: u64 = 1;

/// Request: look a value up. First argument: the key. Result: the value, or [`ABSENT`].
const OP_GET: u64 = 2;

/// Result of [`OP_GET`]: no value has this key. So no value may be this number.
const ABSENT: u64 = u64::MAX - 1;

/// Result of [`OP_PUT`]: the store has no room for another key.
const FULL: u64 = u64::MAX - 2;

/// The host's side. Its memory is never mapped for the guest.
#[derive(Default)]
struct Store {
    /// Pairs of key and value. A view's code allocates nothing: the room is there from the start.
    entries: [Option<(u64, u64)>; 16],
}

impl Store {
    /// Serves one request. Whatever a guest passes, this ends, and it touches the store alone.
    fn serve(&mut self, op: u64, a: u64, b: u64) -> u64 {
        let has_key = |entry: &Option<(u64, u64)>| entry.is_some_and(|(key, _)| key == a);
        match op {
            OP_NOP => 0,
            OP_PUT => {
                let old = self.entries.iter().position(has_key);
                let slot = old.or_else(|| self.entries.iter().position(Option::is_none));
                match slot {
                    Some(slot) => {
                        self.entries[slot] = Some((a, b));
                        0
                    }
                    None => FULL,
                }
            }
            OP_GET => self
                .entries
                .iter()
                .copied()
                .find(has_key)
                .flatten()
                .map_or(ABSENT, |(_, value)| value),
            _ => ERR_BAD_REQUEST,
        }
    }
}

/// A path on which a request is a function call.
struct InProcess(Store);

impl Service for InProcess {
    fn call(&mut self, op: u64, a: u64, b: u64) -> Option<u64> {
        Some(self.0.serve(op, a, b))
    }
}

/// The guest's side, on any path that carries results back.
struct Client<S>(S);

impl<S: Service> Client<S> {
    /// Stores a value; false if there is no room for it.
    fn put(&mut self, key: u64, value: u64) -> bool {
        self.0.call(OP_PUT, key, value) == Some(0)
    }

    /// Looks a value up.
    fn get(&mut self, key: u64) -> Option<u64> {
        self.0
            .call(OP_GET, key, 0)
            .filter(|&value| value != ABSENT && value != ERR_BAD_REQUEST)
    }
}

/// Stores some values and looks them up.
pub fn main() {
    // In a VM: `Client(unsafe { Gate::new(SLOT) })`.
    let mut client = Client(InProcess(Store::default()));
    for key in 0..16 {
        assert!(client.put(key, key * key));
    }
    assert!(!client.put(16, 256), "the store has 16 entries");
    assert!(client.put(3, 33), "a key that is there is replaced");
    assert_eq!(client.get(3), Some(33));
    assert_eq!(client.get(4), Some(16));
    assert_eq!(client.get(16), None);

    // A request that the service does not know has a result, too.
    assert_eq!(client.0.call(99, 0, 0), Some(ERR_BAD_REQUEST));
    assert_eq!(client.0.call(OP_NOP, 0, 0), Some(0));
    println!("16 values stored and looked up");
}
