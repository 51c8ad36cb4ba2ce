//! Each kind of thread, in a process of its own: what it does works, and what it never does ends
//! the process in the way that is documented. The process is this very program, which runs the test
//! `child` alone.
#![allow(clippy::unwrap_used, reason = "a failure is a failed test")]
#![allow(
    clippy::undocumented_unsafe_blocks,
    reason = "each call has no pointer, null, or one to a constant, and is made in a process of its own"
)]

use std::process::{Command, Output};
use std::ptr::{null, null_mut};

use libc::*;
use postern_confine::{Kind, enter, spawn, spawn_prepared, turn_on};

/// The status that refused calls end with, in these tests.
const REFUSED: u8 = 99;
/// Says to the child what it is to do: a kind of thread, and a call.
const VARIABLE: &str = "CONFINE_TEST_CHILD";

/// A call by its name.
type Call = (&'static str, fn() -> c_long);

/// Calls that no thread of a VMM may make once it is confined.
const BY_NOBODY: &[Call] = &[
    ("execve", || unsafe {
        syscall(
            SYS_execve,
            c"/bin/true".as_ptr(),
            null::<c_char>(),
            null::<c_char>(),
        )
    }),
    ("fork", || unsafe { syscall(SYS_fork) }),
    ("clone of a process", || unsafe {
        syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0)
    }),
    ("ptrace", || unsafe {
        syscall(SYS_ptrace, PTRACE_TRACEME, 0, 0, 0)
    }),
    ("process_vm_readv", || unsafe {
        syscall(
            SYS_process_vm_readv,
            1,
            null::<iovec>(),
            0,
            null::<iovec>(),
            0,
            0,
        )
    }),
    ("process_vm_writev", || unsafe {
        syscall(
            SYS_process_vm_writev,
            1,
            null::<iovec>(),
            0,
            null::<iovec>(),
            0,
            0,
        )
    }),
    ("pidfd_getfd", || unsafe {
        syscall(SYS_pidfd_getfd, -1, 0, 0)
    }),
    ("executable memory", || unsafe {
        syscall(
            SYS_mmap,
            0,
            4096,
            PROT_READ | PROT_EXEC,
            MAP_PRIVATE | MAP_ANONYMOUS,
            -1,
            0,
        )
    }),
    ("memory made executable", || unsafe {
        syscall(SYS_mprotect, 0, 0, PROT_READ | PROT_EXEC)
    }),
    ("a handler of its own", || unsafe {
        syscall(SYS_rt_sigaction, SIGSYS, 0, 0, 8)
    }),
    ("a signal to another process", || unsafe {
        syscall(SYS_tgkill, 1, 1, 0)
    }),
    ("a signal to any thread", || unsafe {
        syscall(SYS_tkill, 1, 0)
    }),
    ("kill", || unsafe { syscall(SYS_kill, 1, 0) }),
    ("dumping", || unsafe {
        syscall(SYS_prctl, PR_SET_DUMPABLE, 1)
    }),
    ("KVM_CREATE_VM", || unsafe {
        syscall(SYS_ioctl, -1, 0xae01, 0)
    }),
    ("KVM_CREATE_VCPU", || unsafe {
        syscall(SYS_ioctl, -1, 0xae41, 0)
    }),
    ("KVM_CREATE_DEVICE", || unsafe {
        syscall(SYS_ioctl, -1, 0xc00c_aee0_u32, 0)
    }),
    ("KVM_ATTACH_EPT_VIEW", || unsafe {
        syscall(SYS_ioctl, -1, 0x4040_aef3, 0)
    }),
    ("typing on the terminal", || unsafe {
        syscall(SYS_ioctl, 0, TIOCSTI, 0)
    }),
    ("mount", || unsafe { syscall(SYS_mount, 0, 0, 0, 0, 0) }),
    ("setns", || unsafe { syscall(SYS_setns, -1, 0) }),
    ("unshare", || unsafe { syscall(SYS_unshare, 0) }),
    ("init_module", || unsafe {
        syscall(SYS_init_module, 0, 0, 0)
    }),
    ("userfaultfd", || unsafe { syscall(SYS_userfaultfd, 0) }),
    ("io_uring_setup", || unsafe {
        syscall(SYS_io_uring_setup, 0, 0)
    }),
    ("perf_event_open", || unsafe {
        syscall(SYS_perf_event_open, 0, 0, 0, 0, 0)
    }),
    ("iopl", || unsafe { syscall(SYS_iopl, 3) }),
    ("the ABI x32", || unsafe {
        syscall(0x4000_0000 | SYS_getpid)
    }),
    ("setuid", || unsafe { syscall(SYS_setuid, 0) }),
    ("SIOCETHTOOL", || unsafe {
        syscall(SYS_ioctl, -1, SIOCETHTOOL, 0)
    }),
];

