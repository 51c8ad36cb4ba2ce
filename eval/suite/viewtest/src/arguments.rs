//! What each call rejects, with which error.

use std::fs::File;

use anyhow::{Result, bail, ensure};
use kvm_bindings::{KVM_GUESTDBG_ENABLE, kvm_guest_debug, kvm_userspace_memory_region};
use libc::{
    EACCES, EBADF, EBUSY, EEXIST, EFAULT, EINVAL, ENOENT, ENOSPC, ENOTTY, ENXIO, EOPNOTSUPP, EPERM,
    ERANGE, EROFS,
};
use postern_abi::PAGE_SIZE;
use postern_abi::kvm::{
    ATTACH_EXIT_ON_ABORT, AttachEptView, CreateEptView, DetachEptView, EptViewGrant, EptViewMap,
    EptViewRevoke, EptViewSeal, EptViewStats, MAX_MEMBERS, RIGHT_FAST, RIGHT_HYPERCALL,
    RIGHT_STRICT, VIEW_EXEC, VIEW_READ, VIEW_WRITE,
};
use postern_abi::view::{DATA_GVA, IMAGE_GVA, RESERVED_GPA, RESERVED_GPA_SIZE, SLOTS};

use crate::Test;
use crate::guest::{
    self, ADD, Cpuid, ENTER, ID, Stop, Template, Vm, VmOptions, and_out, attach_argument, call_slot,
};
use crate::sys::{self, Pages, errno};

pub const TESTS: &[Test] = &[
    ("create rejects what it does not know", create),
    ("map rejects bad ranges and protections", map),
    ("seal rejects bad rights, entries and data", seal),
    ("rights to the host need CAP_SYS_RAWIO", rights_need_rawio),
    (
        "hypercalls need the module's parameter",
        hypercalls_need_parameter,
    ),
    ("a sealed template is immutable", sealed_is_immutable),
    ("grant rejects what it does not know", grant),
    ("revoke rejects what it does not know", revoke),
    ("attach rejects what it does not know", attach),
    ("attach rejects VMs that cannot have views", attach_refuses),
    ("a CPUID set later disarms views", cpuid_later),
    ("the reserved range takes no memory slot", reserved_range),
    ("guest debugging is refused", guest_debug),
    ("detach and statistics need a view", detach),
];

/// Compares the number of an error with that which the documentation promises.
pub fn expect(what: &str, got: i32, wanted: i32) -> Result<()> {
    ensure!(
        got == wanted,
        "{what}: errno {got} ({}), wanted {wanted} ({})",
        std::io::Error::from_raw_os_error(got),
        std::io::Error::from_raw_os_error(wanted)
    );
    Ok(())
}

fn create() -> Result<()> {
    let zero = CreateEptView::default();
    expect(
        "flags",
        errno(sys::create(&CreateEptView { flags: 1, ..zero })),
        EINVAL,
    )?;
    for field in 0..3 {
        let mut argument = zero;
        argument.reserved[field] = 1;
        expect("reserved", errno(sys::create(&argument)), EINVAL)?;
    }
    expect("nothing wrong", errno(sys::create(&zero)), 0)
}

