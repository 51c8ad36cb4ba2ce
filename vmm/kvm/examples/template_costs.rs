//! Measures what a service costs the host: time to map and seal its template, to attach a vCPU and
//! to revoke, and memory that is pinned and that the kernel takes.
//!
//! ```text
//! template_costs LABEL [VCPUS [MEBIBYTES]...]
//! ```
//!
//! It prints one JSON object a line, for each size (16 and 2048 MiB unless others are given) with
//! the data on pages of 4 KiB and of 2 MiB. LABEL says what the figures are of: `emulated`,
//! `nested` or `hardware`. Needs the patched KVM with views on (`postern check` tells), and as much
//! free memory.

#[path = "vcpus/mod.rs"]
mod vcpus;

use std::error::Error;
use std::fs;
use std::ptr::{self, NonNull};
use std::time::{Duration, Instant};

use postern_abi::PAGE_SIZE;
use postern_abi::view::{DATA_GVA, IMAGE_GVA};
use postern_kvm::{
    AttachTerms, Attachment, Device, GrantTerms, Protection, Right, Seal, SharedPages,
};
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap, mmap_anonymous, munmap};
use vcpus::{descriptor, device_with_views, vm_with_vcpus};

/// The service, at its entry: `ret`.
const RETURN: u8 = 0xc3;
/// Bytes of a large page.
const LARGE_PAGE: usize = 2 << 20;

/// Measures what the arguments of the program say.
///
/// # Errors
///
/// What KVM or the host refuses, or arguments that are none.
pub fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let label = arguments.next().unwrap_or_else(|| "unlabelled".to_owned());
    let vcpus = arguments.next().map_or(Ok(4), |text| text.parse())?;
    let mut sizes = arguments
        .map(|text| text.parse())
        .collect::<Result<Vec<usize>, _>>()?;
    if sizes.is_empty() {
        sizes = vec![16, 2048];
    }
    measure(&label, vcpus, &sizes)
}

/// Measures services of so many MiB with so many vCPUs.
///
/// # Errors
///
/// What KVM or the host refuses.
pub fn measure(label: &str, vcpus: u32, sizes: &[usize]) -> Result<(), Box<dyn Error>> {
    let Some(device) = device_with_views() else {
        return Ok(());
    };
    for size in sizes {
        for large in [false, true] {
            let data = Data::new(size << 20, large)?;
            println!("{}", costs(&device, label, vcpus, &data)?);
        }
    }
    Ok(())
}

