//! What each call rejects, with which error.

use std::fs::File;

use anyhow::{Result, ensure};
use kvm_bindings::{KVM_GUESTDBG_ENABLE, kvm_guest_debug, kvm_userspace_memory_region};
use libc::{
    EBADF, EBUSY, EEXIST, EFAULT, EINVAL, ENOENT, ENOSPC, ENXIO, EOPNOTSUPP, EPERM, ERANGE, EROFS,
};
use postern_abi::PAGE_SIZE;
use postern_abi::kvm::{
    ATTACH_HYPERCALL, AttachEptView, CreateEptView, DetachEptView, EptViewMap, EptViewSeal,
    VIEW_EXEC, VIEW_MODE_FAST, VIEW_MODE_STRICT, VIEW_READ, VIEW_WRITE,
};
use postern_abi::view::{DATA_GVA, IMAGE_GVA, RESERVED_GPA, RESERVED_GPA_SIZE};

use crate::Test;
use crate::guest::{ADD, View, Vm, VmOptions};
use crate::sys::{self, Pages, errno};

pub const TESTS: &[Test] = &[
    ("create rejects what it does not know", create),
    ("map rejects bad ranges and protections", map),
    ("seal rejects bad modes, entries and data", seal),
    ("fast mode needs CAP_SYS_RAWIO", fast_needs_rawio),
    ("a sealed view is immutable", sealed_is_immutable),
    ("attach rejects what it does not know", attach),
    ("attach rejects VMs that cannot have views", attach_refuses),
    ("the reserved range takes no memory slot", reserved_range),
    ("guest debugging is refused", guest_debug),
    ("detach and statistics need a view", detach),
];

fn expect(what: &str, got: i32, wanted: i32) -> Result<()> {
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
    let view = View::open(ADD)?;
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
        expect(what, errno(sys::map(&view.file, argument)), *wanted)?;
    }
    let fixed = Pages::new(PAGE_SIZE as usize, libc::PROT_READ);
    let read_only = EptViewMap {
        user_addr: fixed.address(),
        ..good
    };
    expect(
        "read-only pages",
        errno(sys::map(&view.file, &read_only)),
        EFAULT,
    )?;
    // The second page is not there: the first must be let go again.
    let half = EptViewMap {
        size: 512 * PAGE_SIZE,
        ..good
    };
    expect("a hole", errno(sys::map(&view.file, &half)), EFAULT)?;
    expect("nothing wrong", errno(sys::map(&view.file, &good)), 0)
}

fn seal() -> Result<()> {
    let view = View::open(ADD)?;
    let good = View::seal_argument(VIEW_MODE_STRICT);
    let fixed = Pages::writable(PAGE_SIZE as usize);
    let gva = DATA_GVA + (1 << 30);
    sys::map(
        &view.file,
        &EptViewMap {
            gva,
            user_addr: fixed.address(),
            size: PAGE_SIZE,
            prot: VIEW_READ,
            ..Default::default()
        },
    )?;
    let cases: &[(&str, EptViewSeal, i32)] = &[
        ("mode", EptViewSeal { mode: 2, ..good }, EINVAL),
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
        expect(what, errno(sys::seal(&view.file, argument)), *wanted)?;
    }
    for field in 0..good.reserved.len() {
        let mut argument = good;
        argument.reserved[field] = 1 << 63;
        expect("reserved", errno(sys::seal(&view.file, &argument)), EINVAL)?;
    }
    expect("nothing wrong", errno(sys::seal(&view.file, &good)), 0)
}

fn fast_needs_rawio() -> Result<()> {
    let status = sys::in_child(|| {
        let Ok(view) = View::open(ADD) else {
            return 100;
        };
        // Without root, without capabilities.
        // SAFETY: changes the identity of this child only.
        if unsafe { libc::setresuid(1000, 1000, 1000) } != 0 {
            return 101;
        }
        let fast = errno(sys::seal(&view.file, &View::seal_argument(VIEW_MODE_FAST)));
        let strict = errno(sys::seal(
            &view.file,
            &View::seal_argument(VIEW_MODE_STRICT),
        ));
        if strict != 0 { 102 } else { fast as u8 }
    })?;
    expect("seal without capabilities", status.into(), EPERM)
}

fn sealed_is_immutable() -> Result<()> {
    let view = View::sealed(VIEW_MODE_STRICT, ADD)?;
    let other = EptViewMap {
        gva: DATA_GVA + (1 << 30),
        ..view.data_mapping()
    };
    expect("map", errno(sys::map(&view.file, &other)), EROFS)?;
    let again = View::seal_argument(VIEW_MODE_STRICT);
    expect("seal", errno(sys::seal(&view.file, &again)), EROFS)
}

