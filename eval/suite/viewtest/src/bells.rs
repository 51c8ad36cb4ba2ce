//! Bells: what a hypercall signals for those who sleep, so that its guest need not exit once more.

use std::fs::File;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use kvm_bindings::{KVM_IRQ_ROUTING_MSI, KvmIrqRouting, kvm_irq_routing_entry};
use libc::{EBADF, EEXIST, EFAULT, EINVAL, ENOTTY, EROFS};
use postern_abi::kvm::{EptViewBells, MAX_BELLS, RIGHT_HYPERCALL, RIGHT_STRICT};
use postern_abi::service::TX_BELL;
use postern_abi::window::{ARMED, BELL_WORDS, Published};
use vmm_sys_util::eventfd::EventFd;

use crate::Test;
use crate::arguments::{expect, serves_hypercalls};
use crate::guest::{ADD, Stop, Template, Vm, VmOptions, and_out, attach_argument};
use crate::hypercall::{QUEUES, TestNic, can_run, transmit_code};
use crate::lifetime::{kill, leaves_nothing, spawn};
use crate::sys::{self, errno};

pub const TESTS: &[Test] = &[
    (
        "bells are eventfds, given once, before the template is sealed",
        given,
    ),
    (
        "a hypercall rings for those who sleep, and nobody else",
        rings,
    ),
    (
        "a guest that writes bells itself rings each once a call, and no other eventfd",
        written_by_the_guest,
    ),
    ("a template without bells leaves them to the guest", without),
    ("a bell that is an irqfd interrupts another VM", interrupts),
    (
        "bells outlive their descriptors and their owner",
        owner_first,
    ),
    (
        "an owner of bells that is killed at any instant leaves nothing behind",
        killed_anywhere,
    ),
];

/// RX queues of the two ports of a [`TestNic`].
const BELLS: usize = 2 * QUEUES as usize;

fn eventfd() -> Result<EventFd> {
    EventFd::new(libc::EFD_NONBLOCK).context("eventfd")
}

fn eventfds(count: usize) -> Result<Vec<EventFd>> {
    (0..count).map(|_| eventfd()).collect()
}

/// The argument that gives these descriptors, which it borrows.
fn argument(fds: &[RawFd]) -> EptViewBells {
    EptViewBells {
        fds: fds.as_ptr() as u64,
        bells: fds.len() as u32,
        ..EptViewBells::default()
    }
}

fn give(template: &File, bells: &[EventFd]) -> Result<()> {
    let fds: Vec<RawFd> = bells.iter().map(AsRawFd::as_raw_fd).collect();
    sys::bells(template, &argument(&fds)).context("give bells")
}

/// How often each was signalled since it was last asked.
fn rung(bells: &[EventFd]) -> Vec<u64> {
    bells
        .iter()
        .map(|bell| bell.read().unwrap_or_default())
        .collect()
}

