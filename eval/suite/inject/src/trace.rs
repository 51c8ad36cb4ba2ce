//! A thread of another process, stopped, whose next system calls are ours (ptrace(2)).

use std::fs;
use std::io;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use libc::{c_int, c_long, c_void, pid_t, user_regs_struct};

/// What became of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Made {
    /// It was made, and gave this.
    Returned(i64),
    /// A program was executed.
    Executed,
    /// The kernel refused it by SIGSYS.
    Refused,
}

/// A stopped thread. It goes on when this is dropped.
pub struct Stopped {
    process: pid_t,
    thread: pid_t,
}

/// Where a string for a call is put: below the thread's stack pointer and its red zone.
const SCRATCH: u64 = 1024;

impl Stopped {
    /// Stops a thread while it sleeps in a system call.
    pub fn stop(process: pid_t, thread: pid_t) -> Result<Stopped> {
        let options = libc::PTRACE_O_TRACESYSGOOD as usize;
        ptrace(libc::PTRACE_SEIZE, thread, 0, options).context("PTRACE_SEIZE")?;
        let stopped = Stopped { process, thread };
        for _ in 0..1000 {
            stopped.interrupt()?;
            let registers = stopped.registers()?;
            let before = stopped.peek(registers.rip.wrapping_sub(2))?;
            // SYSCALL.
            if before.to_le_bytes().starts_with(&[0x0f, 0x05]) {
                return Ok(stopped);
            }
            ptrace(libc::PTRACE_CONT, thread, 0, 0)?;
            thread::sleep(Duration::from_millis(1));
        }
        bail!("thread {thread} is never in a system call")
    }

    fn interrupt(&self) -> Result<()> {
        ptrace(libc::PTRACE_INTERRUPT, self.thread, 0, 0).context("PTRACE_INTERRUPT")?;
        self.wait().map(drop)
    }

    /// Has the thread make a system call.
    pub fn call(&self, number: c_long, arguments: [u64; 6]) -> Result<Made> {
        let before = self.registers()?;
        let [rdi, rsi, rdx, r10, r8, r9] = arguments;
        self.set_registers(&user_regs_struct {
            rip: before.rip - 2,
            rax: number as u64,
            // It is in no call that would have to be begun anew.
            orig_rax: u64::MAX,
            rdi,
            rsi,
            rdx,
            r10,
            r8,
            r9,
            ..before
        })?;
        // To the entry of the call, and to its end.
        for _ in 0..2 {
            ptrace(libc::PTRACE_SYSCALL, self.thread, 0, 0)?;
            match self.wait()? {
                SYSCALL_STOP => {}
                signal => bail!("stopped by signal {signal}"),
            }
        }
        let result = self.registers()?.rax as i64;
        if number == libc::SYS_execve && result == 0 {
            ptrace(libc::PTRACE_DETACH, self.thread, 0, 0)?;
            return Ok(Made::Executed);
        }
        self.set_registers(&before)?;
        if self.has_pending(libc::SIGSYS)? {
            ptrace(libc::PTRACE_DETACH, self.thread, 0, 0)?;
            return Ok(Made::Refused);
        }
        Ok(Made::Returned(result))
    }

    /// Whether the thread will get a signal once it goes on.
    fn has_pending(&self, signal: c_int) -> Result<bool> {
        let path = format!("/proc/{}/task/{}/status", self.process, self.thread);
        let text = fs::read_to_string(path)?;
        let line = text.lines().find_map(|line| line.strip_prefix("SigPnd:"));
        let pending = u64::from_str_radix(line.context("no SigPnd")?.trim(), 16)?;
        Ok(pending & 1 << (signal - 1) != 0)
    }

    /// Puts bytes where calls find them; gives the address.
    pub fn put(&self, bytes: &[u8]) -> Result<u64> {
        ensure!(bytes.len() < 512, "{} bytes are too many", bytes.len());
        let address = (self.registers()?.rsp - SCRATCH) & !15;
        for (index, chunk) in bytes.chunks(8).enumerate() {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            let word = u64::from_le_bytes(word) as usize;
            let at = address as usize + 8 * index;
            ptrace(libc::PTRACE_POKEDATA, self.thread, at, word).context("PTRACE_POKEDATA")?;
        }
        Ok(address)
    }

    /// Puts a string there.
    pub fn put_text(&self, text: &str) -> Result<u64> {
        self.put(&[text.as_bytes(), &[0]].concat())
    }

    fn peek(&self, address: u64) -> Result<u64> {
        let mut word = 0_u64;
        // The system call, unlike the function of C libraries, has the result behind `data`.
        let data = (&raw mut word) as usize;
        ptrace(libc::PTRACE_PEEKDATA, self.thread, address as usize, data)
            .context("PTRACE_PEEKDATA")?;
        Ok(word)
    }

    fn registers(&self) -> Result<user_regs_struct> {
        // SAFETY: all zeros are registers: integers.
        let mut registers: user_regs_struct = unsafe { std::mem::zeroed() };
        let data = (&raw mut registers) as usize;
        ptrace(libc::PTRACE_GETREGS, self.thread, 0, data).context("PTRACE_GETREGS")?;
        Ok(registers)
    }

    fn set_registers(&self, registers: &user_regs_struct) -> Result<()> {
        let data = std::ptr::from_ref(registers) as usize;
        ptrace(libc::PTRACE_SETREGS, self.thread, 0, data).context("PTRACE_SETREGS")
    }

    /// Waits for the thread's next stop, and gives its signal.
    fn wait(&self) -> Result<c_int> {
        let mut status = 0;
        // SAFETY: `status` lives through the call.
        let found = unsafe { libc::waitpid(self.thread, &raw mut status, libc::__WALL) };
        match found {
            -1 => Err(io::Error::last_os_error()).context("waitpid"),
            _ if libc::WIFSTOPPED(status) => Ok(libc::WSTOPSIG(status)),
            _ => bail!("the thread has ended (status {status:#x})"),
        }
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        // It may be gone, or be let go already.
        let _ = ptrace(libc::PTRACE_DETACH, self.thread, 0, 0);
    }
}

/// How a stop at a system call is told from others (PTRACE_O_TRACESYSGOOD).
const SYSCALL_STOP: c_int = libc::SIGTRAP | 0x80;

fn ptrace(request: impl Into<i64>, thread: pid_t, address: usize, data: usize) -> io::Result<()> {
    // SAFETY: requests of this module either take numbers, or write to the value behind `data` that
    // its caller has made for that request, or read from there.
    let result = unsafe {
        libc::syscall(
            libc::SYS_ptrace,
            request.into(),
            thread as c_long,
            address as *mut c_void,
            data as *mut c_void,
        )
    };
    match result {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}
