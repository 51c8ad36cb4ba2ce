//! What a CPU would leak between views, by the kernel's list of its defects.
//!
//! A view is entered and left without a VM exit, so nothing that KVM does at exits and entries
//! (flushing L1, clearing buffers, filling predictors) happens between the guest and the service.
#![deny(unsafe_code)]

use super::host_files::HostFiles;
use super::rung::{Rung, State, rung};

/// What the module does about a defect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    /// It makes no views on such a CPU, unless `ept_views_insist=1`.
    RefusesViews,
    /// It gives no right to the hypercall, unless the service's object has return thunks.
    RefusesHypercall,
    /// It does nothing.
    Reports,
}

/// A defect of CPUs.
struct Leak {
    /// Name in the line "bugs" of /proc/cpuinfo, and of the rung.
    bug: &'static str,
    /// File in /sys/devices/system/cpu/vulnerabilities.
    file: &'static str,
    /// Name and number of Intel's advisory.
    advisory: &'static str,
    answer: Answer,
    /// What one side of a view learns of the other.
    leaks: &'static str,
}

const LEAKS: [Leak; 10] = [
    Leak {
        bug: "l1tf",
        file: "l1tf",
        advisory: "L1 Terminal Fault, INTEL-SA-00161",
        answer: Answer::RefusesViews,
        leaks: "a guest reads, speculatively, whatever is in its core's L1 data cache: after a \
                call that is the NIC's state and other tenants' frames",
    },
    Leak {
        bug: "mds",
        file: "mds",
        advisory: "Microarchitectural Data Sampling, INTEL-SA-00233",
        answer: Answer::RefusesViews,
        leaks: "a guest samples the store, fill and load-port buffers, where the service's last \
                loads and stores remain: nothing clears them at a VMFUNC",
    },
    Leak {
        bug: "taa",
        file: "tsx_async_abort",
        advisory: "TSX Asynchronous Abort, INTEL-SA-00270",
        answer: Answer::RefusesViews,
        leaks: "a guest samples the same buffers as by MDS, in transactions that abort",
    },
    Leak {
        bug: "rfds",
        file: "reg_file_data_sampling",
        advisory: "Register File Data Sampling, INTEL-SA-00898",
        answer: Answer::RefusesViews,
        leaks: "a guest samples register files, where values remain that the service computed \
                with",
    },
    Leak {
        bug: "mmio_stale_data",
        file: "mmio_stale_data",
        advisory: "Processor MMIO Stale Data, INTEL-SA-00615",
        answer: Answer::RefusesViews,
        leaks: "a guest with a device's registers reads what the service left in fill buffers",
    },
    Leak {
        bug: "mmio_unknown",
        file: "mmio_stale_data",
        advisory: "Processor MMIO Stale Data, INTEL-SA-00615",
        answer: Answer::RefusesViews,
        leaks: "Intel no longer says whether this CPU has MMIO stale data: taken for one that has",
    },
    Leak {
        bug: "gds",
        file: "gather_data_sampling",
        advisory: "Gather Data Sampling, INTEL-SA-00828",
        answer: Answer::RefusesViews,
        leaks: "a guest samples, by AVX gathers, the vector registers that the service copied \
                frames with, unless the microcode's mitigation is on",
    },
    Leak {
        bug: "spec_store_bypass",
        file: "spec_store_bypass",
        advisory: "Speculative Store Bypass, INTEL-SA-00115",
        answer: Answer::Reports,
        leaks: "a load of the service may run ahead of an older store and use what was there \
                before; a guest learns of it only through code of the service that spreads it, \
                and decides by its own SSBD, which holds in views too",
    },
    Leak {
        bug: "retbleed",
        file: "retbleed",
        advisory: "Return Stack Buffer Underflow, INTEL-SA-00702",
        answer: Answer::RefusesHypercall,
        leaks: "a guest steers where returns of the service speculate to; in a view that reaches \
                what the view maps, by the hypercall all of the host's memory",
    },
    Leak {
        bug: "its",
        file: "indirect_target_selection",
        advisory: "Indirect Target Selection, INTEL-SA-01153",
        answer: Answer::RefusesHypercall,
        leaks: "a guest steers where branches and returns in the lower half of a cache line \
                speculate to; in a view that reaches what the view maps, by the hypercall all of \
                the host's memory",
    },
];

/// A rung for each defect that the kernel lists; one that says so if it lists none.
pub(super) fn rungs(host: &HostFiles, views: Option<bool>) -> Vec<Rung> {
    let Some(bugs) = &host.bugs else {
        return vec![rung(
            "cpu-leaks",
            State::Unknown,
            "not seen: /proc/cpuinfo has no line of bugs",
            MEANING,
            "mount /proc",
        )];
    };
    let found: Vec<Rung> = LEAKS
        .iter()
        .filter(|leak| bugs.iter().any(|bug| bug == leak.bug))
        .map(|leak| leak_rung(leak, host, views))
        .collect();
    match found.is_empty() {
        true => vec![rung(
            "cpu-leaks",
            State::Ok,
            format!(
                "kernel {} lists no defect of this CPU by which views would leak; an older kernel \
                 or older microcode knows of fewer",
                host.kernel_release
            ),
            MEANING,
            "",
        )],
        false => found,
    }
}

const MEANING: &str = "nothing but EPT separates guest and service during a call: what the CPU \
                       leaks between two EPT contexts, they learn of each other";

fn leak_rung(leak: &Leak, host: &HostFiles, views: Option<bool>) -> Rung {
    let status = match host.vulnerabilities.get(leak.file) {
        Some(status) => format!(" (the kernel: {status})"),
        None => String::new(),
    };
    let found = format!("{}{status}: {}", leak.advisory, leak.leaks);
    let insists = host.module.and_then(|module| module.ept_views_insist) == Some(true);
    let (state, remedy) = match leak.answer {
        Answer::RefusesViews if insists || views == Some(true) => (
            State::Note,
            "the module makes views all the same, as ept_views_insist=1 was given: let no two \
             tenants share a NIC here who may not read each other",
        ),
        Answer::RefusesViews => (
            State::Missing,
            "the module refuses views on such a CPU: use another machine, or accept the leak \
             with ept_views_insist=1",
        ),
        Answer::RefusesHypercall => (
            State::Note,
            "views stay possible; the module gives the right to the hypercall (path exit-kernel) \
             only if the service's object was built with return thunks",
        ),
        Answer::Reports => (
            State::Note,
            "the module refuses nothing for it; a service must not spread values that a guest \
             may not see",
        ),
    };
    rung(leak.bug, state, found, MEANING, remedy)
}
