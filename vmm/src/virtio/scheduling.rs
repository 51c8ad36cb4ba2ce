//! How the host's kernel schedules a thread that serves queues.

use std::io;

/// Has the calling thread, when it is woken, wait for whoever runs on its processor until the next
/// tick at the latest (`SCHED_BATCH` of sched(7)); on an idle processor it runs at once.
///
/// A thread whose kicks come from a vCPU of the same processor would otherwise run after each of them,
/// find one buffer, ask for the next kick and sleep: a VM exit for each buffer. So it finds what the
/// driver has made available meanwhile.
///
/// # Errors
///
/// The system's; the thread then runs as others do.
pub(super) fn wake_behind_others() -> io::Result<()> {
    // Not the function of the C library: musl's does nothing. The kernel's `struct sched_param` is this
    // number.
    let priority: libc::c_int = 0;
    // SAFETY: the kernel reads `priority`, which outlives the call, and changes the calling thread (0)
    // alone.
    let result = unsafe {
        libc::syscall(
            libc::SYS_sched_setscheduler,
            0,
            libc::SCHED_BATCH,
            &raw const priority,
        )
    };
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_takes_it_of_one_thread() {
        // Field 41 of proc_pid_stat(5); the third comes after the name's parenthesis.
        let policy = || -> i32 {
            let line = std::fs::read_to_string("/proc/thread-self/stat").unwrap();
            let (_, rest) = line.rsplit_once(") ").unwrap();
            rest.split(' ').nth(41 - 3).unwrap().parse().unwrap()
        };
        let before = policy();
        let there = std::thread::spawn(move || {
            wake_behind_others().unwrap();
            policy()
        });
        assert_eq!(there.join().unwrap(), libc::SCHED_BATCH);
        assert_eq!(policy(), before);
    }
}
