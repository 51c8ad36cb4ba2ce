//! The port by which a guest on the path `exit-user` calls the NIC.

use std::sync::Arc;

use postern_nic_client::memory::Memory;
use postern_switch::credentials::Credentials;

use super::bus::word;

/// [`PORT_REQUEST`](postern_abi::platform::PORT_REQUEST) of one vCPU: a 32-bit write is one request,
/// served before the guest goes on, by the code that serves all paths. No lock, no allocation and no
/// system call happens here.
#[derive(Debug)]
pub struct RequestPort {
    memory: Arc<Memory>,
    caller: Credentials,
    vcpu: u32,
}

impl RequestPort {
    /// The port of the vCPU of that number, of a VM that is that caller. No other port of the VM
    /// has the number: the switch relies on it that a vCPU makes one call at a time.
    pub fn new(memory: Arc<Memory>, caller: Credentials, vcpu: u32) -> RequestPort {
        RequestPort {
            memory,
            caller,
            vcpu,
        }
    }

    /// What a write says, if it is one of 32 bits: the second argument of a request.
    pub fn flags(data: &[u8]) -> Option<u64> {
        word(0, data).map(u64::from)
    }

    /// Serves the request of this word, with two arguments. The guest reads the result in its rings.
    pub fn serve(&mut self, request: u64, count: u64, flags: u64) {
        self.memory
            .serve(&self.caller, self.vcpu, request, count, flags);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use postern_abi::service::{OP_NOP, OP_TX, tx_flags};
    use postern_abi::window::{Geometry, RecordHeader, record_size};
    use postern_nic_client::memory::draw_secret;
    use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

    #[test]
    fn requests_reach_the_switch_under_the_number_of_the_vcpu() {
        let geometry = Geometry::new(2, 2, 1 << 12, 1 << 12).unwrap();
        let memory = Arc::new(Memory::create(geometry).unwrap());
        let (port, secret) = (geometry.port(1).unwrap(), draw_secret().unwrap());
        let caller = Credentials::new(geometry, port, 5, secret);
        let switch = memory.switch();
        switch.admit(port, 5, secret, [2, 0, 0, 0, 0, 1]);
        // A frame of 60 bytes is in the TX ring of queue 1.
        let (first, second) = RecordHeader::plain(60).words();
        let ring = switch
            .tx_ring(caller.port(), 1)
            .unwrap()
            .cast::<AtomicU64>();
        // SAFETY: the ring has more than two aligned words, which are only accessed atomically.
        unsafe {
            (*ring).store(first, Relaxed);
            (*ring.add(1)).store(second, Relaxed);
        }
        let end = record_size(60) as u32;
        switch
            .tx_producer(caller.port(), 1)
            .unwrap()
            .store(end, Relaxed);

        let mut ports = [0, 1, 2].map(|vcpu| RequestPort::new(Arc::clone(&memory), caller, vcpu));
        let mut request = |vcpu: usize, op, queue| {
            ports[vcpu].serve(secret.request(op), 16, tx_flags(queue, false));
            switch.tx_consumer(caller.port(), 1).unwrap().load(Relaxed)
        };
        assert_eq!(request(0, OP_NOP, 1), 0);
        assert_eq!(request(0, 99, 1), 0, "unknown requests do nothing");
        let without = OP_TX.wrapping_sub(secret.word());
        assert_eq!(request(0, without, 1), 0, "nor do those without the secret");
        let refused = &switch.port(port).unwrap().refused;
        assert_eq!(refused.load(Relaxed), 2);
        assert_eq!(request(0, OP_TX, 0), 0, "another queue");
        assert_eq!(request(2, OP_TX, 1), 0, "no such vCPU");
        assert_eq!(request(0, OP_TX, 1), end, "the frame was taken");
        let frames = |vcpu| {
            let sender = switch.sender(geometry.sender(caller.port(), vcpu));
            sender.unwrap().frames.load(Relaxed)
        };
        assert_eq!([frames(0), frames(1)], [1, 0], "by vCPU 0");
        let flags = RequestPort::flags;
        assert_eq!(
            [flags(&[1, 0, 0, 0]), flags(&[1, 0]), flags(&[])],
            [Some(1), None, None]
        );
    }
}
