//! What a guest that has taken a thread of its VMM over would do.

use anyhow::{Result, ensure};
use libc::c_long;

use crate::trace::{Made, Stopped};
use crate::vmm::{Host, Vmm};

/// An attack.
pub struct Attack {
    /// What it is: "no thread can ...".
    pub name: &'static str,
    /// The system call that it begins with.
    pub number: c_long,
    /// Makes that call.
    pub first: fn(&Stopped, &Vmm, &Host) -> Result<Made>,
    /// Goes on where nothing refused it, and checks that it worked.
    pub done: fn(Made, &Stopped, &Vmm, &Host) -> Result<()>,
}

/// What this program is called as when a VMM is made to execute it.
pub const EXECUTED: &str = "executed";
/// The status that it ends with then.
pub const EXECUTED_STATUS: u8 = 42;

const PAGE: u64 = 4096;

pub const ATTACKS: &[Attack] = &[
    Attack {
        name: "open and map another VM's window",
        number: libc::SYS_openat,
        first: |thread, _, host| {
            let name = thread.put_text(&host.other_window()?)?;
            let flags = (libc::O_RDWR | libc::O_CLOEXEC) as u64;
            thread.call(libc::SYS_openat, [here(), name, flags, 0, 0, 0])
        },
        done: |made, thread, vmm, host| {
            let descriptor = value(made)?;
            let mapped = thread.call(libc::SYS_mmap, map(descriptor))?;
            value(mapped)?;
            let (own, others) = (vmm.mapped_files()?, host.other_window_inode()?);
            ensure!(own.contains(&others), "inode {others} is not among {own:?}");
            Ok(())
        },
    },
    Attack {
        name: "map a file",
        number: libc::SYS_mmap,
        first: |thread, vmm, _| thread.call(libc::SYS_mmap, map(vmm.window()?)),
        done: |made, _, _, _| value(made).map(drop),
    },
    Attack {
        name: "have executable memory",
        number: libc::SYS_mmap,
        first: |thread, _, _| {
            let protection = (libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC) as u64;
            let flags = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS) as u64;
            let arguments = [0, PAGE, protection, flags, u64::MAX, 0];
            thread.call(libc::SYS_mmap, arguments)
        },
        done: |made, _, _, _| value(made).map(drop),
    },
    Attack {
        name: "execute a program",
        number: libc::SYS_execve,
        first: |thread, _, _| {
            // argv, then the strings.
            let name = format!("/proc/{}/exe\0", std::process::id());
            let at = thread.put(&[0; 16])?;
            let (argument, file) = (at + 16, at + 32);
            let mut bytes = [argument.to_le_bytes(), 0_u64.to_le_bytes()].concat();
            let mut word = EXECUTED.as_bytes().to_vec();
            word.resize(16, 0);
            bytes.extend(word);
            bytes.extend(name.as_bytes());
            thread.put(&bytes)?;
            thread.call(libc::SYS_execve, [file, at, 0, 0, 0, 0])
        },
        done: |made, _, vmm, _| {
            ensure!(made == Made::Executed, "{made:?}");
            vmm.ends_with(EXECUTED_STATUS)
        },
    },
    Attack {
        name: "make a socket",
        number: libc::SYS_socket,
        first: |thread, _, _| {
            let (family, kind) = (libc::AF_UNIX as u64, libc::SOCK_STREAM as u64);
            thread.call(libc::SYS_socket, [family, kind, 0, 0, 0, 0])
        },
        done: |made, _, _, _| value(made).map(drop),
    },
    Attack {
        name: "trace another VMM",
        number: libc::SYS_ptrace,
        first: |thread, _, host| {
            let (request, other) = (libc::PTRACE_SEIZE as u64, host.other() as u64);
            thread.call(libc::SYS_ptrace, [request, other, 0, 0, 0, 0])
        },
        done: |made, _, _, _| value(made).map(drop),
    },
    Attack {
        name: "read another VMM's memory",
        number: libc::SYS_process_vm_readv,
        first: |thread, _, host| {
            let other = host.other() as u64;
            thread.call(libc::SYS_process_vm_readv, [other, 0, 0, 0, 0, 0])
        },
        // Nothing is asked for, so nothing is read; small kernels do not have the call.
        done: |made, _, _, _| {
            let absent = Made::Returned(-i64::from(libc::ENOSYS));
            ensure!(made == Made::Returned(0) || made == absent, "{made:?}");
            Ok(())
        },
    },
    Attack {
        name: "take another process's descriptor",
        number: libc::SYS_pidfd_getfd,
        first: |thread, _, _| thread.call(libc::SYS_pidfd_getfd, [u64::MAX, 0, 0, 0, 0, 0]),
        done: |made, _, _, _| came_to_the_kernel(made, libc::EBADF),
    },
    Attack {
        name: "make a VM",
        number: libc::SYS_ioctl,
        first: |thread, _, _| thread.call(libc::SYS_ioctl, [0, 0xae01, 0, 0, 0, 0]),
        // /dev/kvm is not open any more; it can be opened where nothing refuses that.
        done: |_, thread, _, _| {
            let name = thread.put_text("/dev/kvm")?;
            let flags = libc::O_RDWR as u64;
            let kvm = value(thread.call(libc::SYS_openat, [here(), name, flags, 0, 0, 0])?)?;
            value(thread.call(libc::SYS_ioctl, [kvm, 0xae01, 0, 0, 0, 0])?).map(drop)
        },
    },
    Attack {
        name: "attach a view",
        number: libc::SYS_ioctl,
        first: |thread, vmm, _| {
            let vcpu = vmm.descriptor("kvm-vcpu:0")?;
            thread.call(libc::SYS_ioctl, [vcpu, attach(), 0, 0, 0, 0])
        },
        // There is nothing at the address that it names.
        done: |made, _, _, _| came_to_the_kernel(made, libc::EFAULT),
    },
    Attack {
        name: "change the handler of refused calls",
        number: libc::SYS_rt_sigaction,
        first: |thread, _, _| {
            let signal = libc::SIGSYS as u64;
            thread.call(libc::SYS_rt_sigaction, [signal, 0, 0, 8, 0, 0])
        },
        done: |made, _, _, _| value(made).map(drop),
    },
    Attack {
        name: "signal another process",
        number: libc::SYS_tgkill,
        first: |thread, _, host| {
            let other = host.other() as u64;
            thread.call(libc::SYS_tgkill, [other, other, 0, 0, 0, 0])
        },
        done: |made, _, _, _| value(made).map(drop),
    },
];

/// The working directory, as descriptors name it.
fn here() -> u64 {
    libc::AT_FDCWD as u64
}

/// Arguments of a mapping of a file's first page.
fn map(descriptor: u64) -> [u64; 6] {
    let protection = (libc::PROT_READ | libc::PROT_WRITE) as u64;
    [0, PAGE, protection, libc::MAP_SHARED as u64, descriptor, 0]
}

/// The request KVM_ATTACH_EPT_VIEW.
fn attach() -> u64 {
    use postern_abi::kvm::{AttachEptView, KVM_ATTACH_EPT_VIEW_NR, KVMIO};
    const WRITE: u32 = 1;
    let size = size_of::<AttachEptView>() as u32;
    (WRITE << 30 | size << 16 | KVMIO << 8 | KVM_ATTACH_EPT_VIEW_NR).into()
}

/// The result of a call that succeeded.
fn value(made: Made) -> Result<u64> {
    match made {
        Made::Returned(result @ 0..) => Ok(result as u64),
        other => anyhow::bail!("it failed: {other:?}"),
    }
}

fn came_to_the_kernel(made: Made, errno: i32) -> Result<()> {
    ensure!(made == Made::Returned((-errno).into()), "{made:?}");
    Ok(())
}
