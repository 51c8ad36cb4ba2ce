//! Numbers of the kernel series against those in Rust: every number and every offset of
//! `kvm_ept_view.h` against `postern_abi`, where the stub returns to the gate, and the bits of the
//! build for tests of attacks. And the document of its calls against the file that shows it here.

#![allow(clippy::unwrap_used, reason = "a test fails by a panic")]

mod series;

use std::fmt::Write;
use std::fs;
use std::mem::{offset_of, size_of};
use std::path::Path;

use postern_abi::{kvm, service, view};
use postern_lab::setup::root;
use postern_suite::omit;

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
    let program = "#include <stddef.h>\n#include <linux/kvm_ept_view.h>\n";
    compare(series, folder.path(), program, &pairs());
}

/// Compares numbers of C, which follow from the beginning of a program, with those of Rust.
fn compare(series: &series::Series, folder: &Path, beginning: &str, pairs: &[(String, u64)]) {
    let mut program = format!("#include <stdio.h>\n{beginning}int main(void)\n{{\n");
    for (expression, _) in pairs {
        writeln!(
            program,
            "printf(\"%llu\\n\", (unsigned long long)({expression}));"
        )
        .unwrap();
    }
    program.push_str("return 0;\n}\n");
    fs::write(folder.join("abi.c"), program).unwrap();
    let output = series::compile_and_run(folder, "abi.c", &["include/uapi"]);
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
            "{expression}: in C, series {} has {c:#x}, Rust has {rust:#x}",
            series.name()
        );
    }
}

#[test]
fn stub_returns_to_where_guests_expect_it() {
    for series in series::all() {
        let code = "arch/x86/kvm/vmx/ept_view_code.c";
        let folder = series::added_files(&series, &[code]);
        let text = fs::read_to_string(folder.path().join(code)).unwrap();
        let defines = text
            .lines()
            .filter(|line| line.starts_with("#define STUB_OFFSET"));
        let define: Vec<&str> = defines.collect();
        assert_eq!(define.len(), 1, "{define:?}");
        let pairs = [("STUB_OFFSET".to_owned(), view::STUB_GVA - view::GATE_GVA)];
        compare(&series, folder.path(), &format!("{}\n", define[0]), &pairs);
    }
}

#[test]
fn bits_of_omitted_defences_agree() {
    for series in series::all() {
        let header = "arch/x86/kvm/vmx/ept_view.h";
        let mut patches = series.patches().unwrap();
        patches.push(series.omit_defences());
        let folder = series::files_after(&patches, &[header]);
        let text = fs::read_to_string(folder.path().join(header)).unwrap();
        let (_, bits) = text.split_once("enum ept_view_defence {").unwrap();
        let (bits, _) = bits.split_once("};").unwrap();
        assert_eq!(bits.matches(" << ").count(), 5, "{bits}");
        let pairs = [
            ("ARM", omit::ARM),
            ("ELSEWHERE", omit::ELSEWHERE),
            ("DISARM", omit::DISARM),
            ("EVENTS", omit::EVENTS),
            ("MODE", omit::MODE),
        ];
        let pairs = pairs.map(|(name, bit)| (format!("EPT_VIEW_DEFENCE_{name}"), bit.into()));
        let program = format!("enum ept_view_defence {{{bits}}};\n");
        compare(&series, folder.path(), &program, &pairs);
    }
}

/// The file is there to be read; the kernel's tree gets it from the patches.
#[test]
fn document_of_the_calls_is_that_of_the_series() {
    let series = series::Series::default_one(root()).unwrap();
    let name = "Documentation/virt/kvm/x86/ept-view.rst";
    let folder = series::added_files(&series, &[name]);
    let added = fs::read_to_string(folder.path().join(name)).unwrap();
    let shown = fs::read_to_string(root().join("kernel-patches/ept-view.rst")).unwrap();
    for (n, (shown, added)) in shown.lines().zip(added.lines()).enumerate() {
        assert_eq!(
            shown,
            added,
            "line {} of kernel-patches/ept-view.rst",
            n + 1
        );
    }
    assert_eq!(shown, added);
}
