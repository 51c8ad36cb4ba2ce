//! The table: which system calls each kind of thread may make, with which arguments.
//!
//! It lists what the code makes on Linux x86-64 by either C library, glibc or musl, in any build.
//! Calls that are safe for whoever has taken the process over are those that concern what the
//! process has already: its memory, descriptors and threads. What is not here is refused.
#![deny(unsafe_code)]

use libc::*;
use linux_raw_sys::ioctl as raw;

use crate::kind::Kind;

/// A call that is allowed if all conditions hold.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rule {
    /// Number of the system call.
    pub number: c_long,
    /// What its arguments must be.
    pub conditions: &'static [Condition],
}

/// What an argument must be. Arguments are compared as the 32 bits that the kernel looks at.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Condition {
    /// This argument has that value.
    Is(u8, u32),
    /// This argument has that value where the mask has ones: argument, mask, value.
    Masked(u8, u32, u32),
    /// This argument is the number of this process.
    OwnProcess(u8),
}

use Condition::{Is, Masked, OwnProcess};

/// A call with any arguments.
const fn any(number: c_long) -> Rule {
    let conditions = &[];
    Rule { number, conditions }
}

/// A call with conditions.
const fn only(number: c_long, conditions: &'static [Condition]) -> Rule {
    Rule { number, conditions }
}

/// ioctl with one request.
macro_rules! ioctl {
    ($request:expr) => {
        only(SYS_ioctl, &[Is(1, $request as u32)])
    };
}

/// The system calls that a kind of thread may make, in groups.
#[rustfmt::skip]
pub(crate) const fn groups(kind: Kind) -> &'static [&'static [Rule]] {
    match kind {
        Kind::Starter => &[
            EVERY, START, WAIT, DATA, STATISTICS, TERMINAL, DEVICE, SOCKET_DATA, FILES, TAP, VHOST,
            BLOCK, UPLINK, SCHEDULING, LINE, PIN, RING,
        ],
        Kind::Signals => &[EVERY, WAIT, DATA, TERMINAL],

        Kind::Main => &[
            EVERY, WAIT, DATA, TERMINAL, STATISTICS, FILES, KVM_VM, DEVICE, TAP, VHOST, CHILDREN,
        ],
        Kind::Vcpu => &[
            EVERY, WAIT, DATA, TERMINAL, STATISTICS, FILES, KVM_VCPU, KVM_VM, DEVICE, TAP, VHOST,
        ],
        Kind::Console => &[EVERY, WAIT, DATA, TERMINAL, SOCKET_DATA],
        Kind::NicEnd => &[EVERY, WAIT, DATA, TERMINAL, SOCKET_DATA],
        Kind::Bells => &[EVERY, WAIT, DATA, TERMINAL, PIN],
        Kind::Disk => &[EVERY, WAIT, DATA, TERMINAL, DEVICE, FILES, BLOCK, LINE],
        Kind::Net => &[EVERY, WAIT, DATA, TERMINAL, DEVICE, TAP, VHOST, SCHEDULING, LINE],
        Kind::Rng => &[EVERY, WAIT, DATA, TERMINAL, DEVICE, LINE],
        Kind::Control => &[EVERY, WAIT, DATA, TERMINAL, STATISTICS, SOCKET_DATA],

        Kind::NicServer => &[EVERY, WAIT, DATA, FILES, SOCKET_DATA, OWNER, OWNER_UPLINKS, RING],
        Kind::NicKeeper => &[EVERY, WAIT, DATA, SOCKET_DATA, KEEPER],
        Kind::Uplink => &[EVERY, WAIT, DATA, SOCKET_DATA, UPLINK, RING],
        Kind::Capture => &[EVERY, WAIT, DATA, RING],
        Kind::CaptureFile => &[EVERY, WAIT, DATA, FILES],
        Kind::Clock => &[EVERY, WAIT, DATA, RING],
    }
}

/// Protections of memory never include execution.
const NOT_EXECUTABLE: Condition = Masked(2, PROT_EXEC as u32, 0);

