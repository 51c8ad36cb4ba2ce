//! Linux guests: a kernel, an initial file system with `postern-guest-init`, and a root file system
//! of Debian packages.
//!
//! | module | what it makes |
//! | --- | --- |
//! | `image` | root file systems of Debian packages |
//! | `initrd` | initial file systems |
//! | `modules` | modules of a kernel that are needed before there is a root file system |

mod image;
mod initrd;
pub(super) mod modules;

use std::path::{Path, PathBuf};

use anyhow::Result;

use super::cache::Cache;
use super::kernel::Flavour;
use super::kernel_tree::KernelTree;
use super::progress::Progress;
use super::series::Series;

/// What a VM boots, as files of this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Guest {
    /// Its kernel, a bzImage.
    pub kernel: PathBuf,
    /// Its initial file system, whose first process is `postern-guest-init`.
    pub initrd: PathBuf,
    /// Its root file system, an image for a disk that is never written to; without one, a guest has
    /// the tools of busybox.
    pub image: Option<PathBuf>,
}

/// What is wanted of a guest.
#[derive(Clone, Copy, Debug)]
pub struct GuestOptions<'a> {
    /// Its kernel: of the series of the set-up.
    pub kernel: Flavour,
    /// Debian packages of its root file system, by name; with none it has no root file system.
    pub packages: &'a [&'a str],
    /// Script that it runs unless the kernel's command line has another one.
    pub program: Option<&'a str>,
}

/// File of a guest's root file system, in the directories that have one.
pub const IMAGE: &str = "root.erofs";

/// Programs of the checkout in a guest's initial file system.
#[derive(Clone, Copy)]
pub(super) struct Built<'a> {
    /// The first process.
    pub init: &'a Path,
    /// The program that sends and receives over the NIC, `/bin/postern-guest-linux`.
    pub traffic: &'a Path,
    /// The program that joins the NIC to an interface, `/bin/postern-bridge`.
    pub bridge: &'a Path,
}

/// Makes a guest of a series, with a kernel that is there and programs that are built.
///
/// # Errors
///
/// A sentence that says what failed.
pub(super) fn make(
    cache: &Cache,
    progress: &Progress,
    series: &Series,
    options: &GuestOptions<'_>,
    (tree, built): (KernelTree, Built<'_>),
) -> Result<Guest> {
    let image = match options.packages {
        [] => None,
        packages => Some(image::make(cache, progress, series, packages)?),
    };
    let contents = initrd::Contents {
        built,
        program: options.program,
        modules: tree.modules.as_deref(),
    };
    let initrd = initrd::make(cache, progress, series, &contents)?;
    Ok(Guest {
        kernel: tree.kernel.image,
        initrd,
        image,
    })
}