/// Calls that only the owner's server and the keeper of a NIC may make.
const BY_NO_VMM: &[Call] = &[
    ("open", || unsafe {
        syscall(SYS_open, c"/dev/null".as_ptr(), O_RDONLY)
    }),
    ("openat", || unsafe {
        syscall(SYS_openat, AT_FDCWD, c"/dev/null".as_ptr(), O_RDONLY)
    }),
    ("openat2", || unsafe {
        syscall(SYS_openat2, AT_FDCWD, 0, 0, 0)
    }),
    ("socket", || unsafe {
        syscall(SYS_socket, AF_UNIX, SOCK_STREAM, 0)
    }),
    ("connect", || unsafe { syscall(SYS_connect, -1, 0, 0) }),
    ("bind", || unsafe { syscall(SYS_bind, -1, 0, 0) }),
    ("recvmsg", || unsafe { syscall(SYS_recvmsg, -1, 0, 0) }),
    ("recvmmsg", || unsafe {
        syscall(SYS_recvmmsg, -1, 0, 0, 0, 0)
    }),
    ("unlink", || unsafe {
        syscall(SYS_unlink, c"/nowhere".as_ptr())
    }),
    ("a mapping of a file", || unsafe {
        syscall(SYS_mmap, 0, 4096, PROT_READ, MAP_SHARED, 0, 0)
    }),
    ("bpf", || unsafe { syscall(SYS_bpf, 0, 0, 0) }),
];

/// Calls that an uplink's thread may not make, which gets its device open and set up.
const BY_NO_UPLINK: &[Call] = &[
    ("SIOCSIFFLAGS", || unsafe {
        syscall(SYS_ioctl, -1, SIOCSIFFLAGS, 0)
    }),
    ("TUNSETIFF", || unsafe {
        syscall(SYS_ioctl, -1, TUNSETIFF, 0)
    }),
    ("TUNSETQUEUE", || unsafe {
        syscall(SYS_ioctl, -1, TUNSETQUEUE, 0)
    }),
    ("TUNSETVNETHDRSZ", || unsafe {
        syscall(SYS_ioctl, -1, TUNSETVNETHDRSZ, 0)
    }),
];

/// Calls that every thread makes.
const BY_ALL: &[Call] = &[
    ("memory", || unsafe {
        let flags = MAP_PRIVATE | MAP_ANONYMOUS;
        let memory = mmap(null_mut(), 4096, PROT_READ, flags, -1, 0);
        (mprotect(memory, 4096, PROT_READ | PROT_WRITE) + munmap(memory, 4096)).into()
    }),
    ("allocation", || {
        let many: Vec<Vec<u8>> = (0..64).map(|size| vec![1; size << 12]).collect();
        (many.concat().len() < 4096).into()
    }),
    ("the time", || {
        std::time::Instant::now()
            .elapsed()
            .subsec_nanos()
            .wrapping_mul(0)
            .into()
    }),
    ("sleep", || {
        std::thread::sleep(std::time::Duration::from_micros(1));
        0
    }),
    ("random numbers", || {
        let set: std::collections::HashSet<u8> = [1].into();
        (set.len() != 1).into()
    }),
    ("a signal to itself", || unsafe {
        syscall(SYS_tgkill, getpid(), gettid(), 0)
    }),
    ("a descriptor's flags, as musl sets them", || unsafe {
        (fcntl(STDERR_FILENO, F_SETFD, 0) != 0).into()
    }),
    ("a message", || {
        eprintln!("a message");
        0
    }),
    ("closing", || unsafe { (close(-1) != -1).into() }),
    ("a panic", || {
        let panicked = std::panic::catch_unwind(|| panic!("on purpose"));
        panicked.is_ok().into()
    }),
    ("another thread", || {
        let thread = spawn(Kind::Disk, "another", || 5).unwrap();
        (thread.join().unwrap() - 5).into()
    }),
];

/// Asserts an interrupt's line.
const IRQ_LINE: Call = ("KVM_IRQ_LINE", || refused_by_kernel(0x4008_ae61));

/// Says which kinds of unfinished frames a TAP gives.
const SET_OFFLOAD: Call = ("TUNSETOFFLOAD", || {
    refused_by_kernel(TUNSETOFFLOAD as c_long)
});

