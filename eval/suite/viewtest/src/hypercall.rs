//! The service in the module: whom it serves, by the words of the grant, as which member, and until
//! when.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{Relaxed, Release};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use libc::EINVAL;
use postern_abi::kvm::{
    AttachEptView, EptViewGrant, EptViewMap, EptViewSeal, RIGHT_HYPERCALL, RIGHT_STRICT, VIEW_READ,
    VIEW_WRITE,
};
use postern_abi::service::{ERR_BAD_REQUEST, OP_TX, Secret, hypercall, tx_flags};
use postern_abi::view::{DATA_GVA, SLOTS};
use postern_abi::window::{Geometry, PortId, RecordHeader, record_size};
use postern_abi::{PAGE_SIZE, window};
use postern_nic_client::memory::Memory;
use postern_switch::credentials::{CredentialWords, Credentials};

use crate::arguments::serves_hypercalls;
use crate::calls::expect_stop;
use crate::guest::{
    ADD, FLAG, ID, OUT, SPIN, Stop, Template, Vm, VmOptions, and_out, attach_argument, call_slot,
};
use crate::sys::{self, errno};
use crate::{Test, skip};

pub const TESTS: &[Test] = &[
    ("the service in the module checks each word", words),
    ("the service in the module knows the member", members),
    ("rights of a hypercall and of a view do not mix", rights),
    ("after a revocation no hypercall is served", revoked),
];

/// Address of the NIC's memory in the views of this file.
const NIC_GVA: u64 = DATA_GVA + (1 << 30);

/// Tenancies of the VM that calls, and of the one that receives.
const TENANCIES: [u32; 2] = [0x51, 0x52];

/// The queues of a port; vCPUs from this number on have none.
pub const QUEUES: u32 = 2;

/// The secret of all tenancies.
const SECRET: Secret = Secret::from_word(0x5ec2_0000_1234_5678);

/// The memory of a NIC of two ports, both with a tenant.
pub struct TestNic {
    /// The memory.
    pub memory: Memory,
    /// The ports.
    pub ports: [PortId; 2],
}

impl TestNic {
    /// A new one, whose rings are empty.
    pub fn new() -> Result<TestNic> {
        let geometry = Geometry::new(2, QUEUES, window::MIN_RING, window::MIN_RING)
            .map_err(|error| anyhow::anyhow!("{error:?}"))?;
        let memory = Memory::create(geometry)?;
        let port = |number| geometry.port(number).context("a port of the two");
        let ports = [port(0)?, port(1)?];
        for (port, tenancy) in ports.into_iter().zip(TENANCIES) {
            memory.switch().admit(port, tenancy, SECRET, mac(port));
        }
        Ok(TestNic { memory, ports })
    }

    /// The words of the first port's tenant.
    fn words(&self) -> CredentialWords {
        let geometry = self.memory.geometry();
        Credentials::new(geometry, self.ports[0], TENANCIES[0], SECRET).words()
    }

    /// A template with all of the memory, not sealed.
    pub fn open_template(&self) -> Result<Template> {
        let template = Template::open(ADD)?;
        sys::map(
            &template.file,
            &EptViewMap {
                gva: NIC_GVA,
                user_addr: self.memory.base().as_ptr() as u64,
                size: self.memory.size(),
                prot: VIEW_READ | VIEW_WRITE,
                ..Default::default()
            },
        )?;
        Ok(template)
    }

    /// Seals it; the service's data are `size` bytes of the memory.
    pub fn seal(&self, template: &Template, size: u64) -> Result<()> {
        let argument = EptViewSeal {
            data_gva: NIC_GVA,
            data_size: size,
            ..Template::seal_argument(RIGHT_HYPERCALL | RIGHT_STRICT)
        };
        sys::seal(&template.file, &argument).context("seal the NIC's template")
    }

    /// A sealed template.
    fn template(&self, size: u64) -> Result<Template> {
        let template = self.open_template()?;
        self.seal(&template, size)?;
        Ok(template)
    }

    /// What grants the first port.
    pub fn grant_argument(&self) -> EptViewGrant {
        EptViewGrant {
            rights: RIGHT_HYPERCALL,
            members: QUEUES + 1,
            caller: self.words(),
            ..Template::grant_argument()
        }
    }

