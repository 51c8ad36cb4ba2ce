//! Grants: one template for all, members that are attached once, and what it costs.

use std::fs::File;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use libc::EBUSY;
use postern_abi::PAGE_SIZE;
use postern_abi::kvm::{
    AttachEptView, DetachEptView, EptViewMap, RIGHT_FAST, RIGHT_STRICT, VIEW_READ, VIEW_WRITE,
};
use postern_abi::view::{DATA_GVA, SLOTS};

use crate::Test;
use crate::calls::expect_stop;
use crate::guest::{
    self, ADD, Cpuid, ENTER, ID, Stop, Template, Vm, VmOptions, and_out, attach_argument, call_slot,
};
use crate::lifetime::{held, kill, spawn};
use crate::sys::{self, Pages, errno};

pub const TESTS: &[Test] = &[
    ("a member is attached to one vCPU at a time", once),
    ("a process that dies gives its member back", dead_process),
    ("grants outlive the template's descriptor", without_template),
    (
        "a template is pinned once for all of its attachments",
        pinned_once,
    ),
    (
        "an attachment takes 64 KiB whatever the template's size",
        attachment_size,
    ),
    (
        "attaching and detaching 10000 times leaves nothing",
        again_and_again,
    ),
];

fn attach(vm: &Vm, grant: &File, slot: u32, member: u32) -> i32 {
    let argument = AttachEptView {
        slot,
        member,
        ..attach_argument(grant, RIGHT_STRICT)
    };
    errno(sys::attach(&vm.vcpu, &argument))
}

fn once() -> Result<()> {
    let template = Template::sealed(ADD)?;
    let grant = template.grant_to(ID, 2)?;
    let code = and_out(call_slot(0, 5, 7));
    let mut vm = Vm::new(&code, VmOptions::default())?;
    ensure!(attach(&vm, &grant, 0, 0) == 0, "the first attachment");

    let busy = |what: &str, got: i32| {
        ensure!(got == EBUSY, "{what}: errno {got}, wanted EBUSY");
        Ok(())
    };
    busy("another slot", attach(&vm, &grant, 1, 0))?;
    let second = vm.fd.create_vcpu(1)?;
    second.set_cpuid2(&guest::cpuid(Cpuid::Plain)?)?;
    let argument = attach_argument(&grant, RIGHT_FAST);
    busy("another vCPU", errno(sys::attach(&second, &argument)))?;
    let other = Vm::new(&code, VmOptions::default())?;
    busy("another VM", attach(&other, &grant, 0, 0))?;
    let status = sys::in_child(|| match Vm::new(&code, VmOptions::default()) {
        Ok(vm) => attach(&vm, &grant, 0, 0) as u8,
        Err(_) => 100,
    })?;
    busy("another process", status.into())?;
    // The same member of another grant, and another member, are others.
    let another = template.grant_to(ID, 1)?;
    ensure!(attach(&other, &another, 1, 0) == 0, "another grant");
    ensure!(attach(&other, &grant, 0, 1) == 0, "another member");
    // A refusal took nothing.
    expect_stop(&mut vm, &Stop::Out(0))?;
    sys::detach(&vm.vcpu, &DetachEptView::default())?;
    ensure!(attach(&other, &grant, 2, 0) == 0, "after detaching");
    // A vCPU that is closed gives its members back.
    drop(other);
    for member in [0, 1] {
        eventually(|| attach(&vm, &grant, member, member)).context("after closing the VM")?;
    }
    Ok(())
}

