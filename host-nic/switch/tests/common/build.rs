//! The builds of the switch, each callable from a test.
//!
//! The freestanding builds are the very files that the kernel module and the NIC view get. The
//! image is mapped at its address in the view, and the NIC's memory and the call page at theirs.
//! The kernel's object is linked to an address in the lowest 2 GiB, which its code model reaches as
//! well as the highest.

use std::collections::BTreeMap;
use std::ffi::c_void;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering::*};
use std::sync::{Mutex, MutexGuard, OnceLock};
use std::{env, fs, ptr};

use object::{Object, ObjectSegment, ObjectSymbol};
use postern_abi::PAGE_SIZE;
use postern_abi::view::{CALL_PAGE_GVA, CallPage, DATA_GVA};
use postern_abi::window::BELL_WORDS;
use postern_nic_owner::image::Image;
use postern_switch::credentials::Credentials;
use postern_switch::switch::serve;

/// Address that the kernel's object is linked to.
const OBJECT_ADDRESS: u64 = 0x3000_0000;

/// Runs a build script and returns the file that it makes.
fn run_script(script: &str) -> Vec<u8> {
    let scratch = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    let name = script.replace("../", "").replace('/', "-");
    let out = scratch.join(format!("{name}.out"));
    let status = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join(script))
        .args(["--out".as_ref(), out.as_os_str(), "--target-dir".as_ref()])
        .arg(scratch.join(name))
        .status()
        .expect("run the script");
    assert!(status.success(), "{script} failed; it says why above");
    fs::read(out).expect("read what the script made")
}

/// The image for the NIC view, built once for a run of the tests.
pub fn image() -> &'static [u8] {
    static IMAGE: OnceLock<Vec<u8>> = OnceLock::new();
    IMAGE.get_or_init(|| run_script("../image/build.sh"))
}

/// The object for the kernel module, built once for a run of the tests.
pub fn kernel_object() -> &'static [u8] {
    static OBJECT: OnceLock<Vec<u8>> = OnceLock::new();
    OBJECT.get_or_init(|| run_script("../kernel-object/build.sh"))
}

/// A build of the switch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Build {
    /// The switch as part of the test, with all checks of the development profile.
    Native,
    /// The object for the kernel module.
    KernelObject,
    /// The image for the NIC view.
    Image,
}

impl Build {
    pub const ALL: [Build; 3] = [Build::Native, Build::KernelObject, Build::Image];

    /// Loads the build. There is one image at a time, since its addresses are fixed.
    pub fn load(self) -> LoadedBuild {
        static ONE: Mutex<()> = Mutex::new(());
        match self {
            Build::Native => LoadedBuild::Native,
            Build::KernelObject => {
                let (entry, take_bells) = load_object();
                LoadedBuild::KernelObject(entry, take_bells)
            }
            Build::Image => {
                let entry = load_image();
                let one = ONE.lock().unwrap_or_else(|failed| failed.into_inner());
                LoadedBuild::Image(entry, one)
            }
        }
    }

    /// Address at which this build expects the NIC's memory, if it does not take any.
    pub fn fixed_base(self) -> Option<u64> {
        (self == Build::Image).then_some(DATA_GVA)
    }
}

type ObjectEntry = unsafe extern "C" fn(*mut u8, *const Credentials, u32, u64, u64, u64) -> u64;
type TakeBells = unsafe extern "C" fn(*mut u8, *const Credentials, u64, *mut [u64; BELL_WORDS]);
type ImageEntry = unsafe extern "sysv64" fn(u64, u64, u64) -> u64;

