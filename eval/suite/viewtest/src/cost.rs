//! What views cost: kernel memory, pinned memory and instructions, by the size of the data and the
//! number of ports. No test: `postern-viewtest cost MIB PORTS`, and `large` behind it for data in large
//! pages.

use std::arch::x86_64::_rdtsc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use postern_abi::PAGE_SIZE;
use postern_abi::kvm::RIGHT_STRICT;
use postern_abi::view::DATA_GVA;

use crate::grants::{free_kib, map_more};
use crate::guest::{ADD, Template, Vm, VmOptions, attach_argument};
use crate::large_pages::large_pages;
use crate::lifetime::held;
use crate::sys::{self, Pages};

/// The clock: in the emulated machine, one tick is one instruction.
fn ticks() -> u64 {
    // SAFETY: reads a counter.
    unsafe { _rdtsc() }
}

fn pinned_mib(before: i64) -> Result<i64> {
    // The kernel adds up its counters of pages once a second.
    std::thread::sleep(Duration::from_millis(2200));
    Ok((held()?.pinned_pages - before) / 256)
}

/// Measures a service with so many MiB of data, and so many ports of one vCPU each.
pub fn run(arguments: &[String]) -> Result<()> {
    let (mib, ports, large) = match arguments {
        [mib, ports] => (mib, ports, false),
        [mib, ports, word] if word == "large" => (mib, ports, true),
        _ => bail!("cost takes MIB and PORTS, and large"),
    };
    let mib: usize = mib.parse().context("MIB")?;
    let ports: u32 = ports.parse().context("PORTS")?;
    let size = mib << 20;
    let data = match large {
        true => large_pages(size as u64).context("this kernel has not so many large pages")?,
        false => Pages::writable(size),
    };
    for page in (0..size).step_by(PAGE_SIZE as usize) {
        data.write_word(page, 1);
    }
    std::thread::sleep(Duration::from_millis(2200));
    let (pinned, free) = (held()?.pinned_pages, free_kib()?);
    let start = ticks();
    let template = Template::open(ADD)?;
    map_more(&template, DATA_GVA + (1 << 30), &data, size as u64)?;
    let mapped = ticks();
    sys::seal(&template.file, &Template::seal_argument(RIGHT_STRICT))?;
    let sealed = ticks();
    let built = free_kib()?;
    let info = sys::info(&template.file)?;
    println!(
        "{mib} MiB: create and map {} ticks, seal {} ticks; kernel memory {} KiB ({} KiB by its \
         own account), pinned {} MiB, {} MiB by 2 MiB pages",
        mapped - start,
        sealed - mapped,
        free - built,
        info.kernel_bytes >> 10,
        pinned_mib(pinned)?,
        info.bytes_in_2m >> 20,
    );
    let vms = (0..ports)
        .map(|_| Vm::new(&[], VmOptions::default()))
        .collect::<Result<Vec<_>>>()?;
    let before = free_kib()?;
    let mut grants = Vec::new();
    let (mut granting, mut attaching) = (0, 0);
    for (vm, id) in vms.iter().zip(0..) {
        let start = ticks();
        let mut argument = Template::grant_argument();
        (argument.id, argument.rights) = (id, RIGHT_STRICT);
        let grant = sys::grant(&template.file, &argument)?;
        let granted = ticks();
        sys::attach(&vm.vcpu, &attach_argument(&grant, RIGHT_STRICT))?;
        granting += granted - start;
        attaching += ticks() - granted;
        grants.push(grant);
    }
    let taken = before - free_kib()?;
    println!(
        "{ports} ports: grant {} ticks, attach {} ticks, kernel memory {:.1} KiB, each; pinned {} MiB \
         in all",
        granting / u64::from(ports),
        attaching / u64::from(ports),
        taken as f64 / f64::from(ports),
        pinned_mib(pinned)?,
    );
    Ok(())
}
