//! The service in the module: whom it serves, by the words that the view was sealed with, and as
//! which vCPU.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{Relaxed, Release};

use anyhow::{Context, Result, ensure};
use libc::EINVAL;
use postern_abi::kvm::{
    ATTACH_HYPERCALL, EptViewMap, EptViewSeal, VIEW_MODE_STRICT, VIEW_READ, VIEW_WRITE,
};
use postern_abi::service::{ERR_BAD_REQUEST, HYPERCALL, OP_TX, tx_flags};
use postern_abi::view::DATA_GVA;
use postern_abi::window::{Geometry, PortId, RecordHeader, record_size};
use postern_abi::{PAGE_SIZE, window};
use postern_nic_client::memory::Memory;
use postern_switch::credentials::{CredentialWords, Credentials};

use crate::Test;
use crate::guest::{ADD, OUT, Stop, View, Vm, VmOptions};
use crate::sys::{self, errno};

pub const TESTS: &[Test] = &[
    ("the service in the module checks each word", words),
    ("the service in the module knows the vCPU", vcpus),
];

/// Address of the NIC's memory in the views of this file.
const NIC_GVA: u64 = DATA_GVA + (1 << 30);

/// Tenancies of the VM that calls, and of the one that receives.
const TENANCIES: [u32; 2] = [0x51, 0x52];

/// The queues of a port; vCPUs from this number on have none.
const QUEUES: u32 = 2;

/// The memory of a NIC of two ports, both with a tenant.
struct TestNic {
    memory: Memory,
    ports: [PortId; 2],
}

impl TestNic {
    fn new() -> Result<TestNic> {
        let geometry = Geometry::new(2, QUEUES, window::MIN_RING, window::MIN_RING)
            .map_err(|error| anyhow::anyhow!("{error:?}"))?;
        let memory = Memory::create(geometry)?;
        let port = |number| geometry.port(number).context("a port of the two");
        let ports = [port(0)?, port(1)?];
        for (port, tenancy) in ports.into_iter().zip(TENANCIES) {
            memory.switch().admit(port, tenancy, mac(port));
        }
        Ok(TestNic { memory, ports })
    }

    /// The words of the first port's tenant.
    fn words(&self) -> CredentialWords {
        Credentials::new(self.memory.geometry(), self.ports[0], TENANCIES[0]).words()
    }

    /// A view with all of the memory, whose data are `size` bytes of it.
    fn view(&self, caller: CredentialWords, size: u64) -> Result<View> {
        let view = View::open(ADD)?;
        sys::map(
            &view.file,
            &EptViewMap {
                gva: NIC_GVA,
                user_addr: self.memory.base().as_ptr() as u64,
                size: self.memory.size(),
                prot: VIEW_READ | VIEW_WRITE,
                ..Default::default()
            },
        )?;
        sys::seal(
            &view.file,
            &EptViewSeal {
                data_gva: NIC_GVA,
                data_size: size,
                caller,
                ..View::seal_argument(VIEW_MODE_STRICT)
            },
        )?;
        Ok(view)
    }

    /// Puts a frame for all ports into the first port's first ring, which is empty.
    fn queue_frame(&self) -> Result<()> {
        let switch = self.memory.switch();
        let (ring, producer, consumer) = (
            switch.tx_ring(self.ports[0], 0).context("the ring")?,
            switch.tx_producer(self.ports[0], 0).context("producer")?,
            switch.tx_consumer(self.ports[0], 0).context("consumer")?,
        );
        let (start, length) = (consumer.load(Relaxed), 64);
        ensure!(producer.load(Relaxed) == start, "the ring is not empty");
        let (first, second) = RecordHeader::plain(length).words();
        let [a, b, c, d, e, f] = mac(self.ports[0]);
        let addresses = u64::from_le_bytes([0xff, 0xff, 0xff, 0xff, 0xff, 0xff, a, b]);
        let rest = u64::from_le_bytes([c, d, e, f, 0x88, 0xb5, 0, 0]);
        let ring_mask = self.memory.geometry().ring() - 1;
        for (index, word) in (0..).zip([first, second, addresses, rest]) {
            let offset = start.wrapping_add(index * 8) & ring_mask;
            // SAFETY: an aligned word of the ring, which is only accessed atomically.
            let target = unsafe { AtomicU64::from_ptr(ring.add(offset as usize).cast()) };
            target.store(word, Relaxed);
        }
        let end = start.wrapping_add(record_size(length) as u32);
        producer.store(end, Release);
        Ok(())
    }