fn attach() -> Result<()> {
    let view = View::sealed(VIEW_MODE_FAST, ADD)?;
    let vm = Vm::new(&[], VmOptions::default())?;
    let good = view.attach_argument(0);
    let open = View::open(ADD)?;
    let other = File::open("/dev/null")?;
    let cases: &[(&str, AttachEptView, i32)] = &[
        ("slot", AttachEptView { slot: 1, ..good }, EINVAL),
        ("flags", AttachEptView { flags: 4, ..good }, EINVAL),
        (
            "reserved",
            AttachEptView {
                reserved: [0, 0, 0, 0, 1],
                ..good
            },
            EINVAL,
        ),
        (
            "no descriptor",
            AttachEptView {
                view_fd: -1,
                ..good
            },
            EBADF,
        ),
        (
            "another file",
            AttachEptView {
                view_fd: sys::raw(&other),
                ..good
            },
            EBADF,
        ),
        ("not sealed", open.attach_argument(0), EBADF),
    ];
    for (what, argument, wanted) in cases {
        expect(what, errno(sys::attach(&vm.vcpu, argument)), *wanted)?;
    }
    // What the caller's words mean is the service's own: these name no port of any NIC.
    let hypercall = errno(sys::attach(
        &vm.vcpu,
        &view.attach_argument(ATTACH_HYPERCALL),
    ));
    ensure!(
        hypercall == EINVAL || hypercall == EOPNOTSUPP,
        "hypercall path: errno {hypercall}"
    );
    expect("nothing wrong", errno(sys::attach(&vm.vcpu, &good)), 0)?;
    expect("twice", errno(sys::attach(&vm.vcpu, &good)), EEXIST)
}

fn attach_refuses() -> Result<()> {
    let view = View::sealed(VIEW_MODE_FAST, ADD)?;
    let try_with = |options: VmOptions| -> Result<i32> {
        let vm = Vm::new(&[], options)?;
        Ok(errno(sys::attach(&vm.vcpu, &view.attach_argument(0))))
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
    expect(
        "PCID",
        try_with(VmOptions { pcid: true, ..good })?,
        EOPNOTSUPP,
    )?;
    // Only calls need them; they are refused then.
    expect("no SMEP", try_with(VmOptions { cr4: 0, ..good })?, 0)
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
    let view = View::sealed(VIEW_MODE_FAST, ADD)?;
    let last = RESERVED_GPA + RESERVED_GPA_SIZE - PAGE_SIZE;

    let vm = Vm::new(&[], VmOptions::default())?;
    expect("slot before a view", slot_at(&vm, 1, last, &pages), 0)?;
    expect(
        "view after a slot",
        errno(sys::attach(&vm.vcpu, &view.attach_argument(0))),
        EEXIST,
    )?;

    let vm = Vm::with_view(&[], &view, 0)?;
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
    let view = View::sealed(VIEW_MODE_FAST, ADD)?;
    let vm = Vm::with_view(&[], &view, 0)?;
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
        errno(sys::attach(&vm.vcpu, &view.attach_argument(0))),
        EBUSY,
    )
}

fn detach() -> Result<()> {
    let vm = Vm::new(&[], VmOptions::default())?;
    let zero = DetachEptView::default();
    expect("statistics, no view", errno(sys::stats(&vm.vcpu)), ENOENT)?;
    expect(
        "detach, no view",
        errno(sys::detach(&vm.vcpu, &zero)),
        ENOENT,
    )?;
    let view = View::sealed(VIEW_MODE_FAST, ADD)?;
    sys::attach(&vm.vcpu, &view.attach_argument(0))?;
    let slot = DetachEptView { slot: 1, ..zero };
    expect("slot", errno(sys::detach(&vm.vcpu, &slot)), EINVAL)?;
    let reserved = DetachEptView {
        reserved: [1, 0],
        ..zero
    };
    expect("reserved", errno(sys::detach(&vm.vcpu, &reserved)), EINVAL)?;
    expect("statistics", errno(sys::stats(&vm.vcpu)), 0)?;
    expect("detach", errno(sys::detach(&vm.vcpu, &zero)), 0)?;
    expect(
        "attach again",
        errno(sys::attach(&vm.vcpu, &view.attach_argument(0))),
        0,
    )
}
