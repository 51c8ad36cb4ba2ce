//! The questions, and how each is answered.
//!
//! A judge returns what it saw if all was well ([`Seen::Well`]), what was wrong ([`Seen::Wrong`]),
//! or why it cannot tell ([`Seen::Nothing`]). An error, which is a call that KVM refused, means the
//! last.
#![deny(unsafe_code)]

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use postern_abi::kvm::AbortExit;
use postern_abi::source::Source;
use postern_abi::view::IMAGE_GVA;
use postern_kvm::{Device, Right};

use super::code::{
    self, ARM, BEHIND_MISSES, DISARM, DONE, FLUSH_BEFORE, FLUSH_BETWEEN, MARKS, NOTHING, PORT_CR3,
    PORT_DONE, PORT_SERVICE, PORT_SLOT, ROUNDS_LEFT, STORE_LINES, STORES, VMFUNC_GVA, Work,
};
use super::effort::Effort;
use super::error::Error;
use super::guest::{CR3_GVA, Guest, ROOT_A, ROOT_B, SLOT_GVA, Stop};
use super::pages::Pages;
use super::service::{Attached, Service};
use crate::kvm::Host;
use crate::kvm_stats::KvmStats;

/// What a judge saw.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    /// What views rely on, this often.
    Well(String),
    /// Something else.
    Wrong(String),
    /// Nothing, for this reason.
    Nothing(String),
}

/// The result of a judge.
pub type Judged = Result<Seen, Error>;

/// Basic reason of an exit that a VMFUNC makes (SDM volume 3, "VMX Basic Exit Reasons").
const EXIT_REASON_VMFUNC: u32 = 59;

/// Mark of the service that takes the place of the first.
const OTHER_MARK: u8 = 0x22;

/// What judges work with.
pub struct Bench<'a> {
    /// KVM, for VMs.
    pub host: &'a Host,
    /// KVM, for views.
    pub device: &'a Device,
    /// How the service is called.
    pub right: Right,
    /// How often things are tried.
    pub effort: Effort,
    /// The machine's label.
    pub source: Source,
}

impl Bench<'_> {
    fn service(&self, mark: u8) -> Result<Service, Error> {
        Service::new(self.device, self.right, mark)
    }

    /// A VM with a service attached.
    fn guest(&self) -> Result<(Guest, Service, Attached), Error> {
        let service = self.service(MARKS[0])?;
        let guest = Guest::new(self.host)?;
        let attached = service.attach(&guest)?;
        Ok((guest, service, attached))
    }
}

/// What comes before and between the store to the list and the VMFUNC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Variant {
    /// Its name.
    pub name: &'static str,
    flags: u64,
    contended: bool,
}

const fn variant(name: &'static str, flags: u64, contended: bool) -> Variant {
    Variant {
        name,
        flags,
        contended,
    }
}

/// All variants.
pub const VARIANTS: [Variant; 5] = [
    variant("at once", 0, false),
    variant("line flushed before", FLUSH_BEFORE, false),
    variant("line flushed between", FLUSH_BETWEEN, false),
    variant(
        "behind stores that miss",
        FLUSH_BEFORE | BEHIND_MISSES,
        false,
    ),
    variant("contended", FLUSH_BEFORE | BEHIND_MISSES, true),
];

/// A store that makes an entry valid is seen by the VMFUNC behind it.
pub fn arm_is_seen(bench: &Bench<'_>, variant: Variant) -> Judged {
    let (mut guest, service, attached) = bench.guest()?;
    let rounds = bench.effort.stores;
    service.data.store(ROUNDS_LEFT, rounds);
    with_contention(variant, &service, || {
        guest.start(Work::Calls, [0, 1, ARM, rounds, variant.flags])?;
        let stop = guest.run();
        let done = rounds - service.data.load(ROUNDS_LEFT).min(rounds);
        Ok(match stop {
            Stop::Out(PORT_DONE, _) if guest.rbx()? == DONE && done == rounds => {
                expect_quiet(&attached, format!("{rounds} of {rounds} VMFUNCs entered"))?
            }
            Stop::Aborted(AbortExit {
                exit_reason: EXIT_REASON_VMFUNC,
                ..
            }) => Seen::Wrong(format!(
                "after {done} of {rounds} rounds a VMFUNC exited: it did not see the store"
            )),
            stop => Seen::Wrong(format!("after {done} of {rounds} rounds: {stop:x?}")),
        })
    })
}