fn given() -> Result<()> {
    let most = sys::max_bells()?;
    let wanted = if serves_hypercalls()? { MAX_BELLS } else { 0 };
    ensure!(
        most == wanted,
        "KVM_CHECK_EXTENSION says {most}, wanted {wanted}"
    );
    let template = Template::open(ADD)?;
    let bell = eventfd()?;
    let null = File::open("/dev/null")?;
    let (bell, other) = (bell.as_raw_fd(), null.as_raw_fd());
    let (no_descriptor, another, behind) = ([-1], [other], [bell, other]);
    let a_template = [sys::raw(&template.file)];
    let fds = vec![bell; MAX_BELLS as usize + 1];
    let good = argument(&fds[..2]);
    let give = |argument: &EptViewBells| errno(sys::bells(&template.file, argument));
    let cases: &[(&str, EptViewBells, i32)] = &[
        ("none", EptViewBells { bells: 0, ..good }, EINVAL),
        ("too many", argument(&fds), EINVAL),
        ("flags", EptViewBells { flags: 1, ..good }, EINVAL),
        ("nothing there", EptViewBells { fds: 0, ..good }, EFAULT),
        (
            "kernel address",
            EptViewBells {
                fds: 0xffff_8880_0000_0000,
                ..good
            },
            EFAULT,
        ),
        ("no descriptor", argument(&no_descriptor), EBADF),
        ("another file", argument(&another), EINVAL),
        ("a template", argument(&a_template), EINVAL),
        ("another file behind a bell", argument(&behind), EINVAL),
    ];
    for (what, argument, wanted) in cases {
        expect(what, give(argument), *wanted)?;
    }
    for field in 0..good.reserved.len() {
        let mut argument = good;
        argument.reserved[field] = 1 << 63;
        expect("reserved", give(&argument), EINVAL)?;
    }
    let before = sys::info(&template.file)?.kernel_bytes;
    expect("as many as can be", give(&argument(&fds[1..])), 0)?;
    let cost = sys::info(&template.file)?.kernel_bytes - before;
    ensure!(
        cost == 8 * u64::from(MAX_BELLS),
        "the bells take {cost} bytes"
    );
    expect("twice", give(&good), EEXIST)?;
    sys::seal(&template.file, &Template::seal_argument(RIGHT_STRICT))?;
    expect("twice, sealed", give(&good), EROFS)?;
    let sealed = Template::sealed(ADD)?;
    let got = errno(sys::bells(&sealed.file, &good));
    expect("sealed without bells", got, EROFS)?;
    let got = errno(sys::bells(&sealed.grant()?, &good));
    expect("of a grant", got, ENOTTY)
}

/// A NIC whose first port's VM makes hypercalls, and a frame for the second port in its ring.
struct Sender {
    nic: TestNic,
    vm: Vm,
}

impl Sender {
    /// With a template that has these bells.
    fn new(bells: &[EventFd]) -> Result<(Sender, Template)> {
        let nic = TestNic::new()?;
        let template = nic.open_template()?;
        if !bells.is_empty() {
            give(&template.file, bells)?;
        }
        nic.seal(&template, nic.memory.size())?;
        let grant = sys::grant(&template.file, &nic.grant_argument())?;
        let vm = Vm::new(&[], VmOptions::default())?;
        sys::attach(&vm.vcpu, &attach_argument(&grant, RIGHT_HYPERCALL))?;
        Ok((Sender { nic, vm }, template))
    }

    /// Has the receivers of these RX queues of the second port sleep, and nobody else.
    fn arm(&self, queues: &[u32]) -> Result<()> {
        let switch = self.nic.memory.switch();
        for queue in 0..QUEUES {
            let latest = switch.latest(self.nic.ports[1], queue).context("latest")?;
            if queues.contains(&queue) {
                latest.fetch_or(ARMED, Relaxed);
            } else {
                latest.fetch_and(!ARMED, Relaxed);
            }
        }
        Ok(())
    }

    /// The words of the first TX queue's bells, which the guest can write.
    fn bells(&self) -> Result<[&AtomicU64; BELL_WORDS]> {
        let switch = self.nic.memory.switch();
        switch.bells(self.nic.ports[0], 0).context("bells")
    }

    /// What the words of the bells hold.
    fn noted(&self) -> Result<[u64; BELL_WORDS]> {
        Ok(self.bells()?.map(|word| word.load(Relaxed)))
    }

    /// Sends one frame by a hypercall, has it received, and gives the call's result.
    fn send(&mut self) -> Result<u64> {
        self.nic.queue_frame()?;
        self.vm.restart(&and_out(transmit_code(0)))?;
        let stop = self.vm.run_through();
        ensure!(matches!(stop, Stop::Out(_)), "it stopped with {stop:?}");
        self.receive()?;
        Ok(self.vm.vcpu.get_regs()?.rax)
    }

    /// Takes all frames out of the second port's lanes.
    fn receive(&self) -> Result<()> {
        let (switch, port) = (self.nic.memory.switch(), self.nic.ports[1]);
        for queue in 0..QUEUES {
            for lane in 0..self.nic.memory.geometry().lanes() {
                let published = switch.published(port, queue, lane).context("a lane")?;
                let consumed = switch.consumed(port, queue, lane).context("a lane")?;
                let position = Published::from_word(published.load(Acquire)).position;
                consumed.store(position, Release);
            }
        }
        Ok(())
    }

