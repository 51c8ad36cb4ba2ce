//! Why a thread cannot be confined.
#![deny(unsafe_code)]

use std::io;

use crate::kind::Kind;

/// What can fail before a thread is confined.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel has no seccomp filters.
    #[error(
        "this kernel has no seccomp filters (CONFIG_SECCOMP_FILTER): build one that has, or go \
         without (--seccomp off)"
    )]
    NoFilters(#[source] io::Error),
    /// `no_new_privs` cannot be set.
    #[error("cannot give up new privileges (no_new_privs)")]
    NoNewPrivs(#[source] io::Error),
    /// Capabilities cannot be dropped.
    #[error("cannot drop capabilities")]
    Capabilities(#[source] io::Error),
    /// The handler of refused calls cannot be installed.
    #[error("cannot install a handler for SIGSYS")]
    Handler(#[source] io::Error),
    /// The table makes no filter: a defect.
    #[error("the table of calls of {kind} threads makes no filter")]
    Filter {
        /// The threads.
        kind: Kind,
        /// What is wrong with it.
        source: seccompiler::BackendError,
    },
    /// The kernel refused a filter.
    #[error("the kernel refused the filter of a {kind} thread")]
    Refused {
        /// The thread.
        kind: Kind,
        /// The system's error.
        source: seccompiler::Error,
    },
    /// The thread that starts others cannot be started, or has gone.
    #[error("cannot start a thread that starts confined threads")]
    Starter(#[source] io::Error),
}