/// A build that is loaded.
pub enum LoadedBuild {
    Native,
    KernelObject(ObjectEntry, TakeBells),
    Image(ImageEntry, #[expect(dead_code)] MutexGuard<'static, ()>),
}

/// Whether this is a child of a test, which has a call page of its own and one thread.
static IN_CHILD: AtomicBool = AtomicBool::new(false);

/// Notes that this process is a child of a test.
pub fn now_in_child() {
    IN_CHILD.store(true, Relaxed);
}

impl LoadedBuild {
    /// Makes a request.
    ///
    /// # Safety
    ///
    /// The contract of [`serve`]. For the image, `base` is [`Build::fixed_base`].
    pub unsafe fn serve(
        &self,
        base: *mut u8,
        caller: &Credentials,
        vcpu: u32,
        [op, a, b]: [u64; 3],
    ) -> u64 {
        static PAGE: Mutex<()> = Mutex::new(());
        match self {
            // SAFETY: the contract is that of `serve`.
            LoadedBuild::Native => unsafe { serve(base, caller, vcpu, op, a, b) },
            // SAFETY: the object's entry passes its arguments to `serve`, whose contract is this
            // one.
            LoadedBuild::KernelObject(entry, _) => unsafe { entry(base, caller, vcpu, op, a, b) },
            LoadedBuild::Image(entry, _) => {
                assert_eq!(base as u64, DATA_GVA);
                // A vCPU has a call page of its own; threads of this process must share one.
                let _page = (!IN_CHILD.load(Relaxed))
                    .then(|| PAGE.lock().unwrap_or_else(|failed| failed.into_inner()));
                let page = CALL_PAGE_GVA as *mut CallPage;
                // SAFETY: `load_image` has mapped the page; the lock, or being the only thread,
                // keeps others away from it. The image's entry calls `serve` for the page's caller,
                // with the memory at `DATA_GVA`, and the contract is that of `serve`.
                unsafe {
                    (&raw mut (*page).caller).write(caller.words());
                    (&raw mut (*page).member).write(vcpu);
                    entry(op, a, b)
                }
            }
        }
    }
}

impl LoadedBuild {
    /// The address of a freestanding build's entry, and its arguments for a request, for a test that
    /// calls it by itself. For the image, the caller is that of the last request.
    pub fn raw_call(
        &self,
        base: *mut u8,
        caller: &Credentials,
        vcpu: u32,
        [op, a, b]: [u64; 3],
    ) -> (usize, [u64; 6]) {
        match self {
            LoadedBuild::Native => panic!("the native build is no file"),
            LoadedBuild::KernelObject(entry, _) => {
                let caller = ptr::from_ref(caller) as u64;
                (
                    *entry as usize,
                    [base as u64, caller, vcpu.into(), op, a, b],
                )
            }
            LoadedBuild::Image(entry, _) => (*entry as usize, [op, a, b, 0, 0, 0]),
        }
    }
}

impl LoadedBuild {
    /// Has the kernel's object take the bells of a request with this last argument.
    ///
    /// # Safety
    ///
    /// The contract of [`serve`] on memory and credentials.
    pub unsafe fn take_bells(
        &self,
        base: *mut u8,
        caller: &Credentials,
        b: u64,
    ) -> [u64; BELL_WORDS] {
        let LoadedBuild::KernelObject(_, take_bells) = self else {
            panic!("the kernel's object alone takes bells");
        };
        let mut bells = [!0; BELL_WORDS];
        // SAFETY: the words are borrowed, and the contract is the same.
        unsafe { take_bells(base, caller, b, &mut bells) };
        bells
    }
}

/// Maps pages at an address where nothing is mapped: those of a file from an offset on, or
/// anonymous ones.
pub fn map_at(address: u64, size: u64, file: Option<(BorrowedFd<'_>, u64)>) -> *mut u8 {
    let share = match file {
        Some(_) => libc::MAP_SHARED,
        None => libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
    };
    let prot = libc::PROT_READ | libc::PROT_WRITE;
    let flags = share | libc::MAP_FIXED_NOREPLACE;
    let at = address as *mut c_void;
    let (fd, offset) = file.map_or((-1, 0), |(fd, offset)| (fd.as_raw_fd(), offset as i64));
    // SAFETY: it makes a new mapping, and only where there is none.
    let mapped = unsafe { libc::mmap(at, size as usize, prot, flags, fd, offset) };
    assert_eq!(mapped, at, "map {size:#x} bytes at {address:#x}");
    mapped.cast()
}

/// Maps bytes at an address, as code or as data that is only read.
fn map_code(address: u64, bytes: &[u8], executable: bool) {
    let size = (bytes.len() as u64).next_multiple_of(PAGE_SIZE);
    let mapped = map_at(address, size, None);
    let prot = libc::PROT_READ | if executable { libc::PROT_EXEC } else { 0 };
    // SAFETY: the mapping is new and large enough.
    unsafe {
        ptr::copy_nonoverlapping(bytes.as_ptr(), mapped, bytes.len());
        assert_eq!(libc::mprotect(mapped.cast(), size as usize, prot), 0);
    }
}

fn load_image() -> ImageEntry {
    static ENTRY: OnceLock<ImageEntry> = OnceLock::new();
    *ENTRY.get_or_init(|| {
        let image = Image::parse(image()).expect("an image");
        map_code(image.rodata.gva, &image.rodata.bytes, false);
        map_code(image.text.gva, &image.text.bytes, true);
        map_at(CALL_PAGE_GVA, PAGE_SIZE, None);
        // SAFETY: `entry` of host-nic/image has this type, and its code is mapped for ever.
        unsafe { std::mem::transmute(image.entry as *const ()) }
    })
}

fn load_object() -> (ObjectEntry, TakeBells) {
    static ENTRIES: OnceLock<(ObjectEntry, TakeBells)> = OnceLock::new();
    *ENTRIES.get_or_init(|| {
        let scratch = tempfile::tempdir().expect("a directory");
        let (object, linked) = (scratch.path().join("o"), scratch.path().join("linked"));
        fs::write(&object, kernel_object()).expect("write the object");
        // As in a kernel whose processor needs nothing else.
        let (source, thunk) = (scratch.path().join("thunk.s"), scratch.path().join("thunk"));
        let text = ".globl __x86_return_thunk\n__x86_return_thunk: ret\n";
        fs::write(&source, text).expect("write the thunk");
        let status = Command::new("as")
            .arg(&source)
            .arg("-o")
            .arg(&thunk)
            .status();
        assert!(status.expect("run as").success());
        let status = Command::new("ld")
            .args(["-static", "-e", "postern_nic_call", "-o"])
            .arg(&linked)
            .arg(format!("-Ttext-segment={OBJECT_ADDRESS:#x}"))
            .args([&object, &thunk])
            .status()
            .expect("run ld");
        assert!(status.success());
        let file = fs::read(&linked).expect("read what ld made");
        let elf = object::File::parse(&*file).expect("an ELF file");
        let mut pages = BTreeMap::new();
        let code = elf.symbol_by_name("postern_nic_call").expect("its entry");
        for segment in elf.segments() {
            let (start, bytes) = (segment.address(), segment.data().expect("its bytes"));
            let executable = (start..start + bytes.len() as u64).contains(&code.address());
            pages.insert(start, (bytes, executable));
        }
        for (start, (bytes, executable)) in pages {
            assert_eq!(start % PAGE_SIZE, 0);
            map_code(start, bytes, executable);
        }
        let take_bells = elf.symbol_by_name("postern_nic_take_bells");
        let take_bells = take_bells.expect("its other entry").address();
        // SAFETY: the functions of host-nic/kernel-object have these types, and their code is
        // mapped for ever.
        unsafe {
            (
                std::mem::transmute::<*const (), ObjectEntry>(code.address() as *const ()),
                std::mem::transmute::<*const (), TakeBells>(take_bells as *const ()),
            )
        }
    })
}
