//! Snapshots of statistics and counters, and the file that they end up in.

use postern_abi::kvm::EptViewStats;
use serde::Serialize;
use serde_json::{Map, Value};

use crate::counters::Counts;
use crate::statistics::{self, Statistics};

/// The most marks that are kept. A guest decides how many it sets; what comes after is counted only.
pub const MARKS_MAX: usize = 1024;

/// All statistics of a VM at one moment.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Snapshot {
    /// KVM's statistics of the VM.
    pub vm: Map<String, Value>,
    /// KVM's statistics of each vCPU.
    pub vcpus: Vec<Map<String, Value>>,
    /// The module's counters of views: at a mark those of the vCPU that set it, at the end all.
    pub views: Vec<View>,
}

/// The module's counters of the view of one vCPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct View {
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
}

impl View {
    /// The counters `stats` of vCPU `vcpu`.
    pub fn new(vcpu: usize, stats: EptViewStats) -> View {
        View {
            vcpu,
            aborts: stats.aborts,
            deferred_leaves: stats.deferred_leaves,
            exits_in_view: stats.exits_in_view,
            hypercalls: stats.hypercalls,
        }
    }
}

/// A snapshot that the guest asked for.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Mark {
    /// The guest's label.
    pub label: u32,
    /// Number of the vCPU that set it.
    pub vcpu: usize,
    /// Counters of that vCPU's thread.
    pub counters: Counts,
    /// Statistics, taken after the counters.
    pub statistics: Snapshot,
}

/// A mark as it is kept: its statistics are words of [`Recorder::data`].
struct Raw {
    label: u32,
    vcpu: usize,
    counters: Counts,
    view: Option<EptViewStats>,
}

/// Takes snapshots. All memory for them is there, and has been touched, before the guest starts.
pub struct Recorder {
    vm: Statistics,
    vcpus: Vec<Statistics>,
    words: usize,
    data: Vec<u64>,
    marks: Vec<Raw>,
    dropped: u64,
}

impl Recorder {
    /// A recorder for these statistics.
    pub fn new(vm: Statistics, vcpus: Vec<Statistics>) -> Recorder {
        let words = std::iter::once(&vm)
            .chain(&vcpus)
            .map(|statistics| statistics.layout().words())
            .sum();
        Recorder {
            vm,
            vcpus,
            words,
            // Not zero: zeroed memory would be given, page by page, at the marks.
            data: vec![u64::MAX; words * MARKS_MAX],
            marks: Vec::with_capacity(MARKS_MAX),
            dropped: 0,
        }
    }

    /// Takes a snapshot.
    ///
    /// # Errors
    ///
    /// When statistics cannot be read.
    pub fn mark(
        &mut self,
        label: u32,
        vcpu: usize,
        counters: Counts,
        view: Option<EptViewStats>,
    ) -> Result<(), statistics::Error> {
        let start = self.marks.len() * self.words;
        let Some(words) = self.data.get_mut(start..start + self.words) else {
            self.dropped += 1;
            return Ok(());
        };
        read(&self.vm, &self.vcpus, words)?;
        self.marks.push(Raw {
            label,
            vcpu,
            counters,
            view,
        });
        Ok(())
    }

    /// How many marks were not kept.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    /// All marks kept, in the order in which they were set.
    pub fn marks(&self) -> Vec<Mark> {
        self.marks
            .iter()
            .zip(self.data.chunks_exact(self.words.max(1)))
            .map(|(raw, words)| Mark {
                label: raw.label,
                vcpu: raw.vcpu,
                counters: raw.counters,
                statistics: self.named(
                    words,
                    raw.view
                        .map(|stats| View::new(raw.vcpu, stats))
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
    pub fn now(&self, views: Vec<View>) -> Result<Snapshot, statistics::Error> {
        let mut words = vec![0; self.words];
        read(&self.vm, &self.vcpus, &mut words)?;
        Ok(self.named(&words, views))
    }

    fn named(&self, words: &[u64], views: Vec<View>) -> Snapshot {
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
fn read(
    vm: &Statistics,
    vcpus: &[Statistics],
    mut words: &mut [u64],
) -> Result<(), statistics::Error> {
    for statistics in std::iter::once(vm).chain(vcpus) {
        let (own, rest) = words.split_at_mut(statistics.layout().words());
        statistics.snapshot(own)?;
        words = rest;
    }
    Ok(())
}
