//! What is measured of a VM: snapshots of KVM's statistics, the module's counters of views, and
//! counters of instructions and events. The guest asks for a snapshot by a label that it writes to
//! [`postern_abi::platform::PORT_SNAPSHOT`]; `postern run --stats` writes all of them to a file.
#![deny(unsafe_code)]

use postern_abi::kvm::EptViewStats;
use serde::Serialize;
use serde_json::{Map, Value};
use std::fmt;

use crate::event_counters::EventCounts;
use crate::kvm_stats::{self, KvmStats};

/// The most snapshots that are kept for a guest. It decides how many it asks for: what comes after
/// is only counted.
pub const MAX_SNAPSHOTS: usize = 1024;

/// All statistics of a VM at one moment.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Snapshot {
    /// KVM's statistics of the VM.
    pub vm: Map<String, Value>,
    /// KVM's statistics of each vCPU.
    pub vcpus: Vec<Map<String, Value>>,
    /// The module's counters of views: those of the vCPU that asked, or at the end those of all.
    pub views: Vec<ViewStats>,
}

/// The module's counters of the view of one vCPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct ViewStats {
    /// Number of the vCPU.
    pub vcpu: usize,
    /// See [`EptViewStats::aborts`].
    pub aborts: u64,
    /// See [`EptViewStats::deferred_leaves`].
    pub deferred_leaves: u64,
    /// See [`EptViewStats::exits_in_view`].
    pub exits_in_view: u64,
    /// See [`EptViewStats::hypercalls`].
    pub hypercalls: u64,
    /// See [`EptViewStats::bells`].
    pub bells: u64,
    /// See [`EptViewStats::revoked`].
    pub revoked: bool,
    /// See [`EptViewStats::armed`].
    pub armed: bool,
}

impl ViewStats {
    /// The counters `stats` of vCPU `vcpu`.
    pub fn new(vcpu: usize, stats: EptViewStats) -> ViewStats {
        ViewStats {
            vcpu,
            aborts: stats.aborts,
            deferred_leaves: stats.deferred_leaves,
            exits_in_view: stats.exits_in_view,
            hypercalls: stats.hypercalls,
            bells: stats.bells,
            revoked: stats.revoked != 0,
            armed: stats.armed != 0,
        }
    }
}

/// A snapshot that the guest asked for.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LabelledSnapshot {
    /// The guest's label.
    pub label: u32,
    /// Number of the vCPU that asked.
    pub vcpu: usize,
    /// Counters of that vCPU's thread.
    pub counters: EventCounts,
    /// KvmStats, taken after the counters.
    pub statistics: Snapshot,
}

/// A snapshot as it is kept: its statistics are words of [`SnapshotRecorder::data`].
struct RawSnapshot {
    label: u32,
    vcpu: usize,
    counters: EventCounts,
    view: Option<EptViewStats>,
}

/// Takes snapshots and keeps them. All memory for them is there, and has been touched, before the
/// guest starts.
pub struct SnapshotRecorder {
    vm: KvmStats,
    vcpus: Vec<KvmStats>,
    words: usize,
    data: Vec<u64>,
    kept: Vec<RawSnapshot>,
    dropped: u64,
}

impl fmt::Debug for SnapshotRecorder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SnapshotRecorder")
            .field("kept", &self.kept.len())
            .field("dropped", &self.dropped)
            .finish_non_exhaustive()
    }
}

impl SnapshotRecorder {
    /// A recorder for these statistics.
    pub fn new(vm: KvmStats, vcpus: Vec<KvmStats>) -> SnapshotRecorder {
        let words = std::iter::once(&vm)
            .chain(&vcpus)
            .map(|statistics| statistics.layout().words())
            .sum();
        SnapshotRecorder {
            vm,
            vcpus,
            words,
            // Not zero: zeroed memory would be given by the host page by page, at the snapshots.
            data: vec![u64::MAX; words * MAX_SNAPSHOTS],
            kept: Vec::with_capacity(MAX_SNAPSHOTS),
            dropped: 0,
        }
    }

    /// Takes a snapshot under that label.
    ///
    /// # Errors
    ///
    /// When statistics cannot be read.
    pub fn take(
        &mut self,
        label: u32,
        vcpu: usize,
        counters: EventCounts,
        view: Option<EptViewStats>,
    ) -> Result<(), kvm_stats::Error> {
        let start = self.kept.len() * self.words;
        let Some(words) = self.data.get_mut(start..start + self.words) else {
            self.dropped += 1;
            return Ok(());
        };
        read(&self.vm, &self.vcpus, words)?;
        self.kept.push(RawSnapshot {
            label,
            vcpu,
            counters,
            view,
        });
        Ok(())
    }

    /// How many snapshots were not kept.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    /// All snapshots kept, in the order in which they were taken.
    pub fn taken(&self) -> Vec<LabelledSnapshot> {
        self.kept
            .iter()
            .zip(self.data.chunks_exact(self.words.max(1)))
            .map(|(raw, words)| LabelledSnapshot {
                label: raw.label,
                vcpu: raw.vcpu,
                counters: raw.counters,
                statistics: self.named(
                    words,
                    raw.view
                        .map(|stats| ViewStats::new(raw.vcpu, stats))
                        .into_iter()
                        .collect(),
                ),
            })
            .collect()
    }

    /// The statistics as they are now.
    ///
    /// # Errors
    ///
    /// When they cannot be read.
    pub fn now(&self, views: Vec<ViewStats>) -> Result<Snapshot, kvm_stats::Error> {
        let mut words = vec![0; self.words];
        read(&self.vm, &self.vcpus, &mut words)?;
        Ok(self.named(&words, views))
    }

    fn named(&self, words: &[u64], views: Vec<ViewStats>) -> Snapshot {
        let (vm, mut rest) = words.split_at(self.vm.layout().words());
        let mut vcpus = Vec::with_capacity(self.vcpus.len());
        for statistics in &self.vcpus {
            let (words, others) = rest.split_at(statistics.layout().words());
            vcpus.push(statistics.layout().named(words));
            rest = others;
        }
        Snapshot {
            vm: self.vm.layout().named(vm),
            vcpus,
            views,
        }
    }
}

/// Reads the statistics of the VM, then of each vCPU, into consecutive words.
fn read(vm: &KvmStats, vcpus: &[KvmStats], mut words: &mut [u64]) -> Result<(), kvm_stats::Error> {
    for statistics in std::iter::once(vm).chain(vcpus) {
        let (own, rest) = words.split_at_mut(statistics.layout().words());
        statistics.snapshot(own)?;
        words = rest;
    }
    Ok(())
}