/// Calls that some kinds make besides.
const BY_SOME: &[(Kind, Call)] = &[
    (Kind::Vcpu, ("KVM_RUN", || refused_by_kernel(0xae80))),
    (Kind::Vcpu, ("KVM_IRQFD", || refused_by_kernel(0x4020_ae76))),
    (
        Kind::Vcpu,
        ("KVM_SET_USER_MEMORY_REGION", || {
            refused_by_kernel(0x4020_ae46)
        }),
    ),
    (
        Kind::Vcpu,
        ("an event", || unsafe {
            (eventfd(0, EFD_CLOEXEC) < 0).into()
        }),
    ),
    // A device whose driver has no MSI-X, or turns it off.
    (Kind::Disk, IRQ_LINE),
    (Kind::Net, IRQ_LINE),
    (Kind::Rng, IRQ_LINE),
    (
        Kind::Disk,
        ("fdatasync", || unsafe { (fdatasync(-1) == 0).into() }),
    ),
    (Kind::Net, SET_OFFLOAD),
    (Kind::Uplink, SET_OFFLOAD),
    (
        Kind::Uplink,
        ("SIOCGIFFLAGS", || refused_by_kernel(SIOCGIFFLAGS as c_long)),
    ),
    (
        Kind::Main,
        ("reading", || unsafe {
            (pread(-1, null_mut(), 0, 0) == 0) as c_long
        }),
    ),
];

/// ioctl on no descriptor: 0 if the call came to the kernel.
fn refused_by_kernel(request: c_long) -> c_long {
    // SAFETY: there is no such descriptor, so nothing is done.
    unsafe { (syscall(SYS_ioctl, -1, request, 0) != -1).into() }
}

#[test]
fn child() {
    let Ok(task) = std::env::var(VARIABLE) else {
        return;
    };
    let (kind, name) = task.split_once('/').unwrap();
    let kind = Kind::ALL.into_iter().find(|known| known.name() == kind);
    let all = [BY_NOBODY, BY_NO_VMM, BY_NO_UPLINK, BY_ALL]
        .into_iter()
        .flatten();
    let mut all = all.chain(BY_SOME.iter().map(|(_, call)| call));
    let (_, call) = all.find(|(known, _)| *known == name).unwrap();
    let status = match kind {
        None => call(),
        Some(kind) => {
            turn_on(REFUSED).unwrap();
            let thread = match kind {
                // The main thread is not confined when it starts these.
                Kind::Vcpu | Kind::NicServer => {
                    spawn_prepared(kind, "tested", || (), move |()| call())
                }
                _ => spawn(kind, "tested", call),
            };
            thread.unwrap().join().unwrap()
        }
    };
    std::process::exit(status as i32);
}

fn run(kind: &str, name: &str) -> Output {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child", "--nocapture"])
        .env(VARIABLE, format!("{kind}/{name}"))
        .env_remove("RUST_BACKTRACE")
        .output()
        .unwrap()
}

fn is_refused(kind: Kind, (name, _): &Call) {
    let output = run(kind.name(), name);
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(
        output.status.code(),
        Some(REFUSED.into()),
        "{kind}, {name}: {text}"
    );
    let line = format!("postern: a thread ({kind}) made system call ");
    assert!(text.contains(&line), "{kind}, {name}: {text}");
}

fn is_allowed(kind: Kind, (name, _): &Call) {
    let output = run(kind.name(), name);
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{kind}, {name}: {text}");
}

#[test]
fn every_thread_does_what_all_do() {
    for kind in Kind::ALL {
        BY_ALL.iter().for_each(|call| is_allowed(kind, call));
    }
    for (kind, call) in BY_SOME {
        is_allowed(*kind, call);
    }
}

#[test]
fn no_thread_makes_the_calls_that_matter() {
    for kind in Kind::ALL {
        for call in BY_NOBODY {
            is_refused(kind, call);
        }
        if !matches!(kind, Kind::NicServer | Kind::NicKeeper) {
            BY_NO_VMM.iter().for_each(|call| is_refused(kind, call));
        }
    }
    for call in BY_NO_UPLINK {
        is_refused(Kind::Uplink, call);
    }
}

#[test]
fn the_same_calls_are_made_by_a_process_that_is_not_confined() {
    for name in [
        "socket",
        "openat",
        "a mapping of a file",
        "KVM_CREATE_VM",
        "recvmsg",
    ] {
        let output = run("none", name);
        assert_ne!(output.status.code(), Some(REFUSED.into()), "{name}");
    }
}

#[test]
fn a_process_that_is_not_on_is_not_confined() {
    enter(Kind::Main).unwrap();
    assert!(std::fs::File::open("/proc/self/status").is_ok());
}