/// A store that makes an entry invalid is seen by the VMFUNC behind it, though the entry was used
/// just before.
pub fn disarm_is_seen(bench: &Bench<'_>, variant: Variant) -> Judged {
    let (mut guest, service, attached) = bench.guest()?;
    let offsets = code::refused_offsets();
    let rip = IMAGE_GVA + offsets[usize::from(variant.flags & FLUSH_BETWEEN != 0)];
    let rounds = bench.effort.refusals;
    with_contention(variant, &service, || {
        for round in 0..rounds {
            guest.start(Work::Calls, [0, 1, DISARM, 0, variant.flags])?;
            match guest.run() {
                Stop::Aborted(exit)
                    if exit.exit_reason == EXIT_REASON_VMFUNC && exit.rip == rip => {}
                Stop::Out(PORT_DONE, _) => {
                    return Ok(Seen::Wrong(format!(
                        "in round {round} of {rounds} a VMFUNC entered by an entry that was \
                         invalid"
                    )));
                }
                stop => return Ok(Seen::Wrong(format!("in round {round}: {stop:x?}"))),
            }
        }
        let aborts = attached.stats()?.aborts;
        Ok(match aborts == rounds {
            true => Seen::Well(format!("{rounds} of {rounds} VMFUNCs exited")),
            false => Seen::Wrong(format!("{rounds} VMFUNCs exited, KVM counted {aborts}")),
        })
    })
}

/// Does something while another thread writes to the cache lines that the service's stores go to,
/// and drives everything else out of the caches.
fn with_contention(variant: Variant, service: &Service, work: impl FnOnce() -> Judged) -> Judged {
    /// More than the last cache of most processors.
    const SWEPT_PAGES: u64 = 64 << 8;
    if !variant.contended {
        return work();
    }
    if thread::available_parallelism().map_or(1, usize::from) < 2 {
        return Ok(Seen::Nothing(
            "this process may use one processor only, so nothing contends".to_owned(),
        ));
    }
    let swept = Pages::filled(SWEPT_PAGES, 0)?;
    let (stop, running) = (AtomicBool::new(false), AtomicBool::new(false));
    thread::scope(|scope| {
        let contender = scope.spawn(|| {
            let (mut swept_to, mut rounds) = (0, 0_u64);
            while !stop.load(Ordering::Relaxed) {
                for line in 0..STORES {
                    // Beside the word that the service writes.
                    service.data.store(STORE_LINES + line * 64 + 8, rounds);
                }
                for _ in 0..STORES {
                    swept.store(swept_to, rounds);
                    swept_to = (swept_to + 64) % (SWEPT_PAGES * postern_abi::PAGE_SIZE);
                }
                rounds += 1;
                running.store(true, Ordering::Relaxed);
            }
            rounds
        });
        while !running.load(Ordering::Relaxed) {
            thread::yield_now();
        }
        let judged = work();
        stop.store(true, Ordering::Relaxed);
        let rounds = contender.join().unwrap_or(0);
        judged.map(|seen| match seen {
            Seen::Well(text) => Seen::Well(format!(
                "{text}, while another thread wrote {} times to lines that the stores before go \
                 to (no other processor can write to the list's own line)",
                rounds * STORES
            )),
            other => other,
        })
    })
}

/// All was well, if KVM has counted no abort.
fn expect_quiet(attached: &Attached, text: String) -> Judged {
    let aborts = attached.stats()?.aborts;
    Ok(match aborts {
        0 => Seen::Well(text),
        _ => Seen::Wrong(format!("{text}, but KVM counted {aborts} aborts")),
    })
}

