//! What happens where a defence is left out that nothing should get past: these run on the build for
//! tests of attacks only, where they are wanted.

use anyhow::{Result, ensure};

use crate::calls::inside_a_call;
use crate::guest::{Template, WAIT};
use crate::{SETTERS, Test, omits, skip};
use postern_abi::kvm::RIGHT_FAST;

pub const TESTS: &[Test] = &[(
    "a view that is active when it must not be kills the VM",
    active_and_not_armed,
)];

/// State that forbids views comes by an ioctl, which aborts the call that is under way. Where that
/// is left out, KVM finds an active view that it must not arm: it runs the vCPU no more.
fn active_and_not_armed() -> Result<()> {
    if !omits(SETTERS)? {
        return skip("only a module whose setters do not abort comes there");
    }
    let template = Template::sealed(WAIT)?;
    let vm = inside_a_call(&template, RIGHT_FAST)?;
    let mut sregs = vm.vcpu.get_sregs()?;
    // Without SMEP and SMAP.
    sregs.cr4 &= !(3 << 20);
    vm.vcpu.set_sregs(&sregs)?;
    let mut vm = vm;
    for _ in 0..2 {
        let result = vm.vcpu.run().map(|exit| format!("{exit:?}"));
        let errno = result.as_ref().map_or_else(|error| error.errno(), |_| 0);
        ensure!(errno == libc::EIO, "KVM_RUN gives {result:?}");
    }
    Ok(())
}
