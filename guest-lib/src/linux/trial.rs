//! A first call on each CPU, by a process of its own: where VMFUNC or VMCALL is refused, that process
//! dies, and this one can say why.

use std::io;
use std::mem;

use super::affinity;
use super::error::Error;
use super::path::Path;
use crate::service::Refused;

/// Exit codes of the process that tries the call.
const SERVED: i32 = 0;
const NO_SECRET: i32 = 1;
const BAD_REQUEST: i32 = 2;
const NOT_SERVED: i32 = 3;
const OTHER_CPU: i32 = 4;

/// Makes an empty request, `request`, from each CPU that the calling thread may run on.
///
/// # Errors
///
/// The first CPU from which it is not served, and why.
pub fn on_each_cpu(path: Path, request: u64) -> Result<(), Error> {
    let failed = |error| Error::of("try a call in a process of its own", "/proc/self", error);
    for cpu in affinity::allowed().map_err(failed)? {
        let status = on_cpu(path, request, cpu).map_err(failed)?;
        if libc::WIFSIGNALED(status) && libc::WTERMSIG(status) == libc::SIGILL {
            return Err(match path {
                Path::Hypercall(_) => Error::NoHypercall { cpu },
                _ => Error::NotArmed {
                    cpu,
                    missing: missing_features(),
                },
            });
        }
        if !libc::WIFEXITED(status) {
            return Err(Error::Trial { cpu, status });
        }
        match libc::WEXITSTATUS(status) {
            // The CPU was taken away meanwhile.
            SERVED | OTHER_CPU => {}
            NO_SECRET => {
                let refused = Refused::NoSecret;
                return Err(Error::Refused { cpu, refused });
            }
            BAD_REQUEST => {
                let refused = Refused::BadRequest;
                return Err(Error::Refused { cpu, refused });
            }
            NOT_SERVED => return Err(Error::NoHypercall { cpu }),
            _ => return Err(Error::Trial { cpu, status }),
        }
    }
    Ok(())
}

/// The wait status of a process that makes the request from a CPU.
fn on_cpu(path: Path, request: u64, cpu: usize) -> io::Result<i32> {
    // A child like that of fork(), but that ends without SIGCHLD: the program's handler, or its
    // wait() for any child, notices nothing.
    //
    // SAFETY: without flags the child has a copy of the address space, and its one thread goes on
    // here. It runs `call_and_exit` alone, which takes no lock and allocates nothing, so it does
    // not matter what other threads of the program were in the middle of.
    let child = unsafe { libc::syscall(libc::SYS_clone, 0, 0, 0, 0, 0) };
    match child {
        -1 => Err(io::Error::last_os_error()),
        0 => call_and_exit(path, request, cpu),
        child => wait_for(child as libc::pid_t),
    }
}

fn wait_for(child: libc::pid_t) -> io::Result<i32> {
    loop {
        let mut status = 0;
        // SAFETY: the kernel writes one integer, the status.
        if unsafe { libc::waitpid(child, &mut status, libc::__WALL) } == child {
            return Ok(status);
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

/// What the child does.
fn call_and_exit(mut path: Path, request: u64, cpu: usize) -> ! {
    // SAFETY: the calls read structures of this stack frame. They concern this child alone: the
    // program's handlers do not run in it, it leaves no core file, and it may be moved.
    let moved = unsafe {
        libc::prctl(libc::PR_SET_DUMPABLE, 0, 0, 0, 0);
        libc::signal(libc::SIGILL, libc::SIG_DFL);
        libc::signal(libc::SIGSEGV, libc::SIG_DFL);
        let mut set: libc::cpu_set_t = mem::zeroed();
        libc::CPU_SET(cpu, &mut set);
        libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &set)
    };
    let code = match moved {
        0 => match path.call(request, 0, 0).map(Refused::check) {
            None | Some(Ok(0)) => SERVED,
            Some(Ok(_)) => NOT_SERVED,
            Some(Err(Refused::NoSecret)) => NO_SECRET,
            Some(Err(Refused::BadRequest)) => BAD_REQUEST,
        },
        _ => OTHER_CPU,
    };
    loop {
        // SAFETY: ends this process, without any handler of the program's.
        unsafe { libc::syscall(libc::SYS_exit_group, code) };
    }
}

/// What views need and the kernel does not use, as `/proc/cpuinfo` tells.
fn missing_features() -> Vec<&'static str> {
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let flags = cpuinfo.lines().find(|line| line.starts_with("flags"));
    let has =
        |name: &str| flags.is_none_or(|flags| flags.split_whitespace().any(|flag| flag == name));
    ["smep", "smap"]
        .into_iter()
        .filter(|name| !has(name))
        .collect()
}

#[cfg(test)]
mod tests {
    use postern_abi::service::OP_NOP;

    use super::*;
    use crate::linux::gate_area;

    /// This host has no view at any slot, so VMFUNC is refused here, and that kills the child alone.
    #[test]
    fn a_call_without_a_view_is_an_error_and_no_signal_here() {
        let path = Path::Gate(gate_area::gate(0).unwrap());
        let error = on_each_cpu(path, OP_NOP).unwrap_err();
        assert!(matches!(error, Error::NotArmed { .. }), "{error}");
    }
}
