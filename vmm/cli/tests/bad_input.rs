//! Bad input, as a user gives it on the command line or in a topology: one sentence that names the
//! thing and the remedy, the right status, and nothing left behind.

#![allow(clippy::unwrap_used, reason = "a test fails by a panic")]

mod common;

use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use common::elf::Elf;
use common::{program, stderr};
use tempfile::TempDir;

/// Configuration, as the documentation has it.
const CONFIGURATION: i32 = 64;
/// The NIC cannot be reached.
const NIC: i32 = 66;

/// Nobody, on all distributions.
const NOBODY: u32 = 65534;

/// Something that a VM cannot have.
struct Bad {
    what: &'static str,
    /// Flags of `postern run` beside `--kernel`, or instead of it; `DIR/` is the test's directory.
    flags: &'static str,
    /// Keys of the VM in a topology, where it can be said there; the last line is the wrong one.
    keys: &'static str,
    status: i32,
    /// What is told.
    parts: &'static [&'static str],
    /// Whether KVM has to be there, since it is asked before.
    needs_kvm: bool,
}

const fn bad(
    what: &'static str,
    flags: &'static str,
    keys: &'static str,
    parts: &'static [&'static str],
) -> Bad {
    Bad {
        what,
        flags,
        keys,
        status: CONFIGURATION,
        parts,
        needs_kvm: false,
    }
}

const fn asked_of_kvm(bad: Bad) -> Bad {
    Bad {
        needs_kvm: true,
        ..bad
    }
}

const fn with_status(status: i32, bad: Bad) -> Bad {
    Bad { status, ..bad }
}

const CASES: &[Bad] = &[
    bad(
        "missing kernel",
        "--kernel DIR/none",
        "kernel = 'none'",
        &[
            "kernel DIR/none",
            "bzImage (a distribution's vmlinuz, in /boot)",
        ],
    ),
    bad(
        "a kernel that is a directory",
        "--kernel DIR/folder",
        "kernel = 'folder'",
        &["kernel DIR/folder", "is a directory"],
    ),
    bad(
        "a cut bzImage",
        "--kernel DIR/cut-bzimage",
        "kernel = 'cut-bzimage'",
        &["cut-bzimage", "truncated", "copy the whole file again"],
    ),
    bad(
        "a cut ELF file",
        "--kernel DIR/cut-elf",
        "kernel = 'cut-elf'",
        &[
            "cut-elf",
            "truncated",
            "segment 0",
            "copy the whole file again",
        ],
    ),
    bad(
        "a kernel for another architecture",
        "--kernel DIR/arm64",
        "kernel = 'arm64'",
        &["kernel DIR/arm64", "for arm64", "give a kernel for x86-64"],
    ),
    bad(
        "an ELF kernel for another architecture",
        "--kernel DIR/elf-arm64",
        "kernel = 'elf-arm64'",
        &[
            "machine 183",
            "must be a statically linked ELF64 executable for x86-64",
        ],
    ),
    bad(
        "Linux without PVH",
        "--kernel DIR/without-pvh",
        "kernel = 'without-pvh'",
        &["without CONFIG_PVH", "give its bzImage", "CONFIG_PVH=y"],
    ),
    bad(
        "missing initrd",
        "--initrd DIR/none",
        "initrd = 'none'",
        &["initrd DIR/none", "give the one of the kernel"],
    ),
    bad(
        "unknown path",
        "--nic DIR/nic --port 0 --path elise",
        "port = 0\npath = 'elise'",
        &["no", "path", "elise", "elisa-strict"],
    ),
    bad(
        "an address that is none",
        "--net tap=t0,mac=02:00",
        "net = { tap = 't0', mac = '02:00' }",
        &["02:00", "give six bytes such as 02:00:00:00:00:01"],
    ),
    bad(
        "an address of a group",
        "--net tap=t0,mac=03:00:00:00:00:01",
        "net = { tap = 't0', mac = '03:00:00:00:00:01' }",
        &["03:00:00:00:00:01", "no MAC address of a station"],
    ),
    bad(
        "a TAP with a name that no interface has",
        "--net tap=a/b",
        "net = { tap = 'a/b' }",
        &["a/b", "no name of a network interface"],
    ),
    asked_of_kvm(bad(
        "an empty disk",
        "--disk path=DIR/empty",
        "disk = { path = 'empty' }",
        &["disk DIR/empty is empty", "(truncate -s SIZE DIR/empty;"],
    )),
    asked_of_kvm(bad(
        "a console where there is no directory",
        "--serial DIR/none/x",
        "serial = 'none/x'",
        &["DIR/none/x", "there is no directory DIR/none"],
    )),
    asked_of_kvm(bad(
        "a console's socket where there is no directory",
        "--serial unix:DIR/none/x",
        "serial = 'unix:none/x'",
        &["DIR/none/x", "there is no directory DIR/none"],
    )),
    asked_of_kvm(bad(
        "an interface that is no TAP",
        "--net tap=lo,backend=user",
        "net = { tap = 'lo', backend = 'user' }",
        &["TAP lo", "take another name"],
    )),
    asked_of_kvm(bad(
        "missing disk",
        "--disk path=DIR/none",
        "disk = { path = 'none' }",
        &["disk DIR/none", "truncate -s SIZE"],
    )),
    asked_of_kvm(bad(
        "a disk that is a directory",
        "--disk path=DIR/folder",
        "disk = { path = 'folder' }",
        &[
            "disk DIR/folder is a directory",
            "give a raw image or a block device",
        ],
    )),
    asked_of_kvm(bad(
        "a disk that another VM writes to",
        "--disk path=DIR/locked",
        "disk = { path = 'locked' }",
        &[
            "disk DIR/locked is in use by another VM or program",
            "readonly",
        ],
    )),
    asked_of_kvm(bad(
        "a command line that is too long",
        "--cmdline LONG",
        "cmdline = 'LONG'",
        &["5000 bytes", "at most 4095", "shorten it"],
    )),
    asked_of_kvm(bad(
        "more vCPUs than allowed",
        "--vcpus 5000",
        "vcpus = 5000",
        &["5000"],
    )),
    with_status(
        NIC,
        asked_of_kvm(bad(
            "a NIC that does not run",
            "--nic DIR/nic --port 0 --path direct",
            "",
            &["DIR/nic", "postern nic --socket"],
        )),
    ),
];