    /// Sends one frame, and compares which bells ring, and how many KVM says these were.
    fn expect(&mut self, what: &str, bells: &[EventFd], wanted: &[u64]) -> Result<()> {
        let before = sys::stats(&self.vm.vcpu, 0)?.bells;
        let result = self.send()?;
        ensure!(result == 1, "{what}: the guest is told {result:#x}");
        let got = rung(bells);
        ensure!(got == wanted, "{what}: {got:?} rang, wanted {wanted:?}");
        let counted = sys::stats(&self.vm.vcpu, 0)?.bells - before;
        let sum = wanted.iter().sum::<u64>();
        ensure!(counted == sum, "{what}: {counted} are counted of {sum}");
        Ok(())
    }
}

fn rings() -> Result<()> {
    can_run()?;
    let bells = eventfds(BELLS)?;
    let (mut sender, _template) = Sender::new(&bells)?;
    sender.expect("nobody sleeps", &bells, &[0; BELLS])?;
    // The NIC has two RX queues for the second port, one of which gets the frame.
    sender.arm(&[0, 1])?;
    let result = sender.send()?;
    ensure!(result == 1, "the guest is told {result:#x}");
    let got = rung(&bells);
    let queue = match got[..] {
        [0, 0, 1, 0] => 0,
        [0, 0, 0, 1] => 1,
        _ => anyhow::bail!("{got:?} rang"),
    };
    ensure!(
        sender.noted()? == [0; BELL_WORDS],
        "bells are left to the guest"
    );
    sender.arm(&[])?;
    sender.expect("it was woken", &bells, &[0; BELLS])?;
    sender.arm(&[1 - queue])?;
    sender.expect("the other queue sleeps", &bells, &[0; BELLS])?;
    sender.arm(&[queue])?;
    sender.expect("it sleeps again", &bells, &got)?;
    Ok(())
}

fn written_by_the_guest() -> Result<()> {
    can_run()?;
    // One RX queue has no bell.
    let bells = eventfds(BELLS - 1)?;
    let others = eventfds(2)?;
    let (mut sender, _template) = Sender::new(&bells)?;
    for word in sender.bells()? {
        word.store(u64::MAX, Relaxed);
    }
    sender.expect("nobody sleeps", &bells, &[0; BELLS - 1])?;
    ensure!(
        sender.noted()? == [u64::MAX; BELL_WORDS],
        "a call that rings nothing took bells"
    );
    sender.arm(&[0, 1])?;
    sender.expect("all bits are set", &bells, &[1; BELLS - 1])?;
    ensure!(
        sender.noted()? == [0; BELL_WORDS],
        "bits are left to the guest"
    );
    ensure!(rung(&others) == [0; 2], "another eventfd was signalled");
    Ok(())
}

fn without() -> Result<()> {
    can_run()?;
    let (mut sender, _template) = Sender::new(&[])?;
    sender.arm(&[0, 1])?;
    let result = sender.send()?;
    ensure!(
        result == TX_BELL | 1,
        "the guest is told {result:#x}, and cannot know of the bell"
    );
    let [first, rest @ ..] = sender.noted()?;
    ensure!(
        (first == 1 << 2 || first == 1 << 3) && rest == [0; BELL_WORDS - 1],
        "{first:#x}, {rest:?} is left to the guest"
    );
    Ok(())
}

/// Turns interrupts on and waits for one, but not for ever: `sti; mov ecx, 1000000; dec ecx; jnz` to it.
const WAIT_FOR_INTERRUPT: [u8; 10] = [0xfb, 0xb9, 0x40, 0x42, 0x0f, 0x00, 0xff, 0xc9, 0x75, 0xfc];