fn map() -> Result<()> {
    let template = Template::open(ADD)?;
    let pages = Pages::writable(PAGE_SIZE as usize);
    let good = EptViewMap {
        gva: DATA_GVA + (1 << 30),
        user_addr: pages.address(),
        size: PAGE_SIZE,
        prot: VIEW_READ,
        ..Default::default()
    };
    let cases: &[(&str, EptViewMap, i32)] = &[
        ("flags", EptViewMap { flags: 1, ..good }, EINVAL),
        (
            "reserved",
            EptViewMap {
                reserved: [0, 1],
                ..good
            },
            EINVAL,
        ),
        ("size 0", EptViewMap { size: 0, ..good }, EINVAL),
        (
            "size",
            EptViewMap {
                size: PAGE_SIZE + 1,
                ..good
            },
            EINVAL,
        ),
        (
            "gva",
            EptViewMap {
                gva: good.gva + 8,
                ..good
            },
            EINVAL,
        ),
        (
            "user_addr",
            EptViewMap {
                user_addr: good.user_addr + 8,
                ..good
            },
            EINVAL,
        ),
        ("no protection", EptViewMap { prot: 0, ..good }, EINVAL),
        (
            "write only",
            EptViewMap {
                prot: VIEW_WRITE,
                ..good
            },
            EINVAL,
        ),
        (
            "write and execute",
            EptViewMap {
                prot: VIEW_READ | VIEW_WRITE | VIEW_EXEC,
                ..good
            },
            EINVAL,
        ),
        (
            "unknown protection",
            EptViewMap {
                prot: VIEW_READ | 8,
                ..good
            },
            EINVAL,
        ),
        (
            "below the range",
            EptViewMap {
                gva: IMAGE_GVA - PAGE_SIZE,
                ..good
            },
            ERANGE,
        ),
        (
            "above the range",
            EptViewMap {
                gva: 33 << 39,
                ..good
            },
            ERANGE,
        ),
        (
            "wrapping",
            EptViewMap {
                size: !0xfff,
                ..good
            },
            ERANGE,
        ),
        (
            "across the end",
            EptViewMap {
                gva: (33 << 39) - PAGE_SIZE,
                size: 2 * PAGE_SIZE,
                ..good
            },
            ERANGE,
        ),
        (
            "more than R",
            EptViewMap {
                size: RESERVED_GPA_SIZE,
                ..good
            },
            ENOSPC,
        ),
        (
            "overlap",
            EptViewMap {
                gva: DATA_GVA + PAGE_SIZE,
                ..good
            },
            EEXIST,
        ),
        (
            "kernel address",
            EptViewMap {
                user_addr: 0xffff_8880_0000_0000,
                ..good
            },
            EFAULT,
        ),
        (
            "nothing there",
            EptViewMap {
                user_addr: 0x1000,
                ..good
            },
            EFAULT,
        ),
    ];
    for (what, argument, wanted) in cases {
        expect(what, errno(sys::map(&template.file, argument)), *wanted)?;
    }
    let fixed = Pages::new(PAGE_SIZE as usize, libc::PROT_READ);
    let read_only = EptViewMap {
        user_addr: fixed.address(),
        ..good
    };
    expect(
        "read-only pages",
        errno(sys::map(&template.file, &read_only)),
        EFAULT,
    )?;
    // The second page is not there: the first must be let go again.
    let half = EptViewMap {
        size: 512 * PAGE_SIZE,
        ..good
    };
    expect("a hole", errno(sys::map(&template.file, &half)), EFAULT)?;
    expect("nothing wrong", errno(sys::map(&template.file, &good)), 0)
}

fn seal() -> Result<()> {
    let template = Template::open(ADD)?;
    let good = Template::seal_argument(RIGHT_STRICT);
    let fixed = Pages::writable(PAGE_SIZE as usize);
    let gva = DATA_GVA + (1 << 30);
    sys::map(
        &template.file,
        &EptViewMap {
            gva,
            user_addr: fixed.address(),
            size: PAGE_SIZE,
            prot: VIEW_READ,
            ..Default::default()
        },
    )?;
    let cases: &[(&str, EptViewSeal, i32)] = &[
        ("no right", EptViewSeal { rights: 0, ..good }, EINVAL),
        (
            "unknown right",
            EptViewSeal {
                rights: RIGHT_STRICT | 8,
                ..good
            },
            EINVAL,
        ),
        ("flags", EptViewSeal { flags: 1, ..good }, EINVAL),
        (
            "data unaligned",
            EptViewSeal {
                data_gva: DATA_GVA + 8,
                ..good
            },
            EINVAL,
        ),
        (
            "data wraps",
            EptViewSeal {
                data_size: !0xfff,
                ..good
            },
            EINVAL,
        ),
        (
            "data too long",
            EptViewSeal {
                data_size: 5 * PAGE_SIZE,
                ..good
            },
            EFAULT,
        ),
        (
            "data read-only",
            EptViewSeal {
                data_gva: gva,
                data_size: PAGE_SIZE,
                ..good
            },
            EFAULT,
        ),
        (
            "data is code",
            EptViewSeal {
                data_gva: IMAGE_GVA,
                data_size: PAGE_SIZE,
                ..good
            },
            EFAULT,
        ),
        (
            "entry nowhere",
            EptViewSeal {
                entry_gva: IMAGE_GVA + PAGE_SIZE,
                ..good
            },
            EFAULT,
        ),
        (
            "entry in data",
            EptViewSeal {
                entry_gva: DATA_GVA,
                ..good
            },
            EFAULT,
        ),
    ];
    for (what, argument, wanted) in cases {
        expect(what, errno(sys::seal(&template.file, argument)), *wanted)?;
    }
    for field in 0..good.reserved.len() {
        let mut argument = good;
        argument.reserved[field] = 1 << 63;
        expect(
            "reserved",
            errno(sys::seal(&template.file, &argument)),
            EINVAL,
        )?;
    }
    expect("nothing wrong", errno(sys::seal(&template.file, &good)), 0)
}

