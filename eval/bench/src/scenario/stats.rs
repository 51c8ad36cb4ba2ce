//! Reader of what a VMM wrote about its VM (`postern run --stats`), and the costs between its
//! marks.

use std::collections::BTreeMap;

use postern_abi::ABI_VERSION;
use postern_abi::platform::label;
use serde::Deserialize;
use serde_json::Value;

use crate::report::Costs;

/// Error of reading figures from statistics.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Error {
    /// The file is not what a VMM writes.
    #[error("the statistics of VM {vm} cannot be read: {reason}")]
    Malformed {
        /// Name of the VM.
        vm: String,
        /// The fault of the file, in words.
        reason: String,
    },
    /// VMM and runner were built from different revisions.
    #[error(
        "VM {vm} ran with ABI version {found}, this program has {ABI_VERSION}; build both from one \
         revision"
    )]
    Version {
        /// Name of the VM.
        vm: String,
        /// ABI version of the VMM.
        found: u32,
    },
    /// A guest ended in another way than it should.
    #[error("VM {vm} failed: {message}")]
    Failed {
        /// Name of the VM.
        vm: String,
        /// The VMM's message about the end of the VM.
        message: String,
    },
    /// A mark is missing or was set twice.
    #[error("VM {vm} set mark {label} {count} times, not once")]
    Mark {
        /// Name of the VM.
        vm: String,
        /// The mark's label.
        label: u32,
        /// Number of snapshots with that label.
        count: usize,
    },
    /// A counter is missing.
    #[error("VM {vm} has no counter {name}")]
    Counter {
        /// Name of the VM.
        vm: String,
        /// The counter's name.
        name: &'static str,
    },
}

#[derive(Debug, Deserialize)]
struct File {
    abi: u32,
    exit: Exit,
    marks: Vec<RawMark>,
}

#[derive(Debug, Deserialize)]
struct Exit {
    kind: String,
    status: u8,
    message: String,
}

#[derive(Debug, Deserialize)]
struct RawMark {
    label: u32,
    counters: BTreeMap<String, u64>,
    statistics: Snapshot,
}

#[derive(Debug, Deserialize)]
struct Snapshot {
    vcpus: Vec<BTreeMap<String, Value>>,
    #[serde(default)]
    views: Vec<BTreeMap<String, Value>>,
}

/// The statistics of one VM.
#[derive(Debug)]
pub struct VmStats {
    vm: String,
    marks: Vec<RawMark>,
}

/// VM exits between two marks of one VM, those of the marks included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Interval {
    /// VM exits, all of them.
    exits: u64,
    /// VM exits that are surely requests: VMCALLs and port accesses.
    requests: u64,
    /// Those that interrupts caused, or a few more: an injection that KVM takes back and repeats,
    /// because the host wants to run something else, counts twice.
    interrupts: u64,
    /// VM exits of a halted guest.
    waits: u64,
    /// VMFUNCs that KVM completed, because an interrupt was waiting: executed, yet not counted as
    /// switches by the CPU.
    completed: u64,
}

impl VmStats {
    /// Reads the file's content; `vm` is for messages.
    ///
    /// # Errors
    ///
    /// When it is not what a VMM of this version writes, or the VM did not end well.
    pub fn parse(vm: &str, json: &[u8]) -> Result<VmStats, Error> {
        let vm = vm.to_owned();
        let file: File = match serde_json::from_slice(json) {
            Ok(file) => file,
            Err(error) => {
                let reason = error.to_string();
                return Err(Error::Malformed { vm, reason });
            }
        };
        if file.abi != ABI_VERSION {
            let found = file.abi;
            return Err(Error::Version { vm, found });
        }
        if file.exit.kind != "guest" || file.exit.status != 0 {
            let message = file.exit.message;
            return Err(Error::Failed { vm, message });
        }
        Ok(VmStats {
            vm,
            marks: file.marks,
        })
    }

    fn mark(&self, label: u32) -> Result<&RawMark, Error> {
        let mut found = self.marks.iter().filter(|mark| mark.label == label);
        match (found.next(), found.count()) {
            (Some(mark), 0) => Ok(mark),
            (first, more) => Err(Error::Mark {
                vm: self.vm.clone(),
                label,
                count: more + usize::from(first.is_some()),
            }),
        }
    }

    fn missing(&self, name: &'static str) -> Error {
        Error::Counter {
            vm: self.vm.clone(),
            name,
        }
    }

    /// All instructions that the machine had run when the guest was ready to send its first frame: at
    /// its mark [`label::TRAFFIC_BEGIN`].
    ///
    /// # Errors
    ///
    /// When the mark or the counter is missing.
    pub fn instructions_when_ready(&self) -> Result<u64, Error> {
        self.counter(label::TRAFFIC_BEGIN, TOTAL)
    }