/// A directory with all that is bad.
struct Scene {
    directory: TempDir,
    _locked: fs::File,
}

impl Scene {
    fn new() -> Scene {
        let directory = tempfile::tempdir().unwrap();
        // Others may look into it.
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let write = |name: &str, content: &[u8]| {
            fs::write(directory.path().join(name), content).unwrap();
        };
        let kernel = Elf::kernel(&[0xf4; 100]).bytes();
        write("kernel", &kernel);
        write("cut-elf", &kernel[..kernel.len() - 1]);
        let mut bzimage = vec![0; 4096];
        bzimage[0x202..0x206].copy_from_slice(b"HdrS");
        bzimage[0x206..0x208].copy_from_slice(&[0xf, 2]);
        write("cut-bzimage", &bzimage[..0x220]);
        let mut arm64 = vec![0; 4096];
        arm64[..2].copy_from_slice(b"MZ");
        arm64[0x38..0x3c].copy_from_slice(b"ARM\x64");
        write("arm64", &arm64);
        let mut elf = Elf::kernel(&[0xf4]);
        elf.machine = 183;
        write("elf-arm64", &elf.bytes());
        let mut elf = Elf::kernel(b"Linux version 6.1.0 (somebody)");
        elf.segments[0].offset = 0xffff_ffff_8000_0000;
        write("without-pvh", &elf.bytes());
        fs::create_dir(directory.path().join("folder")).unwrap();
        write("locked", &[0; 512]);
        write("empty", &[]);
        write("private", &kernel);
        let private = fs::Permissions::from_mode(0o600);
        fs::set_permissions(directory.path().join("private"), private).unwrap();
        let locked = lock(&directory.path().join("locked"));
        Scene {
            directory,
            _locked: locked,
        }
    }

    fn fill_in(&self, text: &str) -> String {
        let own = format!("{}/", self.directory.path().display());
        text.replace("DIR/", &own)
            .replace("LONG", &"x".repeat(5000))
    }