fn rights_need_rawio() -> Result<()> {
    for rights in [RIGHT_FAST, RIGHT_HYPERCALL, ENTER] {
        let status = sys::in_child(|| {
            let Ok(template) = Template::open(ADD) else {
                return 100;
            };
            if !drop_privileges() {
                return 101;
            }
            let seal = |rights| errno(sys::seal(&template.file, &Template::seal_argument(rights)));
            let refused = seal(rights);
            if seal(RIGHT_STRICT) != 0 {
                102
            } else {
                refused as u8
            }
        })?;
        expect("seal without capabilities", status.into(), EPERM)?;
    }
    // A VMM without them is attached by what it was granted.
    let template = Template::sealed(ADD)?;
    let grant = template.grant()?;
    let status = sys::in_child(|| {
        let Ok(vm) = Vm::new(&[], VmOptions::default()) else {
            return 100;
        };
        if !drop_privileges() {
            return 101;
        }
        errno(sys::attach(&vm.vcpu, &attach_argument(&grant, RIGHT_FAST))) as u8
    })?;
    expect("attach without capabilities", status.into(), 0)
}

/// Goes on without root, without capabilities.
fn drop_privileges() -> bool {
    // SAFETY: changes the identity of this child only.
    unsafe { libc::setresuid(1000, 1000, 1000) == 0 }
}

/// Whether the module was told to serve hypercalls.
pub fn serves_hypercalls() -> Result<bool> {
    let path = "/sys/module/kvm_intel/parameters/ept_views_hypercall";
    Ok(std::fs::read_to_string(path)?.trim() == "Y")
}

fn hypercalls_need_parameter() -> Result<()> {
    let rights = sys::rights()?;
    let (wanted, answer) = match serves_hypercalls()? {
        true => (ENTER | RIGHT_HYPERCALL, 0),
        false => (ENTER, EOPNOTSUPP),
    };
    ensure!(
        rights == wanted,
        "KVM_CHECK_EXTENSION says {rights:#x}, wanted {wanted:#x}"
    );
    let template = Template::open(ADD)?;
    let argument = Template::seal_argument(RIGHT_HYPERCALL | RIGHT_STRICT);
    expect("seal", errno(sys::seal(&template.file, &argument)), answer)
}

fn sealed_is_immutable() -> Result<()> {
    let template = Template::sealed(ADD)?;
    let other = EptViewMap {
        gva: DATA_GVA + (1 << 30),
        ..template.data_mapping()
    };
    expect("map", errno(sys::map(&template.file, &other)), EROFS)?;
    let again = Template::seal_argument(RIGHT_STRICT);
    expect("seal", errno(sys::seal(&template.file, &again)), EROFS)
}