/// Every thread: memory of its own, locks, time, its end.
const EVERY: &[Rule] = &[
    any(SYS_brk),
    only(
        SYS_mmap,
        &[
            NOT_EXECUTABLE,
            Masked(3, MAP_ANONYMOUS as u32, MAP_ANONYMOUS as u32),
        ],
    ),
    only(SYS_mprotect, &[NOT_EXECUTABLE]),
    any(SYS_mremap),
    any(SYS_munmap),
    any(SYS_madvise),
    any(SYS_futex),
    any(SYS_sched_yield),
    any(SYS_sched_getaffinity),
    any(SYS_clock_gettime),
    any(SYS_gettimeofday),
    any(SYS_nanosleep),
    any(SYS_clock_nanosleep),
    any(SYS_getpid),
    any(SYS_gettid),
    any(SYS_getrandom),
    // Messages to people.
    only(SYS_write, &[Is(0, STDERR_FILENO as u32)]),
    only(SYS_writev, &[Is(0, STDERR_FILENO as u32)]),
    any(SYS_close),
    any(SYS_restart_syscall),
    any(SYS_rt_sigprocmask),
    any(SYS_rt_sigreturn),
    any(SYS_sigaltstack),
    // A thread that aborts the process.
    only(SYS_tgkill, &[OwnProcess(0)]),
    // A thread's last calls, and those that debug builds check descriptors by.
    any(SYS_set_robust_list),
    any(SYS_set_tid_address),
    only(SYS_fcntl, &[Is(1, F_GETFD as u32)]),
    only(SYS_fcntl, &[Is(1, F_GETFL as u32)]),
    // musl's second call after each one that makes a descriptor.
    only(SYS_fcntl, &[Is(1, F_SETFD as u32)]),
    any(SYS_exit),
    any(SYS_exit_group),
];

/// Starting threads (never processes), which then confine themselves.
const START: &[Rule] = &[
    only(
        SYS_clone,
        &[Masked(
            0,
            (CLONE_THREAD | CLONE_VM | CLONE_SIGHAND | CLONE_FILES | CLONE_FS | NEW_NAMESPACES)
                as u32,
            (CLONE_THREAD | CLONE_VM | CLONE_SIGHAND | CLONE_FILES | CLONE_FS) as u32,
        )],
    ),
    any(SYS_rseq),
    only(SYS_prctl, &[Is(0, PR_SET_NAME as u32)]),
    only(SYS_prctl, &[Is(0, PR_SET_NO_NEW_PRIVS as u32), Is(1, 1)]),
    // More filters only take away.
    only(SYS_seccomp, &[Is(0, SECCOMP_SET_MODE_FILTER)]),
    any(SYS_capget),
    // Capabilities that are not there cannot be had by it.
    any(SYS_capset),
];

/// Flags of clone by which namespaces are left.
const NEW_NAMESPACES: c_int = CLONE_NEWNS
    | CLONE_NEWCGROUP
    | CLONE_NEWUTS
    | CLONE_NEWIPC
    | CLONE_NEWUSER
    | CLONE_NEWPID
    | CLONE_NEWNET;

/// Waiting for descriptors and signals.
const WAIT: &[Rule] = &[
    any(SYS_poll),
    any(SYS_ppoll),
    any(SYS_select),
    any(SYS_pselect6),
    any(SYS_epoll_create1),
    any(SYS_epoll_ctl),
    any(SYS_epoll_wait),
    any(SYS_epoll_pwait),
    any(SYS_rt_sigtimedwait),
];

/// Moving bytes by descriptors that are open.
const DATA: &[Rule] = &[
    any(SYS_read),
    any(SYS_readv),
    any(SYS_write),
    any(SYS_writev),
    // Of bells, without waiting.
    any(SYS_preadv2),
];

/// Ringing bells without waiting: a request that is complete at once and signals an eventfd; and the end
/// of that.
const RING: &[Rule] = &[
    any(SYS_io_submit),
    any(SYS_io_getevents),
    any(SYS_io_destroy),
];

