//! `kvm_ept_view.h` of the kernel series against `postern_abi`: every number and every offset.

#![allow(clippy::unwrap_used, reason = "a test fails by a panic")]

mod series;

use std::fmt::Write;
use std::mem::{offset_of, size_of};

use postern_abi::{kvm, service, view};

/// Size in bytes of what the function points to.
fn size_of_field<S, F>(_: impl Fn(&S) -> *const F) -> usize {
    size_of::<F>()
}

/// An expression in C and its value in Rust.
fn pairs() -> Vec<(String, u64)> {
    let mut pairs: Vec<(String, u64)> = Vec::new();
    macro_rules! constants {
        ($($c:ident = $rust:expr;)*) => { $(pairs.push((stringify!($c).into(), $rust as u64));)* };
    }
    macro_rules! structure {
        ($c:ident, $rust:ty, $($field:ident),*) => {
            pairs.push((format!("sizeof(struct {})", stringify!($c)), size_of::<$rust>() as u64));
            $(pairs.push((
                format!("offsetof(struct {}, {})", stringify!($c), stringify!($field)),
                offset_of!($rust, $field) as u64,
            ));
            pairs.push((
                format!("sizeof(((struct {} *)0)->{})", stringify!($c), stringify!($field)),
                size_of_field(|s: &$rust| &raw const s.$field) as u64,
            ));)*
        };
    }
    constants! {
        KVM_CAP_EPT_VIEW = kvm::KVM_CAP_EPT_VIEW;
        KVM_EXIT_EPT_VIEW = kvm::KVM_EXIT_EPT_VIEW;
        KVM_EPT_VIEW_GATE_GVA = view::GATE_GVA;
        KVM_EPT_VIEW_LIST_GVA = view::LIST_GVA;
        KVM_EPT_VIEW_STACK_GVA = view::STACK_GVA;
        KVM_EPT_VIEW_STACK_SIZE = view::STACK_SIZE;
        KVM_EPT_VIEW_CALL_GVA = view::CALL_PAGE_GVA;
        KVM_EPT_VIEW_MAP_GVA = view::IMAGE_GVA;
        KVM_EPT_VIEW_GPA = view::RESERVED_GPA;
        KVM_EPT_VIEW_GPA_SIZE = view::RESERVED_GPA_SIZE;
        KVM_EPT_VIEW_INDEX_DEFAULT = view::DEFAULT_INDEX;
        KVM_EPT_VIEW_INDEX_GATE = view::GATE_INDEX;
        KVM_EPT_VIEW_INDEX_SERVICE = view::SERVICE_INDEX;
        KVM_EPT_VIEW_HC = service::HYPERCALL;
        KVM_EPT_VIEW_READ = kvm::VIEW_READ;
        KVM_EPT_VIEW_WRITE = kvm::VIEW_WRITE;
        KVM_EPT_VIEW_EXEC = kvm::VIEW_EXEC;
        KVM_EPT_VIEW_MODE_FAST = kvm::VIEW_MODE_FAST;
        KVM_EPT_VIEW_MODE_STRICT = kvm::VIEW_MODE_STRICT;
        KVM_EPT_VIEW_EXIT_ON_ABORT = kvm::ATTACH_EXIT_ON_ABORT;
        KVM_EPT_VIEW_HYPERCALL = kvm::ATTACH_HYPERCALL;
        KVM_EPT_VIEW_IO = kvm::KVMIO;
    }
    for (name, number) in [
        ("KVM_CREATE_EPT_VIEW", kvm::KVM_CREATE_EPT_VIEW_NR),
        ("KVM_EPT_VIEW_MAP", kvm::KVM_EPT_VIEW_MAP_NR),
        ("KVM_EPT_VIEW_SEAL", kvm::KVM_EPT_VIEW_SEAL_NR),
        ("KVM_ATTACH_EPT_VIEW", kvm::KVM_ATTACH_EPT_VIEW_NR),
        ("KVM_DETACH_EPT_VIEW", kvm::KVM_DETACH_EPT_VIEW_NR),
        ("KVM_GET_EPT_VIEW_STATS", kvm::KVM_GET_EPT_VIEW_STATS_NR),
    ] {
        pairs.push((format!("_IOC_NR({name})"), number.into()));
    }
    for (name, size) in [
        ("KVM_CREATE_EPT_VIEW", size_of::<kvm::CreateEptView>()),
        ("KVM_EPT_VIEW_MAP", size_of::<kvm::EptViewMap>()),
        ("KVM_EPT_VIEW_SEAL", size_of::<kvm::EptViewSeal>()),
        ("KVM_ATTACH_EPT_VIEW", size_of::<kvm::AttachEptView>()),
        ("KVM_DETACH_EPT_VIEW", size_of::<kvm::DetachEptView>()),
        ("KVM_GET_EPT_VIEW_STATS", size_of::<kvm::EptViewStats>()),
    ] {
        pairs.push((format!("_IOC_SIZE({name})"), size as u64));
    }
    structure!(
        kvm_ept_view_call,
        view::CallPage,
        saved_rsp,
        vcpu,
        reserved,
        caller
    );
    structure!(kvm_create_ept_view, kvm::CreateEptView, flags, reserved);
    structure!(
        kvm_ept_view_map,
        kvm::EptViewMap,
        gva,
        user_addr,
        size,
        prot,
        flags,
        reserved
    );
    structure!(
        kvm_ept_view_seal,
        kvm::EptViewSeal,
        mode,
        flags,
        entry_gva,
        data_gva,
        data_size,
        caller,
        reserved
    );
    structure!(
        kvm_attach_ept_view,
        kvm::AttachEptView,
        view_fd,
        slot,
        flags,
        reserved
    );
    structure!(
        kvm_detach_ept_view,
        kvm::DetachEptView,
        slot,
        flags,
        reserved
    );
    structure!(
        kvm_ept_view_stats,
        kvm::EptViewStats,
        aborts,
        deferred_leaves,
        exits_in_view,
        hypercalls,
        reserved
    );
    structure!(
        kvm_ept_view_exit,
        kvm::AbortExit,
        view,
        exit_reason,
        qualification,
        gpa,
        gva,
        rip
    );
    pairs
}

#[test]
fn header_and_crate_agree() {
    for series in series::all() {
        check(&series);
    }
}

fn check(series: &series::Series) {
    let header = "include/uapi/linux/kvm_ept_view.h";
    let folder = series::added_files(series, &[header]);
    let pairs = pairs();
    let mut program = String::from(
        "#include <stddef.h>\n#include <stdio.h>\n#include <linux/kvm_ept_view.h>\n\
         int main(void)\n{\n",
    );
    for (expression, _) in &pairs {
        writeln!(
            program,
            "printf(\"%llu\\n\", (unsigned long long)({expression}));"
        )
        .unwrap();
    }
    program.push_str("return 0;\n}\n");
    std::fs::write(folder.path().join("abi.c"), program).unwrap();
    let output = series::compile_and_run(folder.path(), "abi.c", &["include/uapi"]);
    let values: Vec<u64> = String::from_utf8(output)
        .unwrap()
        .lines()
        .map(|l| l.parse().unwrap())
        .collect();
    assert_eq!(values.len(), pairs.len());
    for ((expression, rust), c) in pairs.iter().zip(values) {
        assert_eq!(
            *rust,
            c,
            "{expression}: the header of series {} has {c:#x}, the crate {rust:#x}",
            series.name()
        );
    }
}
