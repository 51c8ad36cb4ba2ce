//! A call in a child process, one instruction at a time.

use std::collections::HashMap;
use std::mem::MaybeUninit;

use super::Guest;
use super::child::Child;

/// A child that is about to make a call.
pub struct Stepper(Child);

/// The state of the child behind a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The child has executed one more instruction.
    Running,
    /// The child has ended, with the result of the call.
    Ended(i32),
}

impl Stepper {
    /// Starts a child that will make a call for at most `count` frames; `None` where this machine
    /// does not let a process trace its child.
    pub fn new(sender: &Guest<'_>, count: u64) -> Option<Stepper> {
        let mut child = Child::spawn(|| {
            // SAFETY: the child lets its parent trace it, and stops itself.
            unsafe {
                if libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0) != 0 {
                    return 99;
                }
                libc::raise(libc::SIGSTOP);
            }
            sender.call(count, true) as i32
        });
        let first = child.wait();
        if libc::WIFEXITED(first) {
            assert_eq!(libc::WEXITSTATUS(first), 99);
            return None;
        }
        Some(Stepper(child))
    }

    /// Executes one instruction.
    pub fn step(&mut self) -> Step {
        self.advance(libc::PTRACE_SINGLESTEP)
    }

    /// Address of the next instruction.
    pub fn address(&self) -> u64 {
        self.registers().rip
    }

    fn registers(&self) -> libc::user_regs_struct {
        let mut registers = MaybeUninit::<libc::user_regs_struct>::uninit();
        // SAFETY: the child is stopped and traced by this thread, which gets all registers.
        unsafe {
            let at = registers.as_mut_ptr();
            assert_eq!(libc::ptrace(libc::PTRACE_GETREGS, self.0.pid, 0, at), 0);
            registers.assume_init()
        }
    }

    /// Runs the child up to an instruction, when it gets there for the `turn`th time, from 1.
    /// Returns false if the child ended before that.
    pub fn run_to(&mut self, address: u64, turn: u32) -> bool {
        let pid = self.0.pid;
        // SAFETY: the child is stopped and traced by this thread; its code is its own copy.
        let (peek, poke) = (
            || unsafe { libc::ptrace(libc::PTRACE_PEEKTEXT, pid, address, 0) },
            |word: i64| unsafe {
                assert_eq!(libc::ptrace(libc::PTRACE_POKETEXT, pid, address, word), 0);
            },
        );
        let code = peek();
        for left in (0..turn).rev() {
            if self.address() == address {
                if self.step() != Step::Running {
                    return false;
                }
                if self.address() == address {
                    continue;
                }
            }
            poke(code & !0xff | 0xcc);
            if self.advance(libc::PTRACE_CONT) != Step::Running {
                return false;
            }
            poke(code);
            let mut registers = self.registers();
            registers.rip = address;
            // SAFETY: the child is stopped and traced by this thread, and gets all registers.
            let done = unsafe { libc::ptrace(libc::PTRACE_SETREGS, pid, 0, &raw const registers) };
            assert_eq!((done, left < turn), (0, true));
        }
        true
    }

    /// Lets the child run to its end.
    pub fn finish(mut self) -> i32 {
        match self.advance(libc::PTRACE_CONT) {
            Step::Ended(result) => result,
            Step::Running => panic!("the child stops"),
        }
    }

    fn advance(&mut self, request: libc::c_uint) -> Step {
        // SAFETY: the child is stopped and traced by this thread.
        let done = unsafe { libc::ptrace(request, self.0.pid, 0, 0) };
        assert_eq!(done, 0);
        let status = self.0.wait();
        if libc::WIFEXITED(status) {
            return Step::Ended(libc::WEXITSTATUS(status));
        }
        assert!(libc::WIFSTOPPED(status) && libc::WSTOPSIG(status) == libc::SIGTRAP);
        Step::Running
    }
}

/// A trace of a call: for each instruction its address, and which time it was executed, from 1.
pub fn trace(sender: &Guest<'_>) -> Option<Vec<(u64, u32)>> {
    let mut stepper = Stepper::new(sender, u64::MAX)?;
    let mut times = HashMap::new();
    let mut trace = Vec::new();
    loop {
        let address = stepper.address();
        let turn = times.entry(address).or_insert(0);
        *turn += 1;
        trace.push((address, *turn));
        if stepper.step() != Step::Running {
            return Some(trace);
        }
    }
}