/// Waiting for processes that were started before.
const CHILDREN: &[Rule] = &[any(SYS_wait4), any(SYS_waitid)];

/// Reading statistics by descriptors that are open.
const STATISTICS: &[Rule] = &[any(SYS_pread64), any(SYS_lseek)];

/// Files that are open.
const FILES: &[Rule] = &[
    any(SYS_pread64),
    any(SYS_preadv),
    any(SYS_preadv2),
    any(SYS_pwrite64),
    any(SYS_pwritev),
    any(SYS_pwritev2),
    any(SYS_lseek),
    any(SYS_fsync),
    any(SYS_fdatasync),
    any(SYS_fallocate),
    any(SYS_ftruncate),
    any(SYS_fstat),
    any(SYS_statx),
];

/// Setting up a device that its guest starts: copies of descriptors, and new events.
const DEVICE: &[Rule] = &[
    any(SYS_eventfd2),
    any(SYS_dup),
    only(SYS_fcntl, &[Is(1, F_DUPFD_CLOEXEC as u32)]),
    only(SYS_fcntl, &[Is(1, F_SETFL as u32)]),
];

/// Sockets that are there: connections arrive, bytes come and go, but no descriptors.
const SOCKET_DATA: &[Rule] = &[
    any(SYS_accept4),
    any(SYS_recvfrom),
    any(SYS_sendto),
    any(SYS_shutdown),
    any(SYS_getsockopt),
    only(
        SYS_setsockopt,
        &[Is(1, SOL_SOCKET as u32), Is(2, SO_RCVTIMEO as u32)],
    ),
    only(
        SYS_setsockopt,
        &[Is(1, SOL_SOCKET as u32), Is(2, SO_SNDTIMEO as u32)],
    ),
    only(SYS_ioctl, &[Is(1, raw::FIONBIO)]),
    only(SYS_fcntl, &[Is(1, F_SETFL as u32)]),
];

/// A terminal's modes and size: those who use it, and who gives it back, at a panic on any thread.
/// TIOCSTI, which types, is not among them.
const TERMINAL: &[Rule] = &[
    ioctl!(raw::TCGETS),
    ioctl!(raw::TCGETS2),
    ioctl!(raw::TCSETS),
    ioctl!(raw::TCSETS2),
    ioctl!(raw::TCSETSW),
    ioctl!(raw::TCSETSW2),
    ioctl!(raw::TCSETSF),
    ioctl!(raw::TCSETSF2),
    ioctl!(raw::TIOCGWINSZ),
    ioctl!(raw::TIOCGPGRP),
    any(SYS_getpgrp),
    any(SYS_getpgid),
    only(SYS_fcntl, &[Is(1, F_SETFL as u32)]),
];

/// A vCPU that runs, and what brings it back to its first state when the VM is reset. Nothing that
/// attaches views.
const KVM_VCPU: &[Rule] = &[
    ioctl!(kvm::KVM_RUN),
    ioctl!(kvm::KVM_GET_REGS),
    ioctl!(kvm::KVM_SET_REGS),
    ioctl!(kvm::KVM_GET_SREGS),
    ioctl!(kvm::KVM_SET_SREGS),
    ioctl!(kvm::KVM_SET_FPU),
    ioctl!(kvm::KVM_SET_LAPIC),
    ioctl!(kvm::KVM_SET_MSRS),
    ioctl!(kvm::KVM_SET_MP_STATE),
    ioctl!(kvm::KVM_SET_VCPU_EVENTS),
    ioctl!(kvm::KVM_SET_DEBUGREGS),
    ioctl!(kvm::KVM_SET_XCRS),
    ioctl!(kvm::KVM_KVMCLOCK_CTRL),
    ioctl!(kvm::KVM_GET_EPT_VIEW_STATS),
];