    fn names(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.directory.path()).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
        names.sort();
        names
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(program());
        let run_directory = self.directory.path().join("folder");
        command.args(args.iter().map(|arg| self.fill_in(arg)));
        command.env("XDG_RUNTIME_DIR", run_directory);
        command
    }

    /// Runs it; nothing may be left behind.
    fn run(&self, args: &[&str]) -> Output {
        let before = self.names();
        let output = self.command(args).output().unwrap();
        assert_eq!(self.names(), before, "{args:?}");
        let folder = fs::read_dir(self.directory.path().join("folder"));
        assert_eq!(folder.unwrap().count(), 0, "{args:?}");
        output
    }

    /// What it told, or how that is not as it should be.
    fn told(&self, output: &Output, status: i32, parts: &[&str]) -> Result<String, String> {
        let text = stderr(output);
        if output.status.code() != Some(status) {
            return Err(format!("status {:?}: {text}", output.status.code()));
        }
        let missing = parts.iter().map(|part| self.fill_in(part));
        match missing.into_iter().find(|part| !text.contains(part)) {
            Some(part) => Err(format!("{part:?} is not in: {text}")),
            None if text.contains("panicked") => Err(text),
            None => Ok(text),
        }
    }

    fn topology(&self, keys: &str) -> (String, usize) {
        let keys = match keys.starts_with("kernel") {
            true => keys.to_owned(),
            false => format!("kernel = 'kernel'\n{keys}"),
        };
        let text = self.fill_in(&format!("[nic]\nports = 2\n[[vm]]\nname = 'a'\n{keys}\n"));
        let file = self.directory.path().join("t.toml");
        fs::write(&file, &text).unwrap();
        (file.to_str().unwrap().to_owned(), text.lines().count())
    }
}

/// Takes the lock that a VM has on a disk that it writes to (fcntl(2), "Open file description locks").
fn lock(file: &Path) -> fs::File {
    let file = fs::File::options()
        .read(true)
        .write(true)
        .open(file)
        .unwrap();
    // SAFETY: a lock of zeros is one, of the whole file.
    let mut lock: libc::flock = unsafe { std::mem::zeroed() };
    lock.l_type = libc::F_WRLCK as libc::c_short;
    // SAFETY: the descriptor is open, and the lock lives through the call.
    let taken = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &lock) };
    assert_eq!(taken, 0);
    file
}

/// Whether KVM is there; if not, cases that need it are skipped.
fn has_kvm() -> bool {
    let opened = kvm_ioctls::Kvm::new();
    if let Err(error) = &opened {
        println!("SKIP what KVM is asked for before: /dev/kvm cannot be opened: {error}");
    }
    opened.is_ok()
}