    /// Puts a frame for all ports into the first port's first ring, which is empty.
    pub fn queue_frame(&self) -> Result<()> {
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

    /// Takes the queued frame back.
    fn take_frame(&self) -> Result<()> {
        let switch = self.memory.switch();
        let port = self.ports[0];
        let producer = switch.tx_producer(port, 0).context("producer")?;
        let consumer = switch.tx_consumer(port, 0).context("consumer")?;
        producer.store(consumer.load(Relaxed), Release);
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
                    .published(self.ports[1], queue, sender)
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

/// `mov rdi, OP_TX with the secret; mov esi, 1; mov edx, flags; mov eax, HYPERCALL + slot; vmcall`.
pub fn transmit_code(slot: u32) -> Vec<u8> {
    let mut code = vec![0x48, 0xbf];
    code.extend_from_slice(&SECRET.request(OP_TX).to_le_bytes());
    for (opcode, value) in [
        (0xbe, 1),
        (0xba, tx_flags(0, false)),
        (0xb8, hypercall(slot)),
    ] {
        code.push(opcode);
        code.extend_from_slice(&(value as u32).to_le_bytes());
    }
    code.extend_from_slice(&[0x0f, 0x01, 0xc1]);
    code
}

/// Whether these tests can be run; says so if not.
pub fn can_run() -> Result<()> {
    match serves_hypercalls()? {
        true => Ok(()),
        false => skip("kvm-intel was not loaded with ept_views_hypercall=1"),
    }
}

fn words() -> Result<()> {
    can_run()?;
    let nic = TestNic::new()?;
    let (good, size) = (nic.words(), nic.memory.size());
    let template = nic.template(size)?;
    let grant = |template: &Template, caller: CredentialWords| {
        let argument = EptViewGrant {
            caller,
            ..nic.grant_argument()
        };
        errno(sys::grant(&template.file, &argument))
    };
    ensure!(grant(&template, good) == 0, "the right words are refused");
    // The sixth word is the secret, of which any value is one.
    for index in (0..good.len()).filter(|index| *index != 5) {
        let mut bad = good;
        // Anything may stand in the lower half of the first word.
        bad[index] ^= 1 << 40;
        let got = grant(&template, bad);
        ensure!(got == EINVAL, "word {index} is wrong: errno {got}");
        // To the kernel words mean nothing where they are for a view.
        let strict = EptViewGrant {
            rights: RIGHT_STRICT,
            caller: bad,
            ..nic.grant_argument()
        };
        let got = errno(sys::grant(&template.file, &strict));
        ensure!(got == 0, "word {index} for a view: errno {got}");
    }
    let short = nic.template(size - PAGE_SIZE)?;
    let got = grant(&short, good);
    ensure!(got == EINVAL, "data too short: errno {got}");
    Ok(())
}

fn members() -> Result<()> {
    can_run()?;
    let nic = TestNic::new()?;
    let template = nic.template(nic.memory.size())?;
    let grant = sys::grant(&template.file, &nic.grant_argument())?;
    for member in 0..=QUEUES {
        nic.queue_frame()?;
        let before = nic.received()?;
        // Neither the slot nor the vCPU's number in its VM says who calls.
        let slot = (member + 3) % SLOTS;
        let options = VmOptions {
            vcpu: u64::from(QUEUES - member),
            ..VmOptions::default()
        };
        let mut vm = Vm::new(&and_out(transmit_code(slot)), options)?;
        let argument = AttachEptView {
            slot,
            member,
            ..attach_argument(&grant, RIGHT_HYPERCALL)
        };
        sys::attach(&vm.vcpu, &argument)?;
        let stop = vm.run();
        ensure!(
            matches!(stop, Stop::Out(_)),
            "member {member} stopped with {stop:?}"
        );
        let result = vm.vcpu.get_regs()?.rax;
        let mut wanted = before;
        match wanted.get_mut(member as usize) {
            Some(bytes) => {
                ensure!(
                    result == 1,
                    "member {member}: {result:#x} frames were taken"
                );
                *bytes += record_size(64) as u32;
            }
            None => ensure!(result == ERR_BAD_REQUEST, "member {member} got {result:#x}"),
        }
        let after = nic.received()?;
        ensure!(
            after == wanted,
            "member {member}: the lanes have {after:?} bytes, wanted {wanted:?}"
        );
        let stats = sys::stats(&vm.vcpu, slot)?;
        ensure!(stats.hypercalls == 1, "not one hypercall: {stats:?}");
    }
    Ok(())
}

/// A slot for hypercalls has no view, and a slot with a view serves no hypercall.
fn rights() -> Result<()> {
    can_run()?;
    let nic = TestNic::new()?;
    let template = nic.template(nic.memory.size())?;
    let argument = EptViewGrant {
        rights: RIGHT_HYPERCALL | RIGHT_STRICT,
        ..nic.grant_argument()
    };
    let grant = sys::grant(&template.file, &argument)?;
    let code = and_out(call_slot(1, 5, 7));
    let mut vm = Vm::new(&code, VmOptions::default())?;
    let hypercall = AttachEptView {
        slot: 1,
        ..attach_argument(&grant, RIGHT_HYPERCALL)
    };
    let strict = AttachEptView {
        slot: 2,
        member: 1,
        ..attach_argument(&grant, RIGHT_STRICT)
    };
    sys::attach(&vm.vcpu, &hypercall)?;
    sys::attach(&vm.vcpu, &strict)?;
    expect_stop(&mut vm, &Stop::Shutdown)?;
    // The slot with the view can be entered, and no VMCALL reaches it.
    vm.restart(&and_out(call_slot(2, 5, 7)))?;
    expect_stop(&mut vm, &Stop::Out(0))?;
    ensure!(vm.vcpu.get_regs()?.rdx == 12, "the view did not answer");
    nic.queue_frame()?;
    let before = nic.received()?;
    vm.restart(&and_out(transmit_code(2)))?;
    let stop = vm.run();
    ensure!(
        matches!(stop, Stop::Out(_) | Stop::Shutdown),
        "it stopped with {stop:?}"
    );
    ensure!(
        nic.received()? == before && sys::stats(&vm.vcpu, 2)?.hypercalls == 0,
        "a VMCALL was served for a slot with a view"
    );
    Ok(())
}

/// Where the guest of [`revoked`] tells that it has begun.
const BEGUN: usize = 0x5000;

/// Revokes while a vCPU does nothing but hypercalls: those that began before are done when it
/// returns, and the next ones are not served.
fn revoked() -> Result<()> {
    can_run()?;
    let nic = TestNic::new()?;
    let template = nic.template(nic.memory.size())?;
    for round in 0..20u64 {
        let grant = sys::grant(&template.file, &nic.grant_argument())?;
        // Again and again, until it is told that the revocation is over; then once more. It tells
        // that it has begun: mov dword [BEGUN], 1
        let mut code = transmit_code(0);
        code.extend_from_slice(&[0xc7, 0x04, 0x25]);
        code.extend_from_slice(&(BEGUN as u32).to_le_bytes());
        code.extend_from_slice(&[1, 0, 0, 0]);
        // cmp dword [FLAG], 0; je to the start
        code.extend_from_slice(&SPIN[..8]);
        code.extend_from_slice(&[0x74, (256 - code.len() as u32 - 2) as u8]);
        code.extend_from_slice(&transmit_code(0));
        code.extend_from_slice(&OUT);
        let mut vm = Vm::new(&code, VmOptions::default())?;
        sys::attach(&vm.vcpu, &attach_argument(&grant, RIGHT_HYPERCALL))?;
        let memory = vm.memory.clone();
        let (stop, received) = std::thread::scope(|scope| -> Result<_> {
            let vcpu = scope.spawn(|| vm.run_through());
            while memory.read_word(BEGUN) == 0 {
                std::thread::sleep(Duration::from_millis(1));
            }
            std::thread::sleep(Duration::from_micros(171 * round));
            let count = template.revoke(ID);
            let received = nic.queue_frame().and_then(|()| nic.received());
            memory.write_word(FLAG, 1);
            let stop = vcpu.join().map_err(|_| anyhow!("the vCPU's thread died"))?;
            let count = count?;
            ensure!(count == 1, "{count} grants were revoked");
            Ok((stop, received?))
        })?;
        ensure!(
            matches!(stop, Stop::Out(_) | Stop::Shutdown),
            "it stopped with {stop:?}"
        );
        ensure!(
            nic.received()? == received,
            "a frame was switched after the revocation"
        );
        let stats = sys::stats(&vm.vcpu, 0)?;
        ensure!(
            stats.revoked == 1 && stats.hypercalls > 0,
            "round {round}: {stats:?}"
        );
        nic.take_frame()?;
    }
    Ok(())
}