/// What exits and resets lead to in the VM: memory slots and interrupt routes that move with PCI
/// devices, interrupts, events. Nothing that makes VMs, vCPUs or devices.
const KVM_VM: &[Rule] = &[
    ioctl!(kvm::KVM_SET_USER_MEMORY_REGION),
    ioctl!(kvm::KVM_SET_GSI_ROUTING),
    ioctl!(kvm::KVM_IRQFD),
    ioctl!(kvm::KVM_IOEVENTFD),
    ioctl!(kvm::KVM_IRQ_LINE),
    ioctl!(kvm::KVM_SET_IRQCHIP),
    ioctl!(kvm::KVM_SIGNAL_MSI),
];

/// A thread that has events be a pin's (INTx), and no more.
const PIN: &[Rule] = &[ioctl!(kvm::KVM_IRQFD)];

/// A thread that serves queues of a driver without MSI-X: the interrupt's line (INTx).
const LINE: &[Rule] = &[ioctl!(kvm::KVM_IRQ_LINE)];

/// A thread that serves queues: waking behind whoever runs.
const SCHEDULING: &[Rule] = &[only(
    SYS_sched_setscheduler,
    &[Is(0, 0), Is(1, SCHED_BATCH as u32)],
)];

/// A TAP that is open: what a driver negotiates.
const TAP: &[Rule] = &[
    ioctl!(raw::TUNSETOFFLOAD),
    ioctl!(raw::TUNSETQUEUE),
    ioctl!(raw::TUNSETVNETHDRSZ),
];

/// vhost that is open and owned: memory, queues and backend of a device that its guest starts.
const VHOST: &[Rule] = &[
    ioctl!(raw::VHOST_GET_FEATURES),
    ioctl!(raw::VHOST_SET_FEATURES),
    ioctl!(raw::VHOST_GET_BACKEND_FEATURES),
    ioctl!(raw::VHOST_SET_BACKEND_FEATURES),
    ioctl!(raw::VHOST_SET_MEM_TABLE),
    ioctl!(raw::VHOST_SET_VRING_NUM),
    ioctl!(raw::VHOST_SET_VRING_ADDR),
    ioctl!(raw::VHOST_SET_VRING_BASE),
    ioctl!(raw::VHOST_GET_VRING_BASE),
    ioctl!(raw::VHOST_SET_VRING_KICK),
    ioctl!(raw::VHOST_SET_VRING_CALL),
    ioctl!(raw::VHOST_SET_VRING_ERR),
    ioctl!(raw::VHOST_NET_SET_BACKEND),
    ioctl!(raw::VHOST_VSOCK_SET_RUNNING),
];

/// A block device that is open.
const BLOCK: &[Rule] = &[
    ioctl!(raw::BLKDISCARD),
    ioctl!(raw::BLKZEROOUT),
    ioctl!(raw::BLKFLSBUF),
];

/// An uplink that is open: frames to a packet socket, which kinds of them a TAP gives, and a look at the
/// state of its interface. Nothing that changes an interface, and not ethtool's ioctl, which can.
const UPLINK: &[Rule] = &[
    any(SYS_sendmsg),
    any(SYS_sendmmsg),
    ioctl!(raw::TUNSETOFFLOAD),
    ioctl!(SIOCGIFNAME),
    ioctl!(SIOCGIFFLAGS),
    ioctl!(SIOCGIFMTU),
];

