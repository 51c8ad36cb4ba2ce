use super::*;

#[allow(unsafe_code, reason = "too large for a stack")]
fn off() -> Box<Acl> {
    // SAFETY: a list is made of atomic integers, for which all zero is valid.
    unsafe { Box::<Acl>::new_zeroed().assume_init() }
}

#[test]
fn noise_in_a_list_does_no_harm() {
    let acl = off();
    acl.generation.store(u64::MAX, Relaxed);
    for bank in &acl.banks {
        bank.header.store(u64::MAX, Relaxed);
        for rule in &bank.rules {
            rule.store(&[0xffff_ffff_ffff_ff00; RULE_WORDS]);
        }
    }
    let headers = Headers {
        ethertype: 0x800,
        ip_version: 4,
        ..Headers::default()
    };
    assert_eq!(acl.verdict(&headers, Direction::Ingress), Verdict::Deny);
    assert_eq!(acl.hits().count(), MAX_RULES);
}
