//! The port by which a guest on the path `exit-user` calls the NIC.

use std::sync::Arc;

use postern_abi::machine;
use postern_nic::caller::Caller;
use postern_nic::memory::Memory;

use super::{Effect, PioDevice, word};

/// [`machine::PORT_REQUEST`] of one vCPU: a 32-bit write is one request, served before the guest goes
/// on, by the code that serves all paths. No lock, no allocation and no system call happens here.
pub struct RequestPort {
    memory: Arc<Memory>,
    caller: Caller,
}

impl RequestPort {
    /// The port of a vCPU whose VM is that caller.
    pub fn new(memory: Arc<Memory>, caller: Caller) -> RequestPort {
        RequestPort { memory, caller }
    }
}

impl PioDevice for RequestPort {
    fn write(&mut self, offset: u16, data: &[u8]) -> Effect {
        if let Some(word) = word(offset, data) {
            let (op, count, flags) = machine::parse_user_request(word);
            let Caller { port, tenancy, .. } = self.caller;
            // The guest reads the result in its rings.
            self.memory.switch().call(port, tenancy, op, count, flags);
        }
        Effect::Continue
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use postern_abi::service::{OP_NOP, OP_TX};
    use postern_abi::window::Geometry;
    use std::sync::atomic::Ordering::Relaxed;

    #[test]
    fn requests_reach_the_switch() {
        let geometry = Geometry::new(2, 16).unwrap();
        let memory = Arc::new(Memory::create(geometry).unwrap());
        let caller = Caller {
            geometry,
            port: geometry.port(1).unwrap(),
            tenancy: 5,
        };
        memory.switch().admit(caller.port, 5, [2, 0, 0, 0, 0, 1]);
        // One descriptor of 60 bytes is in the TX ring.
        let window = memory.switch().window(caller.port).unwrap();
        let ring = postern_abi::window::Ring::TX;
        let at = |offset: u64| {
            // SAFETY: an aligned word inside the window, which the geometry sizes.
            unsafe {
                &*window
                    .add(offset as usize)
                    .cast::<std::sync::atomic::AtomicU32>()
            }
        };
        at(geometry.descriptor_offset(ring, 0)).store(60, Relaxed);
        at(geometry.producer_offset(ring)).store(1, Relaxed);

        let mut port = RequestPort::new(Arc::clone(&memory), caller);
        let mut request = |op| {
            let word = machine::user_request(op, 16, 0);
            assert!(matches!(
                port.write(0, &word.to_le_bytes()),
                Effect::Continue
            ));
            at(geometry.consumer_offset(ring)).load(Relaxed)
        };
        assert_eq!(request(OP_NOP), 0);
        assert_eq!(request(99), 0, "unknown requests do nothing");
        assert_eq!(request(OP_TX), 1, "the frame was taken");
    }
}