/// Waits until it gives 0: files are released by deferred work.
fn eventually(mut attempt: impl FnMut() -> i32) -> Result<()> {
    let mut got = 0;
    for _ in 0..300 {
        got = attempt();
        if got == 0 {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    anyhow::bail!("errno {got}")
}

fn dead_process() -> Result<()> {
    let template = Template::sealed(ADD)?;
    let grant = template.grant()?;
    let sign = Pages::writable(PAGE_SIZE as usize);
    // jmp to itself
    let child = spawn(|| {
        let Ok(mut vm) = Vm::new(&[0xeb, 0xfe], VmOptions::default()) else {
            return;
        };
        if attach(&vm, &grant, 0, 0) == 0 {
            sign.write_word(0, 1);
            while vm.run() == Stop::Interrupted {}
        }
    })?;
    for _ in 0..1000 {
        if sign.read_word(0) == 1 {
            break;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    ensure!(sign.read_word(0) == 1, "the child could not attach");
    let mut vm = Vm::new(&and_out(call_slot(0, 5, 7)), VmOptions::default())?;
    let got = attach(&vm, &grant, 0, 0);
    ensure!(got == EBUSY, "while the child lives: errno {got}");
    kill(child)?;
    eventually(|| attach(&vm, &grant, 0, 0))?;
    expect_stop(&mut vm, &Stop::Out(0))
}

fn without_template() -> Result<()> {
    let template = Template::sealed(ADD)?;
    let grant = template.grant_to(ID, 2)?;
    let mut first = Vm::new(&and_out(call_slot(0, 5, 7)), VmOptions::default())?;
    let mut second = Vm::new(&and_out(call_slot(0, 6, 7)), VmOptions::default())?;
    ensure!(attach(&first, &grant, 0, 0) == 0, "with the template");
    drop(template);
    ensure!(attach(&second, &grant, 0, 1) == 0, "without the template");
    drop(grant);
    for vm in [&mut first, &mut second] {
        expect_stop(vm, &Stop::Out(0))?;
    }
    ensure!(
        (first.vcpu.get_regs()?.rdx, second.vcpu.get_regs()?.rdx) == (12, 13),
        "wrong results"
    );
    Ok(())
}

/// Adds shared pages to what a template maps.
pub fn map_more(template: &Template, gva: u64, pages: &Pages, size: u64) -> Result<()> {
    let argument = EptViewMap {
        gva,
        user_addr: pages.address(),
        size,
        prot: VIEW_READ | VIEW_WRITE,
        ..Default::default()
    };
    Ok(sys::map(&template.file, &argument)?)
}

/// Address of more data.
pub const MORE_GVA: u64 = DATA_GVA + (1 << 30);

/// A sealed template with more data.
fn template_with(size: u64) -> Result<(Template, Pages)> {
    let pages = Pages::writable(size as usize);
    let template = Template::open(ADD)?;
    map_more(&template, MORE_GVA, &pages, size)?;
    sys::seal(&template.file, &Template::seal_argument(ENTER))?;
    Ok((template, pages))
}

fn pinned_pages() -> Result<i64> {
    // The kernel adds up its counters of pages once a second.
    std::thread::sleep(Duration::from_millis(2200));
    Ok(held()?.pinned_pages)
}

fn pinned_once() -> Result<()> {
    const SIZE: u64 = 4 << 20;
    let before = pinned_pages()?;
    let (template, _pages) = template_with(SIZE)?;
    // The code, four pages of data, and more data.
    let pinned = (5 * PAGE_SIZE + SIZE) / PAGE_SIZE;
    let info = |what: &str, grants: u32, attachments: u32| -> Result<()> {
        let info = sys::info(&template.file)?;
        ensure!(
            info.pinned_bytes == pinned * PAGE_SIZE
                && (info.grants, info.attachments) == (grants, attachments)
                && info.reserved == [0; 3],
            "{what}: {info:?}"
        );
        Ok(())
    };
    let pinned_now = |what: &str| -> Result<()> {
        let now = pinned_pages()? - before;
        ensure!(
            now == pinned as i64,
            "{what}: {now} pages are pinned, wanted {pinned}"
        );
        Ok(())
    };
    info("sealed", 0, 0)?;
    pinned_now("sealed")?;
    let kernel_bytes = sys::info(&template.file)?.kernel_bytes;
    let mut vms = Vec::new();
    for id in 0..4 {
        let grant = template.grant_to(id, 4)?;
        info("granted", id as u32 + 1, 2 * id as u32)?;
        for (slot, member) in [(0, 1), (5, 3)] {
            let vm = Vm::new(&and_out(call_slot(slot, 5, 7)), VmOptions::default())?;
            ensure!(attach(&vm, &grant, slot, member) == 0, "attach {slot}");
            vms.push(vm);
        }
        info("attached", id as u32 + 1, 2 * id as u32 + 2)?;
        // A grant without descriptor goes on as long as it is attached.
        drop(grant);
    }
    info("attached by four grants", 4, 8)?;
    pinned_now("attached by four grants")?;
    // The code that enters it at the slots 0 and 5.
    let grown = sys::info(&template.file)?.kernel_bytes - kernel_bytes;
    ensure!(
        grown <= 2 * PAGE_SIZE,
        "eight attachments added {grown} bytes to the template"
    );
    for vm in &mut vms {
        expect_stop(vm, &Stop::Out(0))?;
    }
    ensure!(template.revoke(0)? == 1, "the first grant");
    info("one revoked", 3, 8)?;
    drop(vms);
    for _ in 0..300 {
        if sys::info(&template.file)?.attachments == 0 {
            break;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    info("nobody left", 0, 0)
}

/// Memory that is free, in KiB.
pub fn free_kib() -> Result<i64> {
    let text = std::fs::read_to_string("/proc/meminfo")?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemFree:"));
    let value = line.context("/proc/meminfo has no MemFree")?;
    Ok(value.trim().trim_end_matches(" kB").parse()?)
}

fn attachment_size() -> Result<()> {
    const VMS: u32 = 16;
    for size in [PAGE_SIZE, 64 << 20] {
        let (template, _pages) = template_with(size)?;
        let claimed = sys::info(&template.file)?.attachment_bytes;
        ensure!(
            claimed <= 64 << 10 && claimed > 0,
            "size {size:#x}: it says {claimed} bytes"
        );
        let grant = template.grant_to(ID, VMS * SLOTS)?;
        let vms = (0..VMS)
            .map(|_| Vm::new(&[], VmOptions::default()))
            .collect::<Result<Vec<_>>>()?;
        let before = free_kib()?;
        for (member, (vm, slot)) in (0..).zip(
            vms.iter()
                .flat_map(|vm| (0..SLOTS).map(move |slot| (vm, slot))),
        ) {
            ensure!(attach(vm, &grant, slot, member) == 0, "member {member}");
        }
        let taken = before - free_kib()?;
        let each = taken as f64 / f64::from(VMS * SLOTS);
        // The kernel keeps some free pages at hand, which are not counted as free: up to 4 KiB each.
        ensure!(
            each <= 68.0,
            "size {size:#x}: {each:.1} KiB an attachment, of which it says {claimed} bytes"
        );
    }
    Ok(())
}

/// Function-call interrupts that CPUs had: with them one asks others to drop translations.
fn function_calls() -> Result<u64> {
    let text = std::fs::read_to_string("/proc/interrupts")?;
    let line = text
        .lines()
        .find_map(|line| line.trim_start().strip_prefix("CAL:"))
        .context("/proc/interrupts has no function calls")?;
    Ok(line
        .split_whitespace()
        .map_while(|word| word.parse::<u64>().ok())
        .sum())
}

fn again_and_again() -> Result<()> {
    const ROUNDS: u32 = 2_000;
    let template = Template::sealed(ADD)?;
    let grant = template.grant_to(ID, SLOTS)?;
    let mut vm = Vm::new(&[], VmOptions::default())?;
    let mut round = |round: u32| -> Result<()> {
        let slot = round % SLOTS;
        let argument = AttachEptView {
            slot,
            member: slot,
            ..attach_argument(&grant, [RIGHT_FAST, RIGHT_STRICT][round as usize / 8 % 2])
        };
        sys::attach(&vm.vcpu, &argument)?;
        // Each time it has been used, so translations may be cached.
        vm.restart(&and_out(call_slot(slot, 5, round)))?;
        expect_stop(&mut vm, &Stop::Out(0))?;
        let result = vm.vcpu.get_regs()?.rdx;
        ensure!(result == 5 + u64::from(round), "round {round}: {result}");
        let argument = DetachEptView {
            slot,
            ..Default::default()
        };
        Ok(sys::detach(&vm.vcpu, &argument)?)
    };
    for warming in 0..100 {
        round(warming)?;
    }
    let (free, calls) = (free_kib()?, function_calls()?);
    for number in 0..ROUNDS {
        round(number)?;
    }
    let (lost, calls) = (free - free_kib()?, function_calls()? - calls);
    // A page each time would be 8 MB.
    ensure!(lost < 2048, "{lost} KiB are gone after {ROUNDS} rounds");
    ensure!(
        calls < u64::from(ROUNDS) / 100,
        "{calls} interrupts of other CPUs in {ROUNDS} rounds"
    );
    Ok(())
}