fn grant() -> Result<()> {
    let template = Template::open(ADD)?;
    let good = EptViewGrant {
        rights: RIGHT_STRICT,
        ..Template::grant_argument()
    };
    let grant = |argument: &EptViewGrant| errno(sys::grant(&template.file, argument));
    expect("not sealed", grant(&good), EINVAL)?;
    sys::seal(&template.file, &Template::seal_argument(RIGHT_STRICT))?;
    let cases: &[(&str, EptViewGrant, i32)] = &[
        ("flags", EptViewGrant { flags: 1, ..good }, EINVAL),
        ("no right", EptViewGrant { rights: 0, ..good }, EINVAL),
        (
            "a right that the template has not",
            EptViewGrant {
                rights: ENTER,
                ..good
            },
            EACCES,
        ),
        ("no member", EptViewGrant { members: 0, ..good }, EINVAL),
        (
            "too many members",
            EptViewGrant {
                members: MAX_MEMBERS + 1,
                ..good
            },
            EINVAL,
        ),
    ];
    for (what, argument, wanted) in cases {
        expect(what, grant(argument), *wanted)?;
    }
    let unknown = EptViewGrant {
        rights: RIGHT_STRICT | 8,
        ..good
    };
    let got = grant(&unknown);
    ensure!(got == EINVAL || got == EACCES, "unknown right: errno {got}");
    for field in 0..good.reserved.len() {
        let mut argument = good;
        argument.reserved[field] = 1;
        expect("reserved", grant(&argument), EINVAL)?;
    }
    let most = EptViewGrant {
        members: MAX_MEMBERS,
        ..good
    };
    expect("as many members as can be", grant(&most), 0)?;
    let file = sys::grant(&template.file, &good)?;
    // SAFETY: asks for the flags of a descriptor of ours.
    let flags = unsafe { libc::fcntl(sys::raw(&file), libc::F_GETFD) };
    ensure!(
        flags & libc::FD_CLOEXEC != 0,
        "a grant is passed on by exec"
    );
    // A grant is no template: who has it cannot make another.
    for (what, got) in [
        ("grant", errno(sys::grant(&file, &good))),
        (
            "revoke",
            errno(sys::revoke(
                &file,
                &EptViewRevoke {
                    id: ID,
                    ..Default::default()
                },
            )),
        ),
        ("map", errno(sys::map(&file, &template.data_mapping()))),
        ("information", errno(sys::info(&file))),
    ] {
        expect(&format!("{what} of a grant"), got, ENOTTY)?;
    }
    Ok(())
}

fn revoke() -> Result<()> {
    let template = Template::sealed(ADD)?;
    let good = EptViewRevoke {
        id: ID,
        ..Default::default()
    };
    let revoke = |argument: &EptViewRevoke| errno(sys::revoke(&template.file, argument));
    expect("flags", revoke(&EptViewRevoke { flags: 1, ..good }), EINVAL)?;
    for field in 0..good.reserved.len() {
        let mut argument = good;
        argument.reserved[field] = 1;
        expect("reserved", revoke(&argument), EINVAL)?;
    }
    expect("nothing granted", revoke(&good), 0)
}

fn attach() -> Result<()> {
    let template = Template::sealed(ADD)?;
    let grant = template.grant_to(ID, 2)?;
    let vm = Vm::new(&[], VmOptions::default())?;
    let good = attach_argument(&grant, RIGHT_FAST);
    let other = File::open("/dev/null")?;
    let mut cases: Vec<(&str, AttachEptView, i32)> = vec![
        (
            "slot",
            AttachEptView {
                slot: SLOTS,
                ..good
            },
            EINVAL,
        ),
        ("member", AttachEptView { member: 2, ..good }, EINVAL),
        ("no right", AttachEptView { right: 0, ..good }, EINVAL),
        (
            "two rights",
            AttachEptView {
                right: ENTER,
                ..good
            },
            EINVAL,
        ),
        ("unknown right", AttachEptView { right: 8, ..good }, EINVAL),
        (
            "a right that was not granted",
            AttachEptView {
                right: RIGHT_HYPERCALL,
                ..good
            },
            EACCES,
        ),
        (
            "flags",
            AttachEptView {
                flags: ATTACH_EXIT_ON_ABORT << 1,
                ..good
            },
            EINVAL,
        ),
        (
            "no descriptor",
            AttachEptView {
                grant_fd: -1,
                ..good
            },
            EBADF,
        ),
        (
            "another file",
            AttachEptView {
                grant_fd: sys::raw(&other),
                ..good
            },
            EBADF,
        ),
        (
            "a template",
            AttachEptView {
                grant_fd: sys::raw(&template.file),
                ..good
            },
            EBADF,
        ),
    ];
    for field in 0..good.reserved.len() {
        let mut argument = good;
        argument.reserved[field] = 1;
        cases.push(("reserved", argument, EINVAL));
    }
    for (what, argument, wanted) in &cases {
        expect(what, errno(sys::attach(&vm.vcpu, argument)), *wanted)?;
    }
    let strict = sys::grant(
        &template.file,
        &EptViewGrant {
            rights: RIGHT_STRICT,
            ..Template::grant_argument()
        },
    )?;
    let got = errno(sys::attach(&vm.vcpu, &attach_argument(&strict, RIGHT_FAST)));
    expect("fast where strict was granted", got, EACCES)?;
    expect("nothing wrong", errno(sys::attach(&vm.vcpu, &good)), 0)?;
    let second = AttachEptView { member: 1, ..good };
    expect("slot taken", errno(sys::attach(&vm.vcpu, &second)), EEXIST)
}

