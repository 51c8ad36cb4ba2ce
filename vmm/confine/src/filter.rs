//! The table as seccomp filters (Linux: Documentation/userspace-api/seccomp_filter.rst).
//!
//! A filter runs at each call of its thread, and goes through its list from the first entry to the
//! one that decides. But the kernel finds out, when a filter is installed, which calls it allows
//! without a look at their arguments, and runs it for none of these any more (`seccomp_cache_prepare`
//! in kernel/seccomp.c). That leaves ioctl, and what a vCPU calls at each exit, KVM_RUN, is decided
//! before the list.
#![deny(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::process;

use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition,
    SeccompFilter, SeccompRule, TargetArch, sock_filter,
};

use crate::error::Error;
use crate::kind::Kind;
use crate::table::{self, Condition, Rule};

/// The filter of a kind of thread.
pub(crate) fn build(kind: Kind) -> Result<BpfProgram, Error> {
    let list = list(kind).map_err(|source| Error::Filter { kind, source })?;
    let mut program = match kind {
        Kind::Vcpu => kvm_run_first(),
        Kind::Starter => no_clone3(),
        _ => BpfProgram::new(),
    };
    program.extend(list);
    Ok(program)
}

/// Installs a filter for the calling thread, for good.
pub(crate) fn install(kind: Kind, program: &BpfProgram) -> Result<(), Error> {
    seccompiler::apply_filter(program).map_err(|source| Error::Refused { kind, source })
}

fn list(kind: Kind) -> Result<BpfProgram, BackendError> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
    let mut whole = BTreeSet::new();
    for rule in table::groups(kind).iter().copied().flatten() {
        let entry = rules.entry(rule.number).or_default();
        match rule.conditions {
            [] => drop(whole.insert(rule.number)),
            _ => entry.push(conditions(rule)?),
        }
    }
    for number in whole {
        // No rule is no condition.
        rules.insert(number, Vec::new());
    }
    SeccompFilter::new(
        rules,
        SeccompAction::Trap,
        SeccompAction::Allow,
        TargetArch::x86_64,
    )?
    .try_into()
}

fn conditions(rule: &Rule) -> Result<SeccompRule, BackendError> {
    let conditions = rule.conditions.iter().map(|condition| {
        let (argument, operator, value) = match *condition {
            Condition::Is(argument, value) => (argument, SeccompCmpOp::Eq, value),
            Condition::Masked(argument, mask, value) => {
                (argument, SeccompCmpOp::MaskedEq(mask.into()), value)
            }
            Condition::OwnProcess(argument) => (argument, SeccompCmpOp::Eq, process::id()),
        };
        SeccompCondition::new(argument, SeccompCmpArgLen::Dword, operator, value.into())
    });
    SeccompRule::new(conditions.collect::<Result<_, _>>()?)
}

// Classic BPF (linux/bpf_common.h, linux/filter.h), and what it loads (`struct seccomp_data` of
// linux/seccomp.h).
const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
const JUMP_IF_EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
/// Lower half of the second argument.
const REQUEST: u32 = 16 + 8;
const AUDIT_ARCH_X86_64: u32 = 0xc000_003e;

const fn load(offset: u32) -> sock_filter {
    sock_filter {
        code: LOAD,
        jt: 0,
        jf: 0,
        k: offset,
    }
}

/// Goes on if what was loaded is `value`, else skips `other` instructions.
const fn equal(value: u32, other: u8) -> sock_filter {
    sock_filter {
        code: JUMP_IF_EQUAL,
        jt: 0,
        jf: other,
        k: value,
    }
}

const fn end(action: u32) -> sock_filter {
    sock_filter {
        code: RETURN,
        jt: 0,
        jf: 0,
        k: action,
    }
}