/// The owner's server: connections with descriptors in both directions, files of captures and
/// state, templates and grants of views.
const OWNER: &[Rule] = &[
    any(SYS_recvmsg),
    any(SYS_sendmsg),
    any(SYS_socket),
    any(SYS_socketpair),
    any(SYS_bind),
    any(SYS_listen),
    any(SYS_connect),
    any(SYS_getsockname),
    any(SYS_setsockopt),
    any(SYS_pidfd_open),
    any(SYS_pidfd_send_signal),
    any(SYS_open),
    any(SYS_openat),
    any(SYS_newfstatat),
    any(SYS_stat),
    any(SYS_lstat),
    any(SYS_getcwd),
    any(SYS_readlink),
    any(SYS_readlinkat),
    any(SYS_chmod),
    any(SYS_fchmod),
    any(SYS_umask),
    any(SYS_unlink),
    any(SYS_unlinkat),
    any(SYS_rename),
    any(SYS_flock),
    any(SYS_memfd_create),
    any(SYS_eventfd2),
    any(SYS_pipe2),
    any(SYS_dup),
    any(SYS_fcntl),
    any(SYS_geteuid),
    any(SYS_wait4),
    any(SYS_waitid),
    // Windows and state, of memfds.
    only(SYS_mmap, &[NOT_EXECUTABLE]),
    ioctl!(kvm::KVM_CHECK_EXTENSION),
    ioctl!(kvm::KVM_CREATE_EPT_VIEW),
    ioctl!(kvm::KVM_EPT_VIEW_MAP),
    ioctl!(kvm::KVM_EPT_VIEW_BELLS),
    ioctl!(kvm::KVM_EPT_VIEW_SEAL),
    ioctl!(kvm::KVM_EPT_VIEW_GRANT),
    ioctl!(kvm::KVM_EPT_VIEW_REVOKE),
    ioctl!(kvm::KVM_GET_EPT_VIEW_INFO),
];

/// Joining interfaces: what the owner's server asks of TAPs, packet sockets and AF_XDP.
const OWNER_UPLINKS: &[Rule] = &[
    any(SYS_bpf),
    // Programs may have to know the kernel's version.
    any(SYS_uname),
    ioctl!(SIOCGIFNAME),
    ioctl!(SIOCGIFFLAGS),
    ioctl!(SIOCSIFFLAGS),
    ioctl!(SIOCGIFMTU),
    ioctl!(SIOCSIFMTU),
    ioctl!(SIOCGIFINDEX),
    ioctl!(SIOCGIFHWADDR),
    ioctl!(raw::TUNSETIFF),
    ioctl!(raw::TUNSETVNETHDRSZ),
    ioctl!(raw::TUNSETVNETBE),
    ioctl!(raw::TUNSETFILTEREBPF),
    ioctl!(raw::TUNSETSTEERINGEBPF),
    ioctl!(raw::TUNSETSNDBUF),
    ioctl!(raw::TUNSETTXFILTER),
    ioctl!(raw::TUNDETACHFILTER),
    ioctl!(raw::TUNSETOFFLOAD),
];

/// The keeper: takes descriptors and hands them on.
const KEEPER: &[Rule] = &[
    any(SYS_recvmsg),
    any(SYS_sendmsg),
    any(SYS_setsockopt),
    any(SYS_pidfd_open),
    any(SYS_unlink),
    any(SYS_unlinkat),
    any(SYS_geteuid),
    any(SYS_lstat),
    any(SYS_stat),
    any(SYS_newfstatat),
    any(SYS_statx),
    any(SYS_fcntl),
];

/// Numbers of KVM's ioctls: KVM's own (linux/kvm.h), and those of views.
pub(crate) mod kvm {
    use kvm_bindings as kvm;
    use postern_abi::kvm::*;
    use vmm_sys_util::ioctl::{_IOC_NONE, _IOC_READ, _IOC_WRITE, ioctl_expr};

    const fn none(number: u32) -> u32 {
        ioctl_expr(_IOC_NONE, KVMIO, number, 0) as u32
    }

    const fn write<T>(number: u32) -> u32 {
        ioctl_expr(_IOC_WRITE, KVMIO, number, size_of::<T>() as u32) as u32
    }

    const fn read<T>(number: u32) -> u32 {
        ioctl_expr(_IOC_READ, KVMIO, number, size_of::<T>() as u32) as u32
    }

    const fn both<T>(number: u32) -> u32 {
        ioctl_expr(_IOC_READ | _IOC_WRITE, KVMIO, number, size_of::<T>() as u32) as u32
    }