#[test]
fn postern_run_says_what_is_wrong_in_one_sentence() {
    let scene = Scene::new();
    let kvm = has_kvm();
    let mut wrong = Vec::new();
    for bad in CASES.iter().filter(|bad| kvm || !bad.needs_kvm) {
        let kernel: &[&str] = match bad.flags.starts_with("--kernel") {
            true => &[],
            false => &["--kernel", "DIR/kernel"],
        };
        let flags: Vec<&str> = bad.flags.split(' ').collect();
        let serial: &[&str] = match bad.flags.starts_with("--serial") {
            true => &[],
            false => &["--serial", "DIR/serial"],
        };
        let args = [&["run", "--stats", "DIR/stats"], serial, kernel, &flags];
        let output = scene.run(&args.concat());
        let told = scene.told(&output, bad.status, bad.parts).and_then(|text| {
            // What is wrong with a flag's value is followed by a word about --help.
            let lines = text.lines().filter(|line| !line.is_empty());
            let lines = lines.filter(|line| !line.starts_with("For more information"));
            match lines.count() {
                1 => Ok(()),
                _ => Err(text),
            }
        });
        wrong.extend(told.err().map(|error| format!("{}: {error}", bad.what)));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn postern_up_says_file_line_and_key() {
    let scene = Scene::new();
    let kvm = has_kvm();
    let mut wrong = Vec::new();
    let cases = CASES.iter().filter(|bad| !bad.keys.is_empty());
    for bad in cases.filter(|bad| kvm || !bad.needs_kvm) {
        let (file, line) = scene.topology(bad.keys);
        let output = scene.run(&["up", "--check", &file]);
        let told = scene
            .told(&output, CONFIGURATION, bad.parts)
            .and_then(|text| {
                let lines = 1 + usize::from(!kvm);
                let place = format!("postern: {file}:{line}: ");
                match text.starts_with(&place) && text.lines().count() == lines {
                    true => Ok(()),
                    false => Err(format!("line {line}: {text}")),
                }
            });
        wrong.extend(told.err().map(|error| format!("{}: {error}", bad.what)));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Faults of the text, of files, of what files hold and of what other VMs have are all told at once, in
/// the order of the text, each once.
#[test]
fn postern_up_check_tells_all_in_one_pass() {
    let scene = Scene::new();
    let text = "\
[nic]
ports = 2
[[vm]]
name = 'a'
kernal = 'kernel'
[[vm]]
name = 'a'
kernel = 'none'
port = 0
path = 'elise'
[[vm]]
name = 'b'
kernel = 'cut-elf'
memory = 'lots'
[[vm.disk]]
path = 'none'
[[vm.disk]]
path = 'empty'
[[vm]]
kernel = 'kernel'
";
    let file = scene.directory.path().join("t.toml");
    fs::write(&file, text).unwrap();
    let output = scene.run(&["up", "--check", file.to_str().unwrap()]);
    let told = scene.told(&output, CONFIGURATION, &[]).unwrap();
    let expected = [
        (5, "did you mean kernel?"),
        (7, "two VMs have the name a"),
        (8, "VM a: the kernel"),
        (10, "there is no path elise"),
        (13, "VM b: kernel"),
        (14, "memory: "),
        (15, "VM b: the disk"),
        (17, "VM b: the disk"),
        (19, "[[vm]] has no name"),
    ];
    let lines: Vec<&str> = told.lines().collect();
    assert_eq!(
        lines.len(),
        expected.len() + usize::from(!has_kvm()),
        "{told}"
    );
    for (line, (number, part)) in lines.iter().zip(expected) {
        let place = format!("{}:{number}: ", file.display());
        assert!(
            line.contains(&place) && line.contains(part),
            "{part}: {told}"
        );
    }
}

#[test]
fn a_nic_in_a_directory_that_is_missing_names_it() {
    let scene = Scene::new();
    let output = scene.run(&["nic", "--socket", "DIR/none/x", "--ports", "2"]);
    let parts = [
        "cannot create the socket DIR/none/x",
        "no directory DIR/none",
    ];
    scene.told(&output, CONFIGURATION, &parts).unwrap();
}

/// A topology without a name of its own may be started again, which is told.
#[test]
fn a_second_start_of_a_file_is_told() {
    use rustix::fs::{FlockOperation, flock};
    let scene = Scene::new();
    let runs = scene.directory.path().join("folder/postern");
    fs::create_dir_all(runs.join("t")).unwrap();
    fs::set_permissions(&runs, fs::Permissions::from_mode(0o700)).unwrap();
    let lock = fs::File::create_new(runs.join("t/lock")).unwrap();
    flock(&lock, FlockOperation::LockExclusive).unwrap();
    let (file, _) = scene.topology("kernel = 'cut-elf'");
    let output = scene.command(&["up", &file]).output().unwrap();
    let told = "t runs already; this one is t-2";
    scene.told(&output, CONFIGURATION, &[told]).unwrap();
}

/// What is found only when VMs start is printed with the VM's name, also by --detach, which has the same
/// status.
#[test]
fn postern_up_ends_with_the_status_of_what_cannot_start() {
    let scene = Scene::new();
    for (detach, keys, part) in [
        (false, "kernel = 'cut-elf'", "truncated"),
        (true, "kernel = 'cut-elf'", "truncated"),
        (true, "kernel = 'none'", "t.toml:5: "),
        (true, "kernal = 'none'", "did you mean kernel?"),
    ] {
        let (file, _) = scene.topology(keys);
        let flags: &[&str] = match detach {
            true => &["up", "--detach", &file],
            false => &["up", &file],
        };
        let output = scene.run(flags);
        let printed = String::from_utf8_lossy(&output.stdout).into_owned() + &stderr(&output);
        assert_eq!(
            output.status.code(),
            Some(CONFIGURATION),
            "{flags:?}: {printed}"
        );
        assert!(printed.contains(part), "{flags:?}: {printed}");
    }
}

#[test]
fn what_a_user_may_not_have_is_told_with_the_remedy() {
    let scene = Scene::new();
    if !rustix::process::geteuid().is_root() {
        return println!("SKIP: only root can become another user");
    }
    let command = |args: &[&str]| {
        let mut command = scene.command(args);
        command
            .env_remove("XDG_RUNTIME_DIR")
            .uid(NOBODY)
            .gid(NOBODY);
        command
    };
    if let Err(error) = command(&["--version"]).output() {
        return println!("SKIP: another user cannot run the program: {error}");
    }
    let output = command(&["run", "--kernel", "DIR/private"])
        .output()
        .unwrap();
    let parts = ["kernel DIR/private", "may not be read", "run as"];
    scene.told(&output, CONFIGURATION, &parts).unwrap();
    let (file, line) = scene.topology("kernel = 'private'");
    let output = command(&["up", "--check", &file]).output().unwrap();
    let fault = format!("{file}:{line}: VM a: the kernel DIR/private may not be read");
    scene
        .told(&output, CONFIGURATION, &[&fault, "run as"])
        .unwrap();
    let opened = fs::metadata("/dev/kvm").map(|kvm| kvm.permissions().mode() & 0o006);
    if let Ok(0) = opened {
        let output = command(&["run", "--kernel", "DIR/kernel"])
            .output()
            .unwrap();
        scene
            .told(&output, 65, &["/dev/kvm", "postern check"])
            .unwrap();
    }
}
