//! Views and the processes that use them: who dies first must not matter, and nothing may be left.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use postern_abi::kvm::{RIGHT_FAST, RIGHT_STRICT};

use crate::Test;
use crate::guest::{ADD, Stop, Template, Vm, WAIT};
use crate::sys::Pages;

pub const TESTS: &[Test] = &[
    ("dropped views leave nothing behind", dropped),
    (
        "a service outlives all descriptors and its owner's mappings",
        owner_first,
    ),
    (
        "a VMM killed in the middle of a call leaves nothing behind",
        killed_in_call,
    ),
    (
        "a VMM killed at any instant leaves nothing behind",
        killed_anywhere,
    ),
];

/// Resources that the kernel holds for views: pinned pages, and references to the module.
#[derive(Debug, PartialEq, Eq)]
pub struct Held {
    /// Pinned pages.
    pub pinned_pages: i64,
    /// References to kvm-intel.
    pub module_references: i64,
}

pub fn held() -> Result<Held> {
    let vmstat = std::fs::read_to_string("/proc/vmstat")?;
    let counter = |name: &str| -> Result<i64> {
        let line = vmstat.lines().find_map(|line| line.strip_prefix(name));
        line.with_context(|| format!("/proc/vmstat has no {name}"))?
            .trim()
            .parse()
            .context(name.to_owned())
    };
    let references = std::fs::read_to_string("/sys/module/kvm_intel/refcnt")?;
    Ok(Held {
        pinned_pages: counter("nr_foll_pin_acquired ")? - counter("nr_foll_pin_released ")?,
        module_references: references.trim().parse()?,
    })
}

/// Runs `action`, then waits for the kernel to let go of everything it took.
pub fn leaves_nothing(action: impl FnOnce() -> Result<()>) -> Result<()> {
    // The kernel adds up its counters of pages once a second.
    std::thread::sleep(Duration::from_millis(1200));
    let before = held()?;
    action()?;
    let mut after = held()?;
    // Files and VMs are released by deferred work.
    for _ in 0..300 {
        if after == before {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(10));
        after = held()?;
    }
    anyhow::bail!("held before: {before:?}, after: {after:?}")
}

/// `mov rax, CALL; 1: call rax; jmp` to the move.
fn calling_code() -> Vec<u8> {
    let mut code = vec![0x48, 0xb8];
    code.extend_from_slice(&crate::guest::CALL.to_le_bytes());
    code.extend_from_slice(&[0xff, 0xd0, 0xeb, 0xf2]);
    code
}

fn dropped() -> Result<()> {
    leaves_nothing(|| {
        for round in 0..20 {
            let open = Template::open(ADD)?;
            drop(open);
            let right = [RIGHT_FAST, RIGHT_STRICT][round % 2];
            let template = Template::sealed(ADD)?;
            let unused = template.grant()?;
            let vm = Vm::attached(&calling_code(), &template, right, 0)?;
            if round % 3 == 0 {
                drop(template);
                drop(vm);
                drop(unused);
            }
        }
        Ok(())
    })
}

fn owner_first() -> Result<()> {
    leaves_nothing(|| {
        let template = Template::sealed(ADD)?;
        let mut code = calling_code();
        code.truncate(code.len() - 2);
        code.extend_from_slice(&crate::guest::OUT);
        let mut vm = Vm::attached(&code, &template, RIGHT_FAST, 0)?;
        // Closes the descriptor and unmaps code and data.
        drop(template);
        let others = Pages::writable(1 << 20);
        others.write(0, &[0xcc; 1 << 20]);
        let stop = vm.run();
        ensure!(stop == Stop::Out(0), "the call ended with {stop:?}");
        Ok(())
    })
}

/// Forks a child that runs `action` until killed.
pub fn spawn(action: impl FnOnce()) -> Result<libc::pid_t> {
    // SAFETY: the tests have one thread, so the child's memory is consistent.
    let child = unsafe { libc::fork() };
    ensure!(child >= 0, "fork: {}", std::io::Error::last_os_error());
    if child == 0 {
        action();
        // SAFETY: ends the child without running the parent's destructors.
        unsafe { libc::_exit(1) };
    }
    Ok(child)
}

pub fn kill(child: libc::pid_t) -> Result<()> {
    let mut status = 0;
    // SAFETY: signals and reaps our own child.
    unsafe {
        libc::kill(child, libc::SIGKILL);
        ensure!(libc::waitpid(child, &mut status, 0) == child, "waitpid");
    }
    ensure!(
        libc::WIFSIGNALED(status),
        "the child ended by itself with {status:#x}"
    );
    Ok(())
}

fn killed_in_call() -> Result<()> {
    leaves_nothing(|| {
        // Shared with the child, which tells through it that the service runs.
        let sign = Pages::writable(4096);
        for right in [RIGHT_FAST, RIGHT_STRICT] {
            sign.write_word(0, 0);
            let child = spawn(|| {
                let Ok(template) = Template::sealed(WAIT) else {
                    return;
                };
                let Ok(mut vm) = Vm::attached(&calling_code(), &template, right, 0) else {
                    return;
                };
                std::thread::scope(|scope| {
                    scope.spawn(|| {
                        while template.data.read_word(0) == 0 {
                            std::thread::sleep(Duration::from_millis(1));
                        }
                        sign.write_word(0, 1);
                    });
                    while vm.run() == Stop::Interrupted {}
                });
            })?;
            for _ in 0..1000 {
                if sign.read_word(0) == 1 {
                    break;
                }
                std::thread::sleep(Duration::from_millis(2));
            }
            ensure!(sign.read_word(0) == 1, "the service never ran");
            kill(child)?;
        }
        Ok(())
    })
}

fn killed_anywhere() -> Result<()> {
    leaves_nothing(|| {
        for round in 0..40u64 {
            let child = spawn(|| {
                loop {
                    let right = [RIGHT_FAST, RIGHT_STRICT][round as usize % 2];
                    let Ok(template) = Template::sealed(ADD) else {
                        return;
                    };
                    let Ok(mut vm) = Vm::attached(&calling_code(), &template, right, 0) else {
                        return;
                    };
                    while vm.run() == Stop::Interrupted {}
                }
            })?;
            std::thread::sleep(Duration::from_micros(137 * round * round % 20_000));
            kill(child)?;
        }
        Ok(())
    })
}