    pub const KVM_CHECK_EXTENSION: u32 = none(0x03);
    pub const KVM_SET_USER_MEMORY_REGION: u32 = write::<kvm::kvm_userspace_memory_region>(0x46);
    pub const KVM_IRQ_LINE: u32 = write::<kvm::kvm_irq_level>(0x61);
    /// It reads, and is numbered as if it wrote to user space.
    pub const KVM_SET_IRQCHIP: u32 = read::<kvm::kvm_irqchip>(0x63);
    pub const KVM_SET_GSI_ROUTING: u32 = write::<kvm::kvm_irq_routing>(0x6a);
    pub const KVM_IRQFD: u32 = write::<kvm::kvm_irqfd>(0x76);
    pub const KVM_IOEVENTFD: u32 = write::<kvm::kvm_ioeventfd>(0x79);
    pub const KVM_RUN: u32 = none(0x80);
    pub const KVM_GET_REGS: u32 = read::<kvm::kvm_regs>(0x81);
    pub const KVM_SET_REGS: u32 = write::<kvm::kvm_regs>(0x82);
    pub const KVM_GET_SREGS: u32 = read::<kvm::kvm_sregs>(0x83);
    pub const KVM_SET_SREGS: u32 = write::<kvm::kvm_sregs>(0x84);
    pub const KVM_SET_MSRS: u32 = write::<kvm::kvm_msrs>(0x89);
    pub const KVM_SET_FPU: u32 = write::<kvm::kvm_fpu>(0x8d);
    pub const KVM_SET_LAPIC: u32 = write::<kvm::kvm_lapic_state>(0x8f);
    pub const KVM_SET_MP_STATE: u32 = write::<kvm::kvm_mp_state>(0x99);
    pub const KVM_SET_VCPU_EVENTS: u32 = write::<kvm::kvm_vcpu_events>(0xa0);
    pub const KVM_SET_DEBUGREGS: u32 = write::<kvm::kvm_debugregs>(0xa2);
    pub const KVM_SET_XCRS: u32 = write::<kvm::kvm_xcrs>(0xa7);
    pub const KVM_KVMCLOCK_CTRL: u32 = none(0xad);
    pub const KVM_SIGNAL_MSI: u32 = write::<kvm::kvm_msi>(0xa5);

    pub const KVM_CREATE_EPT_VIEW: u32 = write::<CreateEptView>(KVM_CREATE_EPT_VIEW_NR);
    pub const KVM_EPT_VIEW_MAP: u32 = write::<EptViewMap>(KVM_EPT_VIEW_MAP_NR);
    pub const KVM_EPT_VIEW_BELLS: u32 = write::<EptViewBells>(KVM_EPT_VIEW_BELLS_NR);
    pub const KVM_EPT_VIEW_SEAL: u32 = write::<EptViewSeal>(KVM_EPT_VIEW_SEAL_NR);
    pub const KVM_GET_EPT_VIEW_STATS: u32 = both::<EptViewStats>(KVM_GET_EPT_VIEW_STATS_NR);
    pub const KVM_EPT_VIEW_GRANT: u32 = write::<EptViewGrant>(KVM_EPT_VIEW_GRANT_NR);
    pub const KVM_EPT_VIEW_REVOKE: u32 = write::<EptViewRevoke>(KVM_EPT_VIEW_REVOKE_NR);
    pub const KVM_GET_EPT_VIEW_INFO: u32 = read::<EptViewInfo>(KVM_GET_EPT_VIEW_INFO_NR);
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn rules(kind: Kind) -> BTreeSet<String> {
        let rules = groups(kind).iter().copied().flatten();
        rules.map(|rule| format!("{rule:?}")).collect()
    }

    #[test]
    fn the_starter_may_what_those_may_that_it_starts() {
        let starter = rules(Kind::Starter);
        let others = [Kind::Main, Kind::Vcpu, Kind::NicServer, Kind::NicKeeper];
        for kind in Kind::ALL.into_iter().filter(|kind| !others.contains(kind)) {
            let missing: Vec<_> = rules(kind).difference(&starter).cloned().collect();
            assert!(missing.is_empty(), "{kind}: {missing:?}");
        }
    }
}