    /// What was counted while frames went, from this VM's first mark of them to its last: of a machine
    /// whose counters its VMs share, what the whole machine did; exits are this VM's own.
    ///
    /// # Errors
    ///
    /// When a mark or a counter is missing.
    pub fn while_frames_went(&self) -> Result<Costs, Error> {
        let (begin, end) = (label::TRAFFIC_BEGIN, label::TRAFFIC_END);
        let interval = self.interval(begin, end)?;
        Ok(Costs {
            vm_exits: interval.others().saturating_sub(EXITS_OF_MARK),
            interrupt_exits: interval.for_interrupts(),
            wait_exits: interval.waits,
            vmfuncs: Some(self.counted(begin, end, VMFUNCS)? + interval.completed),
            guest_instructions: self.counted(begin, end, GUEST)?,
            total_instructions: self.counted(begin, end, TOTAL)?,
        })
    }

    /// A counter at a mark.
    fn counter(&self, label: u32, name: &'static str) -> Result<u64, Error> {
        let value = self.mark(label)?.counters.get(name).copied();
        value.ok_or_else(|| self.missing(name))
    }

    /// Difference of a counter between two marks.
    fn counted(&self, begin: u32, end: u32, name: &'static str) -> Result<u64, Error> {
        Ok(self
            .counter(end, name)?
            .saturating_sub(self.counter(begin, name)?))
    }

    /// The exits between two marks.
    fn interval(&self, begin: u32, end: u32) -> Result<Interval, Error> {
        let (begin, end) = (self.mark(begin)?, self.mark(end)?);
        let sum = |mark: &RawMark, name: &'static str| {
            let values = mark
                .statistics
                .vcpus
                .iter()
                .map(|vcpu| vcpu.get(name)?.as_u64());
            values
                .sum::<Option<u64>>()
                .ok_or_else(|| self.missing(name))
        };
        let moved = |name| Ok::<_, Error>(sum(end, name)?.saturating_sub(sum(begin, name)?));
        let deferred = |mark: &RawMark| -> u64 {
            let views = mark.statistics.views.iter();
            views
                .filter_map(|view| view.get("deferred_leaves").and_then(Value::as_u64))
                .sum()
        };
        let completed = deferred(end).saturating_sub(deferred(begin));
        Ok(Interval {
            exits: moved("exits")?,
            requests: moved("io_exits")? + moved("hypercalls")?,
            interrupts: moved("irq_exits")?
                + moved("irq_window_exits")?
                + moved("irq_injections")? * EXITS_PER_INJECTION
                + completed,
            waits: moved("halt_exits")?,
            completed,
        })
    }
}

/// Exits that the guest makes to acknowledge one interrupt: a write to its local APIC's EOI
/// register.
const EXITS_PER_INJECTION: u64 = 1;

impl Interval {
    /// Exits for neither interrupts nor waits.
    fn others(&self) -> u64 {
        let others = self.exits.saturating_sub(self.interrupts + self.waits);
        others.max(self.requests)
    }

    /// Exits for interrupts.
    fn for_interrupts(&self) -> u64 {
        self.exits.saturating_sub(self.others() + self.waits)
    }
}

/// Exits of a mark.
const EXITS_OF_MARK: u64 = 1;

/// Instructions of a mark.
struct MarkCost {
    guest: u64,
    total: u64,
}

impl VmStats {
    /// Cost of a mark, from the pair with nothing in between.
    fn mark_cost(&self) -> Result<MarkCost, Error> {
        let (begin, end) = (label::NOTHING_BEGIN, label::NOTHING_END);
        Ok(MarkCost {
            guest: self.counted(begin, end, GUEST)?,
            total: self.counted(begin, end, TOTAL)?,
        })
    }
}

const GUEST: &str = "guest_instructions";
const TOTAL: &str = "total_instructions";
const VMFUNCS: &str = "vmfuncs";