/// An entry that is invalid is not entered from a copy of it, however often it was valid.
pub fn disarmed_is_not_cached(bench: &Bench<'_>) -> Judged {
    const CALLS: u64 = 100;
    let (mut guest, _service, attached) = bench.guest()?;
    let rounds = bench.effort.refusals;
    for round in 0..rounds {
        // At first without any call: a gate has not touched the entry yet.
        let calls = if round == 0 { 0 } else { CALLS };
        guest.start(Work::CallsThenStraight, [0, calls, 0, 0, 0])?;
        let stop = guest.run();
        // The default view is active, so the VMFUNC is refused by #UD, which has no handler.
        if stop != Stop::Exception(VMFUNC_GVA) {
            return Ok(Seen::Wrong(format!(
                "in round {round} a VMFUNC to the service that no gate has made valid ended with \
                 {stop:x?}"
            )));
        }
    }
    expect_quiet(
        &attached,
        format!(
            "{rounds} of {rounds} VMFUNCs were refused, all but the first behind {CALLS} calls"
        ),
    )
}

/// What a probe of the guest tells: what the service reads, what the guest reads by CR3, and in the
/// memory slot.
type Probe = [u8; 3];

/// Runs the guest's probe once.
fn probe(guest: &mut Guest) -> Result<Probe, Stop> {
    let mut probe = [0; 3];
    for (byte, port) in probe.iter_mut().zip([PORT_SERVICE, PORT_CR3, PORT_SLOT]) {
        *byte = next(guest, port)?;
    }
    Ok(probe)
}

fn next(guest: &mut Guest, wanted: u8) -> Result<u8, Stop> {
    match guest.run() {
        Stop::Out(port, byte) if port == wanted => Ok(byte),
        stop => Err(stop),
    }
}

fn start_probe(guest: &mut Guest) -> Result<(), Error> {
    guest.start(Work::Probe, [0, CR3_GVA, SLOT_GVA, 0, 0])
}

/// What is wrong with a probe, if anything is.
fn wrong(round: u64, found: Result<Probe, Stop>, expected: Probe) -> Option<Seen> {
    match found {
        Ok(found) if found == expected => None,
        Ok(found) => Some(Seen::Wrong(format!(
            "in round {round} service and guest read {found:x?}, not {expected:x?}: a stale \
             translation"
        ))),
        Err(stop) => Some(Seen::Wrong(format!("in round {round}: {stop:x?}"))),
    }
}

/// One service takes the place of another, whose data had the same addresses.
pub fn nothing_stale_after_detach(bench: &Bench<'_>) -> Judged {
    let services = [bench.service(MARKS[0])?, bench.service(OTHER_MARK)?];
    let mut guest = Guest::new(bench.host)?;
    start_probe(&mut guest)?;
    let rounds = bench.effort.changes;
    for round in 0..rounds {
        let service = &services[(round % 2) as usize];
        let attached = service.attach(&guest)?;
        for _ in 0..2 {
            let expected = [service.mark, MARKS[1], MARKS[1]];
            if let Some(seen) = wrong(round, probe(&mut guest), expected) {
                return Ok(seen);
            }
        }
        attached.detach()?;
    }
    Ok(Seen::Well(format!(
        "{rounds} times each page of the service was its own"
    )))
}

/// A revoked service cannot be called, and nothing of it is left for the next one.
pub fn nothing_stale_after_revoke(bench: &Bench<'_>) -> Judged {
    let mut guest = Guest::new(bench.host)?;
    let rounds = bench.effort.changes;
    for round in 0..rounds {
        let mark = [MARKS[0], OTHER_MARK][(round % 2) as usize];
        let service = bench.service(mark)?;
        let attached = service.attach(&guest)?;
        start_probe(&mut guest)?;
        if let Some(seen) = wrong(round, probe(&mut guest), [mark, MARKS[1], MARKS[1]]) {
            return Ok(seen);
        }
        let revoked = service.revoke()?;
        if revoked != 1 {
            return Ok(Seen::Wrong(format!("{revoked} grants were revoked, not 1")));
        }
        match probe(&mut guest) {
            Err(Stop::Exception(VMFUNC_GVA)) => {}
            other => {
                return Ok(Seen::Wrong(format!(
                    "in round {round} a call of a revoked service ended with {other:x?}"
                )));
            }
        }
        attached.detach()?;
    }
    Ok(Seen::Well(format!(
        "{rounds} times a call after the revocation was refused, and the next service was its own"
    )))
}