/// A VM that waits for an interrupt by the message to which an event descriptor is wired. It has no
/// handler, so that it shuts down.
fn waiting_vm(bell: &EventFd) -> Result<Vm> {
    const GSI: u32 = 24;
    /// Offset in the APIC's page of the register that turns it on, and the bit that does.
    const SPURIOUS: usize = 0xf0;
    const ENABLED: u8 = 1;
    let options = VmOptions {
        kernel: true,
        ..VmOptions::default()
    };
    let vm = Vm::new(&and_out(WAIT_FOR_INTERRUPT.to_vec()), options)?;
    let mut apic = vm.vcpu.get_lapic()?;
    apic.regs[SPURIOUS + 1] |= ENABLED as i8;
    vm.vcpu.set_lapic(&apic)?;
    let mut route = kvm_irq_routing_entry {
        gsi: GSI,
        type_: KVM_IRQ_ROUTING_MSI,
        ..Default::default()
    };
    route.u.msi.address_lo = 0xfee0_0000;
    route.u.msi.data = 0x40;
    let routes = KvmIrqRouting::from_entries(&[route]).map_err(|error| anyhow!("{error:?}"))?;
    vm.fd.set_gsi_routing(&routes)?;
    vm.fd.register_irqfd(bell, GSI)?;
    Ok(vm)
}

fn interrupts() -> Result<()> {
    can_run()?;
    for sleeps in [false, true] {
        let bells = eventfds(BELLS)?;
        let (mut sender, _template) = Sender::new(&bells)?;
        let mut receivers = Vec::new();
        for bell in &bells[2..] {
            receivers.push(waiting_vm(bell)?);
        }
        sender.arm(if sleeps { &[0, 1] } else { &[] })?;
        ensure!(sender.send()? == 1, "the guest is told of a bell");
        let stops: Vec<Stop> = receivers.iter_mut().map(Vm::run_through).collect();
        let interrupted = stops.iter().filter(|stop| **stop == Stop::Shutdown).count();
        ensure!(
            interrupted == usize::from(sleeps)
                && stops
                    .iter()
                    .all(|stop| matches!(stop, Stop::Shutdown | Stop::Out(_))),
            "asleep: {sleeps}; the receivers stopped with {stops:?}"
        );
    }
    Ok(())
}

/// Who made the bells closes all of his descriptors, and dies; a hypercall rings them all the same.
fn owner_first() -> Result<()> {
    const SENT: u64 = 40;
    can_run()?;
    leaves_nothing(|| {
        let bells = eventfds(BELLS)?;
        let (mut sender, template) = Sender::new(&bells)?;
        // It has the template and the bells as they are now.
        let child = spawn(|| {
            loop {
                std::thread::sleep(Duration::from_secs(1));
            }
        })?;
        drop(template);
        let heard: Vec<EventFd> = bells
            .iter()
            .map(EventFd::try_clone)
            .collect::<std::io::Result<_>>()?;
        drop(bells);
        kill(child)?;
        sender.arm(&[0, 1])?;
        ensure!(sender.send()? == 1, "the guest is told of a bell");
        let got = rung(&heard);
        ensure!(got.iter().sum::<u64>() == 1, "{got:?} rang");
        // Nobody can hear them now. The ring does not wrap.
        drop(heard);
        for _ in 0..SENT {
            sender.arm(&[0, 1])?;
            ensure!(sender.send()? == 1, "the guest is told of a bell");
        }
        let counted = sys::stats(&sender.vm.vcpu, 0)?.bells;
        ensure!(counted == SENT + 1, "{counted} bells are counted");
        Ok(())
    })
}

fn killed_anywhere() -> Result<()> {
    can_run()?;
    leaves_nothing(|| {
        for round in 0..20u64 {
            let child = spawn(|| {
                while let Ok(bells) = eventfds(BELLS) {
                    let Ok((mut sender, _template)) = Sender::new(&bells) else {
                        return;
                    };
                    for _ in 0..20 {
                        if sender.arm(&[0, 1]).is_err() || sender.send().is_err() {
                            return;
                        }
                    }
                }
            })?;
            std::thread::sleep(Duration::from_micros(571 * round * round % 40_000));
            kill(child)?;
        }
        Ok(())
    })
}