/// One line of figures.
fn costs(device: &Device, label: &str, count: u32, data: &Data) -> Result<String, Box<dyn Error>> {
    let code = Data::new(PAGE_SIZE as usize, false)?;
    // SAFETY: the memory is this function's own, mapped, and writable.
    unsafe { code.base.write_volatile(RETURN) };
    let (_vm, vcpus) = vm_with_vcpus(count)?;

    let free = free_memory()?;
    let start = Instant::now();
    let template = device.create_template()?;
    template.map(IMAGE_GVA, &code.shared(), Protection::ReadExecute)?;
    template.map(DATA_GVA, &data.shared(), Protection::ReadWrite)?;
    let right = Right::Strict;
    let template = template.seal(&Seal {
        rights: right.into(),
        entry_gva: IMAGE_GVA,
        data_gva: DATA_GVA,
        data_size: data.size as u64,
    })?;
    let map_and_seal = start.elapsed();
    let taken_by_template = free.saturating_sub(free_memory()?);

    let grant = template.grant(&GrantTerms {
        id: 0,
        rights: right.into(),
        members: count,
        caller: [0; 8],
    })?;
    let free = free_memory()?;
    let mut times = Vec::new();
    for (member, vcpu) in (0..).zip(&vcpus) {
        let terms = AttachTerms {
            slot: 0,
            member,
            right,
            exit_on_abort: false,
        };
        let start = Instant::now();
        Attachment::attach(descriptor(vcpu), &grant, &terms)?;
        times.push(start.elapsed());
    }
    let taken_by_attachments = free.saturating_sub(free_memory()?);
    let info = template.info()?;
    let start = Instant::now();
    let revoked = template.revoke(0)?;
    let revoke = start.elapsed();
    assert_eq!(revoked, 1, "one grant was made");

    let fields = [
        ("data_bytes", data.size as u64),
        ("large_pages", data.large.into()),
        ("vcpus", count.into()),
        ("map_and_seal_ns", nanoseconds(map_and_seal)),
        ("attach_median_ns", nanoseconds(median(&mut times))),
        (
            "attach_max_ns",
            nanoseconds(times.last().copied().unwrap_or_default()),
        ),
        ("revoke_ns", nanoseconds(revoke)),
        ("pinned_bytes", info.pinned_bytes),
        ("bytes_in_2m", info.bytes_in_2m),
        ("kernel_bytes", info.kernel_bytes),
        ("attachment_bytes", info.attachment_bytes),
        // What the host's free memory says to the same; other processes' part is in it.
        ("meminfo_template_bytes", taken_by_template),
        ("meminfo_attachments_bytes", taken_by_attachments),
    ];
    let fields = fields.map(|(name, value)| format!("\"{name}\": {value}"));
    Ok(format!("{{\"label\": {label:?}, {}}}", fields.join(", ")))
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// The median; the times are sorted then.
fn median(times: &mut [Duration]) -> Duration {
    times.sort_unstable();
    times.get(times.len() / 2).copied().unwrap_or_default()
}

/// Free memory of the host in bytes.
fn free_memory() -> Result<u64, Box<dyn Error>> {
    let text = fs::read_to_string("/proc/meminfo")?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemFree:"));
    let kib = line.and_then(|line| line.split_whitespace().next());
    let kib: u64 = kib.ok_or("/proc/meminfo does not say MemFree")?.parse()?;
    Ok(kib << 10)
}

/// Memory of a file that only exists in memory, populated, as an owner of a service has it.
struct Data {
    /// What was taken: the memory and what aligns it.
    whole: (*mut u8, usize),
    base: *mut u8,
    size: usize,
    large: bool,
}

impl Data {
    fn new(size: usize, large: bool) -> Result<Data, Box<dyn Error>> {
        let file = memfd_create("data", MemfdFlags::CLOEXEC)?;
        ftruncate(&file, size as u64)?;
        let length = size + LARGE_PAGE;
        let (none, flags) = (ProtFlags::empty(), MapFlags::PRIVATE);
        // SAFETY: a new mapping at an address that the kernel chooses.
        let whole = unsafe { mmap_anonymous(ptr::null_mut(), length, none, flags) }?;
        let whole = whole.cast::<u8>();
        // Just beside an aligned address, the kernel has no large pages to map.
        let aligned = whole.align_offset(LARGE_PAGE);
        let base = whole.wrapping_add(match large {
            true => aligned,
            false => (aligned + PAGE_SIZE as usize) % LARGE_PAGE,
        });
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        let flags = MapFlags::SHARED | MapFlags::FIXED;
        // SAFETY: in place of a part of the mapping that was made above.
        unsafe { mmap(base.cast(), size, protection, flags, &file, 0) }?;
        let data = Data {
            whole: (whole, length),
            base,
            size,
            large,
        };
        // SAFETY: the memory is this value's own, and populating it changes no content.
        unsafe { madvise(base.cast(), size, Advice::LinuxPopulateWrite) }?;
        if large {
            // The figures say how much of it there is.
            // SAFETY: as above. Rustix has no name for the number.
            let _ = unsafe { libc::madvise(base.cast(), size, libc::MADV_COLLAPSE) };
        }
        Ok(data)
    }

    fn shared(&self) -> SharedPages {
        let base = NonNull::new(self.base).expect("mmap gives null to MAP_FIXED only");
        // SAFETY: the memory stays mapped while `self` is borrowed, and no reference to it exists.
        unsafe { SharedPages::new(base, self.size as u64) }
    }
}

impl Drop for Data {
    fn drop(&mut self) {
        let (whole, length) = self.whole;
        // SAFETY: the mapping is this value's own. There is no error for a range that is mapped.
        let _ = unsafe { munmap(whole.cast(), length) };
    }
}
