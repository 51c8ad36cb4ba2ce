//! What the process gives up once all is open.

use std::ffi::CString;
use std::io;

use anyhow::{Context, Result, bail};

/// A user to run as.
#[derive(Debug)]
pub struct User {
    uid: libc::uid_t,
    gid: libc::gid_t,
}

impl User {
    /// The user of this name (`/etc/passwd`).
    ///
    /// # Errors
    ///
    /// There is none.
    pub fn find(name: &str) -> Result<User> {
        let c_name = CString::new(name).context("the name of a user has no zero byte")?;
        // SAFETY: the name is a string that ends in zero. No other thread looks for users.
        let found = unsafe { libc::getpwnam(c_name.as_ptr()) };
        if found.is_null() {
            bail!("there is no user {name}: --user names one of /etc/passwd");
        }
        // SAFETY: it is not null, and is valid until the next such call.
        let (uid, gid) = unsafe { ((*found).pw_uid, (*found).pw_gid) };
        Ok(User { uid, gid })
    }
}

/// Becomes the user, if there is one, and gives up all capabilities and the chance to get any, for the
/// calling thread and those that it starts. Rights that are tied to open files and to the thread (I/O
/// ports) stay.
///
/// # Errors
///
/// The kernel's refusal.
pub fn drop_all(user: Option<&User>) -> Result<()> {
    const LAST: libc::c_ulong = 63;
    for capability in 0..=LAST {
        // SAFETY: the calls read numbers alone. A capability that the kernel does not know, or that may
        // not be dropped, is one that the sets below lack anyway.
        unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) };
    }
    if let Some(user) = user {
        // SAFETY: an empty list of groups, and numbers.
        let changed = unsafe {
            libc::setgroups(0, std::ptr::null()) == 0
                && libc::setgid(user.gid) == 0
                && libc::setuid(user.uid) == 0
        };
        if !changed {
            return Err(io::Error::last_os_error()).context("becoming the user that --user names");
        }
    }
    rustix::thread::set_no_new_privs(true).context("giving up new privileges")?;
    let none = rustix::thread::CapabilitySets {
        effective: rustix::thread::CapabilitySet::empty(),
        permitted: rustix::thread::CapabilitySet::empty(),
        inheritable: rustix::thread::CapabilitySet::empty(),
    };
    rustix::thread::set_capabilities(None, none).context("giving up capabilities")
}
