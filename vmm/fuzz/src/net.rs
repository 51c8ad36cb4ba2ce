//! A network device whose driver writes what it likes into its rings and its RAM. Input: a byte of
//! features, then steps.
#![forbid(unsafe_code)]

use std::os::unix::net::UnixDatagram;
use std::sync::Arc;

use postern_fuzz_input::Bytes;
use postern_vmm::virtio::Activation;
use postern_vmm::virtio::net::serve_once;
use vm_memory::{Bytes as _, GuestAddress};

use super::driver::{self, Rings, Told};

/// The queues: to receive, to transmit, and for commands.
const QUEUES: usize = 3;
const SIZE: u16 = 16;
/// `VIRTIO_NET_F_MRG_RXBUF`.
const MERGEABLE: u64 = 1 << 15;

/// Where the rings of a queue are: in 4 KiB, one after another.
fn rings(queue: usize) -> Rings {
    let base = 0x1000 * (1 + queue as u64);
    Rings {
        descriptors: base,
        available: base + 0x400,
        used: base + 0x800,
    }
}

/// Runs an input.
pub fn run(data: &[u8]) {
    let mut input = Bytes(data);
    let choice = input.u8();
    let memory = driver::memory();
    let (tap, network) = UnixDatagram::pair().unwrap();
    tap.set_nonblocking(true).unwrap();
    network.set_nonblocking(true).unwrap();
    let mut next = [0; QUEUES];
    // Each step is short, and so is an input.
    while !input.is_empty() {
        let step = input.u8();
        let rings_of_step = rings(usize::from(step >> 4) % QUEUES);
        match step % 6 {
            0 => {
                let index = u16::from(input.u8()) % SIZE;
                rings_of_step.write_descriptor(&memory, index, 1, &mut input);
            }
            1 => rings_of_step.write_head(&memory, input.u8() % 32, input.u8()),
            2 => rings_of_step.write_available(&memory, input.u8()),
            3 => {
                // A command, or anything else.
                let at = GuestAddress(u64::from(input.u16() & 0x7fff));
                let count = usize::from(input.u8());
                memory.write_slice(input.take(count), at).unwrap();
            }
            4 => {
                // A frame of the network's. The socket may be full.
                let _ = network.send(&vec![input.u8(); usize::from(input.u16())]);
            }
            _ => {
                let told = Arc::new(Told::default());
                let queues = next.iter().enumerate().map(|(queue, &next)| {
                    let event_idx = choice & 1 != 0;
                    Some(rings(queue).active((SIZE, SIZE), event_idx, next, told.clone()))
                });
                serve_once(
                    Activation {
                        memory: memory.clone(),
                        features: u64::from(choice >> 1 & 1) * MERGEABLE,
                        queues: queues.collect(),
                        config_changed: told.clone(),
                        status: told.clone(),
                    },
                    &tap,
                );
                told.check();
                for (queue, next) in next.iter_mut().enumerate() {
                    *next = rings(queue).available(&memory);
                }
                // What is sent has a header, and is the guest's RAM at most once a descriptor.
                let mut frame = vec![0; 0x1_8000 + 1];
                while let Ok(len) = network.recv(&mut frame) {
                    assert!(len >= 12);
                }
            }
        }
    }
}