/// As after a detach, where the vCPU could enter no view for a while in between.
pub fn nothing_stale_after_disarming(bench: &Bench<'_>) -> Judged {
    let services = [bench.service(MARKS[0])?, bench.service(OTHER_MARK)?];
    let mut guest = Guest::new(bench.host)?;
    start_probe(&mut guest)?;
    let mut attached = services[0].attach(&guest)?;
    let rounds = bench.effort.changes;
    for round in 0..rounds {
        let mark = services[(round % 2) as usize].mark;
        match next(&mut guest, PORT_SERVICE) {
            Ok(found) if found == mark => {}
            other => {
                return Ok(Seen::Wrong(format!(
                    "in round {round} the service read {other:x?}, not {mark:x}"
                )));
            }
        }
        guest.set_smap(false)?;
        let by_cr3 = next(&mut guest, PORT_CR3);
        attached.detach()?;
        attached = services[((round + 1) % 2) as usize].attach(&guest)?;
        let by_slot = next(&mut guest, PORT_SLOT);
        guest.set_smap(true)?;
        if (&by_cr3, &by_slot) != (&Ok(MARKS[1]), &Ok(MARKS[1])) {
            return Ok(Seen::Wrong(format!(
                "in round {round} the guest read {by_cr3:x?} and {by_slot:x?}"
            )));
        }
    }
    Ok(Seen::Well(format!(
        "{rounds} times each page of the service was its own"
    )))
}

/// The guest's own translations after a load of CR3 by the guest, with calls around it.
pub fn nothing_stale_after_guest_cr3(bench: &Bench<'_>) -> Judged {
    let (mut guest, _service, attached) = bench.guest()?;
    let rounds = bench.effort.loads;
    guest.start(Work::Cr3, [0, rounds, ROOT_A, ROOT_B, CR3_GVA])?;
    let stop = guest.run();
    if !matches!(stop, Stop::Out(PORT_DONE, _)) {
        return Ok(Seen::Wrong(format!("it ended with {stop:x?}")));
    }
    match guest.rbx()? {
        0 => expect_quiet(
            &attached,
            format!("{} loads, with a call behind each", 2 * rounds),
        ),
        wrong => Ok(Seen::Wrong(format!(
            "{wrong} of {} readings were wrong: a stale translation",
            4 * rounds
        ))),
    }
}

/// The same after KVM_SET_SREGS.
pub fn nothing_stale_after_set_sregs(bench: &Bench<'_>) -> Judged {
    let (mut guest, _service, attached) = bench.guest()?;
    start_probe(&mut guest)?;
    let rounds = bench.effort.changes;
    for round in 0..rounds {
        let (root, mark) = [(ROOT_A, MARKS[1]), (ROOT_B, MARKS[2])][(round % 2) as usize];
        guest.set_cr3(root)?;
        if let Some(seen) = wrong(round, probe(&mut guest), [MARKS[0], mark, MARKS[1]]) {
            return Ok(seen);
        }
    }
    expect_quiet(
        &attached,
        format!("{rounds} loads, with a call behind each"),
    )
}

/// The default view after a memory slot has got other pages, with calls around it.
pub fn nothing_stale_after_slot_change(bench: &Bench<'_>) -> Judged {
    let (mut guest, _service, attached) = bench.guest()?;
    start_probe(&mut guest)?;
    let rounds = bench.effort.changes;
    for round in 0..rounds {
        let which = (round % 2) as usize;
        guest.change_slot(which)?;
        let expected = [MARKS[0], MARKS[1], MARKS[1 + which]];
        if let Some(seen) = wrong(round, probe(&mut guest), expected) {
            return Ok(seen);
        }
    }
    expect_quiet(
        &attached,
        format!("{rounds} changes, with a call before each reading"),
    )
}