/// Allows ioctl(KVM_RUN), and leaves the rest to what follows. The number is looked at first: where
/// arguments are, the kernel remembers nothing.
fn kvm_run_first() -> BpfProgram {
    vec![
        load(NUMBER),
        equal(libc::SYS_ioctl as u32, 5),
        load(REQUEST),
        equal(table::kvm::KVM_RUN, 3),
        load(ARCHITECTURE),
        equal(AUDIT_ARCH_X86_64, 1),
        end(libc::SECCOMP_RET_ALLOW),
    ]
}

/// Says that there is no clone3, whose flags no filter can see: C libraries use clone then.
fn no_clone3() -> BpfProgram {
    vec![
        load(NUMBER),
        equal(libc::SYS_clone3 as u32, 1),
        end(libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32),
    ]
}

#[cfg(test)]
mod tests {
    use libc::c_long;

    use super::*;

    /// What a filter does with a call.
    struct Decision {
        action: u32,
        /// Instructions until it is made.
        steps: usize,
        /// Whether it depends on an argument.
        by_arguments: bool,
    }

    /// Runs a filter as the kernel does (linux/filter.h).
    fn decide(program: &BpfProgram, number: c_long, request: u32) -> Decision {
        const AND: u16 = (libc::BPF_ALU | libc::BPF_AND | libc::BPF_K) as u16;
        const GREATER_OR_EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K) as u16;
        const ALWAYS: u16 = (libc::BPF_JMP | libc::BPF_JA) as u16;
        let (mut at, mut steps, mut accumulator, mut by_arguments) = (0, 0, 0, false);
        loop {
            let sock_filter { code, jt, jf, k } = program[at];
            (at, steps) = (at + 1, steps + 1);
            let jump = |so: bool| usize::from(if so { jt } else { jf });
            match code {
                LOAD => {
                    by_arguments |= k > ARCHITECTURE;
                    accumulator = match k {
                        NUMBER => number as u32,
                        ARCHITECTURE => AUDIT_ARCH_X86_64,
                        REQUEST => request,
                        _ => 0,
                    };
                }
                AND => accumulator &= k,
                JUMP_IF_EQUAL => at += jump(accumulator == k),
                GREATER_OR_EQUAL => at += jump(accumulator >= k),
                ALWAYS => at += k as usize,
                RETURN => {
                    return Decision {
                        action: k,
                        steps,
                        by_arguments,
                    };
                }
                other => panic!("instruction {other:#x}"),
            }
        }
    }

    #[test]
    fn each_kind_has_a_filter_that_the_kernel_takes() {
        for kind in Kind::ALL {
            let program = build(kind).unwrap();
            assert!(program.len() <= 4096, "{kind}: {}", program.len());
        }
    }

    #[test]
    fn the_kernel_can_remember_each_call_that_any_arguments_may_have() {
        for kind in Kind::ALL {
            let program = build(kind).unwrap();
            let rules = table::groups(kind).iter().copied().flatten();
            for rule in rules.filter(|rule| rule.conditions.is_empty()) {
                let found = decide(&program, rule.number, 0);
                assert_eq!(found.action, libc::SECCOMP_RET_ALLOW, "{kind}: {rule:?}");
                assert!(!found.by_arguments, "{kind}: {rule:?}");
            }
        }
    }

    #[test]
    fn what_a_vcpu_calls_at_each_exit_is_decided_first() {
        let program = build(Kind::Vcpu).unwrap();
        let first = decide(&program, libc::SYS_ioctl, table::kvm::KVM_RUN);
        assert_eq!(first.action, libc::SECCOMP_RET_ALLOW);
        assert_eq!(first.steps, kvm_run_first().len());
        let refused = decide(&program, libc::SYS_ioctl, table::kvm::KVM_CREATE_EPT_VIEW);
        assert_eq!(refused.action, libc::SECCOMP_RET_TRAP);
        let refused = decide(&program, libc::SYS_execve, table::kvm::KVM_RUN);
        assert_eq!(refused.action, libc::SECCOMP_RET_TRAP);
    }
}