/// What a CPUID must not have for views. Kernels before 6.4 know nothing of LAM, and let no guest
/// turn it on.
fn forbidden() -> Result<&'static [Cpuid]> {
    const ALL: &[Cpuid] = &[Cpuid::Pcid, Cpuid::Pdcm, Cpuid::Pmu, Cpuid::Lam];
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let mut numbers = release.split('.').map(|part| part.parse::<u32>());
    let version = (numbers.next(), numbers.next());
    let (Some(Ok(major)), Some(Ok(minor))) = version else {
        bail!("what release is {release:?}?");
    };
    Ok(if (major, minor) < (6, 4) {
        &ALL[..3]
    } else {
        ALL
    })
}

fn attach_refuses() -> Result<()> {
    let template = Template::sealed(ADD)?;
    let grant = template.grant()?;
    let try_with = |options: VmOptions| -> Result<i32> {
        let vm = Vm::new(&[], options)?;
        Ok(errno(sys::attach(
            &vm.vcpu,
            &attach_argument(&grant, RIGHT_FAST),
        )))
    };
    let good = VmOptions::default();
    expect(
        "no irqchip",
        try_with(VmOptions {
            irqchip: false,
            ..good
        })?,
        ENXIO,
    )?;
    for &cpuid in forbidden()? {
        let got = try_with(VmOptions { cpuid, ..good })?;
        expect(&format!("CPUID with {cpuid:?}"), got, EOPNOTSUPP)?;
    }
    // Only calls need them; they are refused then.
    expect("no SMEP", try_with(VmOptions { cr4: 0, ..good })?, 0)
}

/// What attaching refuses can come after it, as long as the vCPU has not run.
fn cpuid_later() -> Result<()> {
    let template = Template::sealed(ADD)?;
    for &with in forbidden()? {
        let mut vm = Vm::attached(&and_out(call_slot(0, 5, 7)), &template, RIGHT_FAST, 0)?;
        vm.vcpu.set_cpuid2(&guest::cpuid(with)?)?;
        let stop = vm.run();
        let stats = sys::stats(&vm.vcpu, 0)?;
        ensure!(
            stop == Stop::Shutdown && stats.exits_in_view == 0 && stats.armed == 0,
            "with {with:?} the call ended with {stop:?}: {stats:?}"
        );
    }
    Ok(())
}

fn slot_at(vm: &Vm, slot: u32, guest_phys_addr: u64, pages: &Pages) -> i32 {
    let region = kvm_userspace_memory_region {
        slot,
        guest_phys_addr,
        memory_size: PAGE_SIZE,
        userspace_addr: pages.address(),
        ..Default::default()
    };
    // SAFETY: the pages outlive the VM in the tests below.
    match unsafe { vm.fd.set_user_memory_region(region) } {
        Ok(()) => 0,
        Err(error) => error.errno(),
    }
}