/// Calls make no VM exit.
pub fn calls_make_no_exit(bench: &Bench<'_>) -> Judged {
    let (mut guest, _service, attached) = bench.guest()?;
    let statistics = KvmStats::open("vCPU", guest.vcpu_fd()).map_err(Error::Statistics)?;
    let mut words = vec![0; statistics.layout().words()];
    let mut counters = || -> Result<Option<[u64; 2]>, Error> {
        statistics.snapshot(&mut words).map_err(Error::Statistics)?;
        let named = statistics.layout().named(&words);
        let counter = |name| named.get(name).and_then(serde_json::Value::as_u64);
        Ok(counter("exits")
            .zip(counter("irq_exits"))
            .map(|(all, irq)| [all, irq]))
    };
    let (calls, rounds) = (bench.effort.calls, bench.effort.call_rounds);
    let mut tally = Tally::default();
    // The first round touches all memory.
    for round in 0..=rounds {
        guest.start(Work::Calls, [0, calls, NOTHING, 0, 0])?;
        let (before, in_view) = (counters()?, attached.stats()?.exits_in_view);
        let stop = guest.run();
        let (after, stats) = (counters()?, attached.stats()?);
        if !matches!(stop, Stop::Out(PORT_DONE, _)) || stats.aborts > 0 {
            return Ok(Seen::Wrong(format!("in round {round}: {stop:x?}")));
        }
        let (Some(before), Some(after)) = (before, after) else {
            return Ok(Seen::Nothing("this KVM does not count exits".to_owned()));
        };
        if round > 0 {
            tally.add(
                after[0].saturating_sub(before[0]),
                after[1].saturating_sub(before[1]),
                stats.exits_in_view.saturating_sub(in_view),
            );
        }
    }
    Ok(tally.judge(calls, bench.source))
}

/// Exits of rounds of calls, each of which ends with one OUT.
#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    rounds: u64,
    /// Rounds with no exit but that of the OUT.
    undisturbed: u64,
    /// Exits for interrupts of the host.
    interrupts: u64,
    /// Other exits.
    others: u64,
    /// Exits while a view was active, by whatever reason.
    in_view: u64,
}

impl Tally {
    fn add(&mut self, exits: u64, interrupts: u64, in_view: u64) {
        let beside = exits.saturating_sub(1);
        self.rounds += 1;
        self.undisturbed += u64::from(exits == 1 && in_view == 0);
        self.interrupts += interrupts;
        self.others += beside.saturating_sub(interrupts);
        self.in_view += in_view;
    }

    fn judge(self, calls: u64, source: Source) -> Seen {
        let all = self.rounds * calls;
        let text = format!(
            "{all} calls: {} rounds of {} without any exit; besides {} for interrupts of the \
             host and {} of other kinds; {} of all while a view was active",
            self.undisturbed, self.rounds, self.interrupts, self.others, self.in_view
        );
        // NMIs of the host are among the other kinds.
        if self.undisturbed == 0 && self.others >= self.rounds * calls {
            return Seen::Wrong(format!("{text}: calls exit"));
        }
        match self.undisturbed {
            0 => Seen::Nothing(format!("{text}: no round was undisturbed")),
            _ if source == Source::Nested => Seen::Nothing(format!(
                "{text}; but a hypervisor is below, to which each VMFUNC may be an exit that this \
                 host does not see"
            )),
            _ => Seen::Well(text),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(rounds: &[(u64, u64, u64)]) -> Tally {
        let mut tally = Tally::default();
        for &(exits, interrupts, in_view) in rounds {
            tally.add(exits, interrupts, in_view);
        }
        tally
    }

    #[test]
    fn exits_of_calls_and_of_others_are_told_apart() {
        let judge = |rounds, source| tally(rounds).judge(1000, source);
        let quiet = [(1, 0, 0), (3, 2, 1), (2, 0, 0)];
        assert!(matches!(judge(&quiet, Source::Hardware), Seen::Well(_)));
        // One exit a call, in each round.
        let exiting = [(1001, 0, 1000), (1002, 1, 1001)];
        assert!(matches!(judge(&exiting, Source::Hardware), Seen::Wrong(_)));
        // No round without an interrupt: nothing is known.
        let noisy = [(2, 1, 1), (3, 2, 0)];
        assert!(matches!(judge(&noisy, Source::Hardware), Seen::Nothing(_)));
        // What this host counts says nothing of the hypervisor below.
        assert!(matches!(judge(&quiet, Source::Nested), Seen::Nothing(_)));
        assert!(matches!(judge(&exiting, Source::Nested), Seen::Wrong(_)));
    }
}
