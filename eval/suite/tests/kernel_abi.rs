//! Numbers of the kernel series against those in Rust: every number and every offset of
//! `kvm_ept_view.h` against `postern_abi`, where the stub returns to the gate, and the bits of the
//! build for tests of attacks. And whether the document of its calls has them all.

#![allow(clippy::unwrap_used, reason = "a test fails by a panic")]

mod series;

use std::fmt::Write;
use std::fs;
use std::mem::{offset_of, size_of};
use std::path::Path;

use postern_abi::{kvm, service, view};
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
        KVM_CAP_EPT_VIEW_BELLS = kvm::KVM_CAP_EPT_VIEW_BELLS;
        KVM_EXIT_EPT_VIEW = kvm::KVM_EXIT_EPT_VIEW;
        KVM_EPT_VIEW_SLOTS = view::SLOTS;
        KVM_EPT_VIEW_GATE_GVA = view::GATE_GVA;
        KVM_EPT_VIEW_LIST_GVA = view::LIST_GVA;
        KVM_EPT_VIEW_STACK_GVA = view::STACK_GVA;
        KVM_EPT_VIEW_STACK_SIZE = view::STACK_SIZE;
        KVM_EPT_VIEW_CALL_GVA = view::CALL_PAGE_GVA;
        KVM_EPT_VIEW_MAP_GVA = view::IMAGE_GVA;
        KVM_EPT_VIEW_MAP_GVA_END = view::MAP_GVA_END;
        KVM_EPT_VIEW_GPA = view::RESERVED_GPA;
        KVM_EPT_VIEW_GPA_SIZE = view::RESERVED_GPA_SIZE;
        KVM_EPT_VIEW_INDEX_DEFAULT = view::DEFAULT_INDEX;
        KVM_EPT_VIEW_READ = kvm::VIEW_READ;
        KVM_EPT_VIEW_WRITE = kvm::VIEW_WRITE;
        KVM_EPT_VIEW_EXEC = kvm::VIEW_EXEC;
        KVM_EPT_VIEW_RIGHT_FAST = kvm::RIGHT_FAST;
        KVM_EPT_VIEW_RIGHT_STRICT = kvm::RIGHT_STRICT;
        KVM_EPT_VIEW_RIGHT_HYPERCALL = kvm::RIGHT_HYPERCALL;
        KVM_EPT_VIEW_MAX_MEMBERS = kvm::MAX_MEMBERS;
        KVM_EPT_VIEW_MAX_BELLS = kvm::MAX_BELLS;
        KVM_EPT_VIEW_EXIT_ON_ABORT = kvm::ATTACH_EXIT_ON_ABORT;
        KVM_EPT_VIEW_ABORT_IOCTL = kvm::ABORT_BY_IOCTL;
        KVM_EPT_VIEW_ABORT_INIT = kvm::ABORT_BY_INIT;
        KVM_EPT_VIEW_ABORT_REVOKE = kvm::ABORT_BY_REVOKE;
        KVM_EPT_VIEW_ABORT_DETACH = kvm::ABORT_BY_DETACH;
        KVM_EPT_VIEW_IO = kvm::KVMIO;
    }
    let indices = "((unsigned int[])KVM_EPT_VIEW_INDICES_SERVICE)";
    pairs.push((format!("sizeof{indices} / sizeof(int)"), view::SLOTS.into()));
    for (slot, index) in (0..).zip(view::SERVICE_INDICES) {
        pairs.push((format!("{indices}[{slot}]"), index.into()));
        pairs.push((
            format!("KVM_EPT_VIEW_INDEX_GATE({slot})"),
            view::gate_index(slot).into(),
        ));
        pairs.push((format!("KVM_EPT_VIEW_HC({slot})"), service::hypercall(slot)));
    }
    macro_rules! ioctls {
        ($($c:ident = $number:ident, $argument:ident;)*) => { $(
            pairs.push((format!("_IOC_NR({})", stringify!($c)), kvm::$number.into()));
            pairs.push((
                format!("_IOC_SIZE({})", stringify!($c)),
                size_of::<kvm::$argument>() as u64,
            ));
            pairs.push((format!("_IOC_TYPE({})", stringify!($c)), kvm::KVMIO.into()));
        )* };
    }
    ioctls! {
        KVM_CREATE_EPT_VIEW = KVM_CREATE_EPT_VIEW_NR, CreateEptView;
        KVM_EPT_VIEW_MAP = KVM_EPT_VIEW_MAP_NR, EptViewMap;
        KVM_EPT_VIEW_SEAL = KVM_EPT_VIEW_SEAL_NR, EptViewSeal;
        KVM_ATTACH_EPT_VIEW = KVM_ATTACH_EPT_VIEW_NR, AttachEptView;
        KVM_DETACH_EPT_VIEW = KVM_DETACH_EPT_VIEW_NR, DetachEptView;
        KVM_GET_EPT_VIEW_STATS = KVM_GET_EPT_VIEW_STATS_NR, EptViewStats;
        KVM_EPT_VIEW_GRANT = KVM_EPT_VIEW_GRANT_NR, EptViewGrant;
        KVM_EPT_VIEW_REVOKE = KVM_EPT_VIEW_REVOKE_NR, EptViewRevoke;
        KVM_GET_EPT_VIEW_INFO = KVM_GET_EPT_VIEW_INFO_NR, EptViewInfo;
        KVM_EPT_VIEW_BELLS = KVM_EPT_VIEW_BELLS_NR, EptViewBells;
    }
    structure!(
        kvm_ept_view_call,
        view::CallPage,
        saved_rsp,
        member,
        note,
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
        kvm_ept_view_bells,
        kvm::EptViewBells,
        fds,
        bells,
        flags,
        reserved
    );
    structure!(
        kvm_ept_view_seal,
        kvm::EptViewSeal,
        rights,
        flags,
        entry_gva,
        data_gva,
        data_size,
        reserved
    );
    structure!(
        kvm_ept_view_grant,
        kvm::EptViewGrant,
        id,
        rights,
        members,
        caller,
        flags,
        reserved
    );
    structure!(kvm_ept_view_revoke, kvm::EptViewRevoke, id, flags, reserved);
    structure!(
        kvm_ept_view_info,
        kvm::EptViewInfo,
        pinned_bytes,
        kernel_bytes,
        attachment_bytes,
        bytes_in_2m,
        grants,
        attachments,
        reserved
    );
    structure!(
        kvm_attach_ept_view,
        kvm::AttachEptView,
        grant_fd,
        slot,
        member,
        right,
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
        slot,
        flags,
        aborts,
        deferred_leaves,
        exits_in_view,
        hypercalls,
        revoked,
        armed,
        bells,
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

/// Path of the header in the kernel's tree.
const HEADER: &str = "include/uapi/linux/kvm_ept_view.h";

#[test]
fn header_and_crate_agree() {
    for series in series::all() {
        let folder = series::added_files(&series, &[HEADER]);
        let program = "#include <stddef.h>\n#include <linux/kvm_ept_view.h>\n";
        compare(&series, folder.path(), program, &pairs());
    }
}

/// What a header defines: the names of macros with a value, and the fields of structures.
fn defined(text: &str) -> Vec<String> {
    let mut names = Vec::new();
    let mut structure = "";
    for line in text.lines() {
        let words: Vec<&str> = line
            .split([' ', '\t', '('])
            .filter(|w| !w.is_empty())
            .collect();
        match words[..] {
            ["#define", name, _, ..] => names.push(name.to_owned()),
            ["struct", name, "{"] => structure = name,
            [kind, field] if kind.starts_with("__") => {
                let field = field.trim_end_matches([']', ';']).split('[').next();
                names.push(format!("struct {structure}, {}", field.unwrap()));
            }
            _ => {}
        }
    }
    names
}

/// Whether a text has a name, and not merely as the beginning of a longer one.
fn has_name(text: &str, name: &str) -> bool {
    text.match_indices(name).any(|(at, _)| {
        !text[at + name.len()..].starts_with(|c: char| c == '_' || c.is_alphanumeric())
    })
}

/// Nothing in the header is left out of the comparison.
#[test]
fn comparison_has_all_of_the_header() {
    let compared: Vec<String> = pairs().into_iter().map(|(c, _)| c).collect();
    for series in series::all() {
        let folder = series::added_files(&series, &[HEADER]);
        let defined = defined(&fs::read_to_string(folder.path().join(HEADER)).unwrap());
        assert!(defined.len() > 80, "{defined:?}");
        for name in defined {
            let is_compared = compared.iter().any(|c| has_name(c, &name));
            assert!(is_compared, "{name} of {HEADER} is not compared");
        }
    }
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

/// The bit of a result that the module looks at is that of the switch, and the highest of a result.
#[test]
fn the_module_knows_of_bells_by_the_bit_of_the_switch() {
    const { assert!(service::TX_BELL > service::TX_MORE && service::TX_BELL < service::ERR_NO_SECRET) };
    for series in series::all() {
        let header = "arch/x86/kvm/vmx/ept_view.h";
        let folder = series::added_files(&series, &[header]);
        let text = fs::read_to_string(folder.path().join(header)).unwrap();
        let (_, rest) = text.split_once("#define EPT_VIEW_RESULT_BELLS").unwrap();
        let (function, _) = rest.split_once("u64 postern_nic_size").unwrap();
        let program = format!(
            "#include <stdbool.h>\ntypedef unsigned long long u64;\n\
             #define BIT_ULL(bit) (1ULL << (bit))\n\
             #define EPT_VIEW_RESULT_BELLS{function}"
        );
        let mut pairs = vec![("EPT_VIEW_RESULT_BELLS".to_owned(), service::TX_BELL)];
        for (result, has) in [
            (0, false),
            (256, false),
            (service::TX_MORE | 1, false),
            (service::TX_BELL, true),
            (service::TX_BELL | service::TX_MORE | 256, true),
            (2 * service::TX_BELL - 1, true),
            (2 * service::TX_BELL, false),
            (3 * service::TX_BELL, false),
            (service::ERR_NO_SECRET, false),
            (service::ERR_BAD_REQUEST, false),
        ] {
            let expression = format!("ept_view_result_has_bells({result}ULL)");
            pairs.push((expression, u64::from(has)));
        }
        compare(&series, folder.path(), &program, &pairs);
    }
}

#[test]
fn bits_of_omitted_defences_agree() {
    for series in series::all() {
        let header = "arch/x86/kvm/vmx/ept_view.h";
        let folder = series::files_after(&series, &[series.omit_defences()], &[header]);
        let text = fs::read_to_string(folder.path().join(header)).unwrap();
        let (_, bits) = text.split_once("enum ept_view_defence {").unwrap();
        let (bits, _) = bits.split_once("};").unwrap();
        let pairs = [
            ("ARM", omit::ARM),
            ("ELSEWHERE", omit::ELSEWHERE),
            ("DISARM", omit::DISARM),
            ("EVENTS", omit::EVENTS),
            ("MODE", omit::MODE),
            ("DEBUG", omit::DEBUG),
            ("RSP", omit::RSP),
            ("SETTERS", omit::SETTERS),
            ("REVOKE", omit::REVOKE),
            ("MEMBER", omit::MEMBER),
            ("PMU", omit::PMU),
            ("CPL", omit::CPL),
            ("VECTORS", omit::VECTORS),
            ("CLD", omit::CLD),
        ];
        assert_eq!(bits.matches(" << ").count(), pairs.len(), "{bits}");
        let pairs = pairs.map(|(name, bit)| (format!("EPT_VIEW_DEFENCE_{name}"), bit.into()));
        let program = format!("enum ept_view_defence {{{bits}}};\n");
        compare(&series, folder.path(), &program, &pairs);
    }
}

#[test]
fn document_has_all_calls_and_rights() {
    let document = "Documentation/virt/kvm/x86/ept-view.rst";
    for series in series::all() {
        let folder = series::added_files(&series, &[HEADER, document]);
        let read = |name: &str| fs::read_to_string(folder.path().join(name)).unwrap();
        let text = read(document);
        let header = read(HEADER);
        let calls = header.lines().filter(|line| line.contains("\t_IO"));
        let rights = header.lines().filter(|line| line.contains("_RIGHT_"));
        let defined = defined(&calls.chain(rights).collect::<Vec<_>>().join("\n"));
        assert!(defined.len() >= 10 + 3, "{defined:?}");
        for name in defined {
            assert!(
                has_name(&text, &name),
                "{document} of series {} says nothing of {name}",
                series.name()
            );
        }
    }
}
