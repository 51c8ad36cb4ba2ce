//! The port by which a guest on the path `exit-user` calls the NIC.

use std::sync::Arc;

use postern_abi::service::{ERR_NO_SECRET, TX_BELL, TX_QUEUE_SHIFT};
use postern_nic_client::bells::queues_of;
use postern_nic_client::memory::Memory;
use postern_switch::credentials::Credentials;
use vmm_sys_util::eventfd::EventFd;

use super::bus::word;
use crate::event;

/// The bells of all RX queues of a NIC, by their numbers in the whole NIC.
pub type Bells = Arc<[Arc<EventFd>]>;

/// [`PORT_REQUEST`](postern_abi::platform::PORT_REQUEST) of one vCPU: a 32-bit write is one request,
/// served before the guest goes on, by the code that serves all paths. No lock and no allocation
/// happens here, and no system call but for each receiver that sleeps: the guest does not see the
/// request's result, so its bells are rung here.
#[derive(Debug)]
pub struct RequestPort {
    memory: Arc<Memory>,
    bells: Bells,
    caller: Credentials,
    vcpu: u32,
}

impl RequestPort {
    /// The port of the vCPU of that number, of a VM that is that caller. No other port of the VM
    /// has the number: the switch relies on it that a vCPU makes one call at a time.
    pub fn new(memory: Arc<Memory>, bells: Bells, caller: Credentials, vcpu: u32) -> RequestPort {
        RequestPort {
            memory,
            bells,
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
        let result = self
            .memory
            .serve(&self.caller, self.vcpu, request, count, flags);
        // Results that are errors have all bits.
        if result & TX_BELL != 0 && result < ERR_NO_SECRET {
            self.ring((flags >> TX_QUEUE_SHIFT) as u32);
        }
    }

    /// Rings the bells that the switch has noted in a TX queue.
    fn ring(&self, queue: u32) {
        let bells = self.memory.switch().take_bells(self.caller.port(), queue);
        for bell in queues_of(bells).filter_map(|number| self.bells.get(number as usize)) {
            event::signal(bell);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use postern_abi::service::{OP_NOP, OP_TX, tx_flags};
    use postern_abi::window::{ARMED, Geometry, PortId, RecordHeader, record_size};
    use postern_nic_client::memory::draw_secret;
    use postern_switch::switch::Switch;
    use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

    fn bells(geometry: Geometry) -> Bells {
        let event = |_| Arc::new(EventFd::new(libc::EFD_NONBLOCK).unwrap());
        (0..geometry.senders()).map(event).collect()
    }

    /// Puts a frame of 60 bytes from port 1 to port 0 at the end of a TX ring.
    fn put_frame(switch: &Switch<'_>, port: PortId, queue: u32) -> u32 {
        let producer = switch.tx_producer(port, queue).unwrap();
        let at = producer.load(Relaxed);
        let (first, second) = RecordHeader::plain(60).words();
        let ring = switch.tx_ring(port, queue).unwrap();
        // SAFETY: the position is aligned and far from the ring's end, and the ring's words are only
        // accessed atomically.
        unsafe {
            let record = ring.add(at as usize).cast::<AtomicU64>();
            (*record).store(first, Relaxed);
            (*record.add(1)).store(second, Relaxed);
            let addresses = [2, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 1, 0x88, 0xb5, 0, 0];
            for (index, word) in addresses.as_chunks::<8>().0.iter().enumerate() {
                (*record.add(2 + index)).store(u64::from_le_bytes(*word), Relaxed);
            }
        }
        let end = at + record_size(60) as u32;
        producer.store(end, Relaxed);
        end
    }

    #[test]
    fn receivers_that_sleep_are_woken_in_the_guests_place() {
        let geometry = Geometry::new(2, 2, 1 << 12, 1 << 12).unwrap();
        let memory = Arc::new(Memory::create(geometry).unwrap());
        let switch = memory.switch();
        let [receiver, sender] = [0, 1].map(|number| geometry.port(number).unwrap());
        let secret = draw_secret().unwrap();
        for port in [receiver, sender] {
            switch.admit(port, 5, secret, [2, 0, 0, 0, 0, port.number() as u8]);
        }
        let caller = Credentials::new(geometry, sender, 5, secret);
        let bells = bells(geometry);
        let mut port = RequestPort::new(Arc::clone(&memory), Arc::clone(&bells), caller, 0);
        let rung = || {
            let counts = bells.iter().map(|bell| event::take(bell));
            counts.collect::<Vec<_>>()
        };
        let mut send = || {
            put_frame(&switch, sender, 1);
            port.serve(secret.request(OP_TX), 16, tx_flags(1, false));
        };
        // The queue that the frames go to.
        let words = [0, 1].map(|queue| switch.latest(receiver, queue).unwrap());
        let before = words.map(|latest| latest.load(Relaxed));
        send();
        assert_eq!(rung(), [0; 4], "nobody sleeps");
        let mut changes = words.iter().zip(before);
        let queue = changes.position(|(latest, before)| latest.load(Relaxed) != before);
        let (queue, mut expected) = (queue.unwrap(), [0; 4]);
        let latest = words[queue];
        latest.fetch_or(ARMED, Relaxed);
        send();
        expected[queue] = 1;
        assert_eq!(rung(), expected);
        send();
        assert_eq!(rung(), [0; 4], "once");
        // Bells that a guest has put there itself, one of them of no queue, go with the next.
        let window = switch.window(sender).unwrap();
        let offset = geometry.bells_offset(1) as usize;
        // SAFETY: an aligned word of the port's window, which is only accessed atomically.
        let word = unsafe { AtomicU64::from_ptr(window.add(offset).cast()) };
        word.store(1 << 3 | 1 << 40, Relaxed);
        send();
        assert_eq!(rung(), [0; 4]);
        latest.fetch_or(ARMED, Relaxed);
        send();
        expected[3] = 1;
        assert_eq!(rung(), expected);
        // A refused request has all bits of a result.
        word.store(1, Relaxed);
        port.serve(secret.request(OP_TX), 16, tx_flags(2, false));
        port.serve(OP_TX, 16, tx_flags(1, false));
        assert_eq!(rung(), [0; 4]);
    }

    #[test]
    fn requests_reach_the_switch_under_the_number_of_the_vcpu() {
        let geometry = Geometry::new(2, 2, 1 << 12, 1 << 12).unwrap();
        let memory = Arc::new(Memory::create(geometry).unwrap());
        let (port, secret) = (geometry.port(1).unwrap(), draw_secret().unwrap());
        let caller = Credentials::new(geometry, port, 5, secret);
        let switch = memory.switch();
        switch.admit(port, 5, secret, [2, 0, 0, 0, 0, 1]);
        let end = put_frame(&switch, caller.port(), 1);
        let mut ports = [0, 1, 2]
            .map(|vcpu| RequestPort::new(Arc::clone(&memory), bells(geometry), caller, vcpu));
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