fn reserved_range() -> Result<()> {
    let pages = Pages::writable(PAGE_SIZE as usize);
    let template = Template::sealed(ADD)?;
    let grant = template.grant()?;
    let last = RESERVED_GPA + RESERVED_GPA_SIZE - PAGE_SIZE;

    let vm = Vm::new(&[], VmOptions::default())?;
    expect("slot before a view", slot_at(&vm, 1, last, &pages), 0)?;
    expect(
        "view after a slot",
        errno(sys::attach(&vm.vcpu, &attach_argument(&grant, RIGHT_FAST))),
        EEXIST,
    )?;

    let vm = Vm::attached(&[], &template, RIGHT_FAST, 0)?;
    expect("first page", slot_at(&vm, 1, RESERVED_GPA, &pages), EINVAL)?;
    expect("last page", slot_at(&vm, 1, last, &pages), EINVAL)?;
    expect(
        "below",
        slot_at(&vm, 1, RESERVED_GPA - PAGE_SIZE, &pages),
        0,
    )?;
    expect("above", slot_at(&vm, 2, last + PAGE_SIZE, &pages), 0)
}

fn guest_debug() -> Result<()> {
    let template = Template::sealed(ADD)?;
    let grant = template.grant()?;
    let vm = Vm::attached(&[], &template, RIGHT_FAST, 0)?;
    let debug = kvm_guest_debug {
        control: KVM_GUESTDBG_ENABLE,
        ..Default::default()
    };
    let got = vm
        .vcpu
        .set_guest_debug(&debug)
        .map_or_else(|error| error.errno(), |()| 0);
    expect("with a view", got, EBUSY)?;

    let vm = Vm::new(&[], VmOptions::default())?;
    let got = vm
        .vcpu
        .set_guest_debug(&debug)
        .map_or_else(|error| error.errno(), |()| 0);
    expect("without", got, 0)?;
    expect(
        "attach while debugged",
        errno(sys::attach(&vm.vcpu, &attach_argument(&grant, RIGHT_FAST))),
        EBUSY,
    )
}

fn detach() -> Result<()> {
    let vm = Vm::new(&[], VmOptions::default())?;
    let zero = DetachEptView::default();
    let detach = |argument: &DetachEptView| errno(sys::detach(&vm.vcpu, argument));
    let stats = |mut argument: EptViewStats| errno(sys::stats_into(&vm.vcpu, &mut argument));
    let of = |slot| EptViewStats {
        slot,
        ..Default::default()
    };
    expect("statistics, nothing attached", stats(of(0)), ENOENT)?;
    expect("detach, nothing attached", detach(&zero), ENOENT)?;
    let template = Template::sealed(ADD)?;
    let grant = template.grant()?;
    let argument = AttachEptView {
        slot: 2,
        ..attach_argument(&grant, RIGHT_FAST)
    };
    sys::attach(&vm.vcpu, &argument)?;
    let good = DetachEptView { slot: 2, ..zero };
    for (what, argument, wanted) in [
        (
            "slot",
            DetachEptView {
                slot: SLOTS,
                ..good
            },
            EINVAL,
        ),
        ("flags", DetachEptView { flags: 1, ..good }, EINVAL),
        ("empty slot", DetachEptView { slot: 0, ..good }, ENOENT),
        (
            "reserved",
            DetachEptView {
                reserved: [1, 0],
                ..good
            },
            EINVAL,
        ),
        (
            "reserved",
            DetachEptView {
                reserved: [0, 1],
                ..good
            },
            EINVAL,
        ),
    ] {
        expect(what, detach(&argument), wanted)?;
    }
    for (what, argument, wanted) in [
        ("statistics, slot", of(SLOTS), EINVAL),
        (
            "statistics, flags",
            EptViewStats { flags: 1, ..of(2) },
            EINVAL,
        ),
        ("statistics, empty slot", of(0), ENOENT),
        ("statistics", of(2), 0),
    ] {
        expect(what, stats(argument), wanted)?;
    }
    expect("detach", detach(&good), 0)?;
    expect("statistics, detached", stats(of(2)), ENOENT)?;
    expect("attach again", errno(sys::attach(&vm.vcpu, &argument)), 0)
}
