//! The emulator's process and its configuration.

use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use super::disks::Disks;
use super::error::MachineError;
use super::files::MachineFiles;

/// Model of the emulated CPU, as Bochs calls it: the smallest one with VMFUNC, SMEP and SMAP that runs
/// KVM well.
pub const CPU_MODEL: &str = "broadwell_ult";

/// Instructions a second of emulated time. The more, the fewer timer interrupts there are in a
/// piece of work; hosts reach about this.
const INSTRUCTIONS_PER_SECOND: u32 = 100_000_000;

/// Files in the machine's directory.
const CONSOLE: &str = "console.txt";
const OUTPUT: &str = "output.bin";
const LOG: &str = "bochs.log";
const MESSAGES: &str = "bochs.out";

/// Other end of the machine's serial port.
#[derive(Clone, Copy)]
pub enum Serial<'a> {
    /// To a file; emulated time runs as fast as it can.
    File,
    /// To a terminal with a person; emulated time does not overtake real time.
    Terminal(&'a Path),
}

/// A running emulator; dropped, it is killed.
pub struct Emulator {
    child: Child,
    directory: PathBuf,
}

impl Emulator {
    /// Starts the machine whose disc and disks lie in `directory`, with this size of memory and
    /// number of disks.
    pub fn start(
        directory: &Path,
        files: &MachineFiles,
        (memory_mb, disks): (u32, usize),
        serial: Serial<'_>,
    ) -> Result<Self, MachineError> {
        let prepare = |what: &str| {
            let what = format!("{what} in {}", directory.display());
            move |source| MachineError::Prepare { what, source }
        };
        let configuration = directory.join("bochsrc");
        fs::write(&configuration, bochsrc(files, memory_mb, disks, serial))
            .map_err(prepare("writing bochsrc"))?;
        for name in [CONSOLE, OUTPUT] {
            File::create(directory.join(name)).map_err(prepare(name))?;
        }
        let messages = File::create(directory.join(MESSAGES)).map_err(prepare(MESSAGES))?;
        let mut command = Command::new(&files.bochs);
        command
            .args(["-q", "-f", "bochsrc"])
            .current_dir(directory)
            .env("POSTERN_OUTPUT", OUTPUT)
            .stdin(Stdio::null())
            .stdout(messages.try_clone().map_err(prepare(MESSAGES))?)
            .stderr(messages)
            // Its own group: this program, not Ctrl-C, decides when it ends.
            .process_group(0);
        // SAFETY: the closure makes one system call, which may be made between fork and exec.
        unsafe {
            command.pre_exec(|| {
                // Should this program be killed, the machine goes too.
                let signal = Some(rustix::process::Signal::KILL);
                rustix::process::set_parent_process_death_signal(signal).map_err(Into::into)
            });
        }
        let child = command.spawn().map_err(|source| MachineError::Start {
            program: files.bochs.clone(),
            source,
        })?;
        Ok(Self {
            child,
            directory: directory.to_owned(),
        })
    }

    /// Status with which it ended, if it did.
    pub fn try_wait(&mut self) -> Result<Option<ExitStatus>, MachineError> {
        self.child
            .try_wait()
            .map_err(|source| MachineError::Prepare {
                what: "waiting for the emulator".to_owned(),
                source,
            })
    }

    /// Ends it now.
    pub fn kill(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// The file that the console goes to.
    pub fn console_path(&self) -> PathBuf {
        self.directory.join(CONSOLE)
    }

    /// Bytes that came out of the machine's output port so far.
    pub fn output(&self) -> Vec<u8> {
        fs::read(self.directory.join(OUTPUT)).unwrap_or_default()
    }

    /// The emulator's own log.
    pub fn log(&self) -> String {
        let read = |name| fs::read(self.directory.join(name)).unwrap_or_default();
        let mut log = read(LOG);
        log.extend(read(MESSAGES));
        String::from_utf8_lossy(&log).into_owned()
    }
}

impl Drop for Emulator {
    fn drop(&mut self) {
        self.kill();
    }
}

fn bochsrc(files: &MachineFiles, memory_mb: u32, disks: usize, serial: Serial<'_>) -> String {
    let (clock, com1) = match serial {
        Serial::File => ("none", format!("mode=file, dev={CONSOLE}")),
        Serial::Terminal(path) => ("slowdown", format!("mode=term, dev={}", path.display())),
    };
    // One CPU: two would share one host thread, and the counters are those of a single one.
    // Its random numbers would be those of the host's clock; the first process seeds the kernel's.
    format!(
        "config_interface: textconfig\n\
         display_library: nogui\n\
         plugin_ctrl: unmapped=true, biosdev=true, speaker=false, parallel=false, serial=true\n\
         memory: guest={memory_mb}, host={memory_mb}\n\
         romimage: file={bios}\n\
         vgaromimage: file={vga_bios}\n\
         cpu: model={CPU_MODEL}, count=1, ips={INSTRUCTIONS_PER_SECOND}, \
         reset_on_triple_fault=0, ignore_bad_msrs=1, exclude_features=\"rdrand rdseed\"\n\
         clock: sync={clock}, time0=946681200\n\
         pci: enabled=1, chipset=i440fx\n\
         vga: extension=vbe, update_freq=1\n\
         ata0: enabled=1, ioaddr1=0x1f0, ioaddr2=0x3f0, irq=14\n\
         ata0-master: type=cdrom, path=machine.iso, status=inserted\n\
         {disks}\
         boot: cdrom\n\
         com1: enabled=1, {com1}\n\
         log: {LOG}\n\
         info: action=ignore\n\
         error: action=ignore\n\
         panic: action=fatal\n",
        disks = Disks::configuration(disks),
        bios = files.bios.display(),
        vga_bios = files.vga_bios.display(),
    )
}
