//! A child process that shares the NIC's memory. To the NIC, it is a vCPU.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::build::now_in_child;

/// A child process, killed when this is dropped.
pub struct Child {
    pub pid: libc::pid_t,
    over: bool,
}

impl Child {
    /// Runs `work` in a child, which ends with its result. `work` must not rely on other threads.
    pub fn spawn(work: impl FnOnce() -> i32) -> Child {
        // SAFETY: the child runs `work` alone, and leaves without running any other part of this
        // program.
        let pid = unsafe { libc::fork() };
        assert!(pid >= 0, "fork");
        if pid == 0 {
            now_in_child();
            let result = catch_unwind(AssertUnwindSafe(work)).unwrap_or(101);
            // SAFETY: it ends the child, and touches no memory.
            unsafe { libc::_exit(result) };
        }
        Child { pid, over: false }
    }

    pub fn signal(&self, signal: i32) {
        // SAFETY: the child has not been waited for, so the number is still its own.
        assert_eq!(unsafe { libc::kill(self.pid, signal) }, 0);
    }

    /// Waits for the child to stop or to end. Returns its status, as waitpid(2) does.
    pub fn wait(&mut self) -> i32 {
        let mut status = 0;
        // SAFETY: the child is this process's, `status` lives through the call.
        let pid = unsafe { libc::waitpid(self.pid, &raw mut status, libc::WUNTRACED) };
        assert_eq!(pid, self.pid);
        self.over = !libc::WIFSTOPPED(status);
        status
    }

    /// Kills the child, whatever it is doing, and waits for its end.
    pub fn kill(mut self) {
        self.end();
    }

    fn end(&mut self) {
        if !self.over {
            self.signal(libc::SIGKILL);
            while !self.over {
                self.wait();
            }
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.end();
    }
}