    /// What the second port's lanes from each vCPU of the first have got, in bytes.
    fn received(&self) -> Result<[u32; QUEUES as usize]> {
        let (switch, geometry) = (self.memory.switch(), self.memory.geometry());
        let mut received = [0; QUEUES as usize];
        for (vcpu, bytes) in (0..).zip(&mut received) {
            let sender = geometry.sender(self.ports[0], vcpu);
            for queue in 0..QUEUES {
                let published = switch
                    .published(sender, self.ports[1], queue)
                    .context("a lane")?;
                *bytes += window::Published::from_word(published.load(Relaxed)).position;
            }
        }
        Ok(received)
    }
}

fn mac(port: PortId) -> [u8; 6] {
    [2, 0, 0, 0, 0, port.number() as u8]
}

/// `mov edi, OP_TX; mov esi, 1; mov edx, flags; mov eax, HYPERCALL; vmcall; out`.
fn transmit_code() -> Vec<u8> {
    let mut code = Vec::new();
    for (opcode, value) in [
        (0xbf, OP_TX),
        (0xbe, 1),
        (0xba, tx_flags(0, false)),
        (0xb8, HYPERCALL),
    ] {
        code.push(opcode);
        code.extend_from_slice(&(value as u32).to_le_bytes());
    }
    code.extend_from_slice(&[0x0f, 0x01, 0xc1]);
    code.extend_from_slice(&OUT);
    code
}

fn words() -> Result<()> {
    let nic = TestNic::new()?;
    let (good, size) = (nic.words(), nic.memory.size());
    let attach = |caller: CredentialWords, size: u64| -> Result<i32> {
        let view = nic.view(caller, size)?;
        let vm = Vm::new(&[], VmOptions::default())?;
        Ok(errno(sys::attach(
            &vm.vcpu,
            &view.attach_argument(ATTACH_HYPERCALL),
        )))
    };
    ensure!(attach(good, size)? == 0, "the right words are refused");
    for index in 0..good.len() {
        let mut bad = good;
        // Anything may stand in the lower half of the first word.
        bad[index] ^= 1 << 40;
        let got = attach(bad, size)?;
        ensure!(got == EINVAL, "word {index} is wrong: errno {got}");
    }
    let got = attach(good, size - PAGE_SIZE)?;
    ensure!(got == EINVAL, "data too short: errno {got}");
    Ok(())
}

fn vcpus() -> Result<()> {
    let nic = TestNic::new()?;
    let view = nic.view(nic.words(), nic.memory.size())?;
    for vcpu in 0..=u64::from(QUEUES) {
        nic.queue_frame()?;
        let before = nic.received()?;
        let options = VmOptions {
            vcpu,
            ..VmOptions::default()
        };
        let mut vm = Vm::new(&transmit_code(), options)?;
        sys::attach(&vm.vcpu, &view.attach_argument(ATTACH_HYPERCALL))?;
        let stop = vm.run();
        ensure!(
            matches!(stop, Stop::Out(_)),
            "vCPU {vcpu} stopped with {stop:?}"
        );
        let result = vm.vcpu.get_regs()?.rax;
        let mut wanted = before;
        match wanted.get_mut(vcpu as usize) {
            Some(bytes) => {
                ensure!(result == 1, "vCPU {vcpu}: {result:#x} frames were taken");
                *bytes += record_size(64) as u32;
            }
            None => ensure!(result == ERR_BAD_REQUEST, "vCPU {vcpu} got {result:#x}"),
        }
        let after = nic.received()?;
        ensure!(
            after == wanted,
            "vCPU {vcpu}: the lanes have {after:?} bytes, wanted {wanted:?}"
        );
        ensure!(sys::stats(&vm.vcpu)?.hypercalls == 1, "not one hypercall");
    }
    Ok(())
}