/// The costs of sending frames from one VM to another, where all VMs share one set of counters: the
/// emulated machine.
///
/// # Errors
///
/// When a mark or a counter is missing.
pub fn traffic_shared_counters(sender: &VmStats, receiver: &VmStats) -> Result<Costs, Error> {
    let (begin, end) = (label::TRAFFIC_BEGIN, label::TRAFFIC_END);
    let mut costs = exits_of(sender, receiver)?;
    let from = sender.counter(begin, TOTAL)?;
    let to = receiver.counter(end, TOTAL)?;
    // From one mark to the next lies the cost of one mark; so many lie between the first and the
    // last.
    let moments = [sender.counter(end, TOTAL)?, receiver.counter(begin, TOTAL)?];
    let marks = 1 + moments.iter().filter(|at| (from..to).contains(at)).count() as u64;
    // An interrupt between two marks makes them dearer than they are.
    let (one, other) = (sender.mark_cost()?, receiver.mark_cost()?);
    let mark = MarkCost {
        guest: one.guest.min(other.guest),
        total: one.total.min(other.total),
    };
    let between = |name| {
        let (from, to) = (sender.counter(begin, name)?, receiver.counter(end, name)?);
        Ok::<_, Error>(to.saturating_sub(from))
    };
    costs.total_instructions = between(TOTAL)?.saturating_sub(marks * mark.total);
    costs.guest_instructions = between(GUEST)?.saturating_sub(marks * mark.guest);
    let completed = costs.vmfuncs.unwrap_or(0);
    costs.vmfuncs = Some(between(VMFUNCS)? + completed);
    Ok(costs)
}

/// The costs of sending frames from one VM to another, where each VM has counters of its own:
/// hardware. What the host does outside both VMMs' vCPU threads is not counted there.
///
/// # Errors
///
/// When a mark or a counter is missing.
pub fn traffic_own_counters(sender: &VmStats, receiver: &VmStats) -> Result<Costs, Error> {
    let mut costs = exits_of(sender, receiver)?;
    // Nobody counts the others.
    costs.vmfuncs = None;
    for vm in [sender, receiver] {
        let (begin, end) = (label::TRAFFIC_BEGIN, label::TRAFFIC_END);
        let mark = vm.mark_cost()?;
        let counted = |name| vm.counted(begin, end, name);
        costs.total_instructions += counted(TOTAL)?.saturating_sub(mark.total);
        costs.guest_instructions += counted(GUEST)?.saturating_sub(mark.guest);
    }
    Ok(costs)
}

/// The exits of both VMs between their own marks, and those VMFUNCs that KVM completed.
fn exits_of(sender: &VmStats, receiver: &VmStats) -> Result<Costs, Error> {
    let mut costs = Costs::default();
    for vm in [sender, receiver] {
        let interval = vm.interval(label::TRAFFIC_BEGIN, label::TRAFFIC_END)?;
        costs.vm_exits += interval.others().saturating_sub(EXITS_OF_MARK);
        costs.interrupt_exits += interval.for_interrupts();
        costs.wait_exits += interval.waits;
        costs.vmfuncs = Some(costs.vmfuncs.unwrap_or(0) + interval.completed);
    }
    Ok(costs)
}

/// The costs of a loop of empty calls, less those of the same loop without the calls. Each of the
/// two contains one mark, and interrupts of the host as they come. Those among the calls are counted
/// as these' cost; of the loop without calls only what the guest did and one mark is subtracted, so that
/// an interrupt there, with thousands of the host's instructions, makes no call cheaper.
///
/// # Errors
///
/// When a mark or a counter is missing.
pub fn calls(vm: &VmStats) -> Result<Costs, Error> {
    let counted = |name| {
        let with = vm.counted(label::CALLS_BEGIN, label::CALLS_END, name)?;
        let without = vm.counted(label::LOOP_BEGIN, label::LOOP_END, name)?;
        Ok::<_, Error>(with.saturating_sub(without))
    };
    let with = vm.interval(label::CALLS_BEGIN, label::CALLS_END)?;
    let without = vm.interval(label::LOOP_BEGIN, label::LOOP_END)?;
    let host = |begin, end| {
        let total = vm.counted(begin, end, TOTAL)?;
        Ok::<_, Error>(total.saturating_sub(vm.counted(begin, end, GUEST)?))
    };
    let mark = host(label::NOTHING_BEGIN, label::NOTHING_END)?;
    // An interrupt can have come between those two, too.
    let mark = mark.min(host(label::LOOP_BEGIN, label::LOOP_END)?);
    let in_host = host(label::CALLS_BEGIN, label::CALLS_END)?.saturating_sub(mark);
    let guest_instructions = counted(GUEST)?;
    Ok(Costs {
        vm_exits: with.others().saturating_sub(without.others()),
        interrupt_exits: with.for_interrupts(),
        wait_exits: with.waits,
        vmfuncs: match vm.mark(label::CALLS_END)?.counters.contains_key(VMFUNCS) {
            true => Some(counted(VMFUNCS)? + with.completed),
            false => None,
        },
        guest_instructions,
        total_instructions: guest_instructions + in_host,
    })
}

#[cfg(test)]
#[path = "stats_tests.rs"]
mod tests;
