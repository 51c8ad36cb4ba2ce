//! `cargo machine guest`: Linux guests of Debian packages.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Args;
use postern_lab::setup::guest::IMAGE;
use postern_lab::setup::{self, Flavour, Guest, GuestOptions, Series, Setup};

/// Arguments of `cargo machine guest`.
#[derive(Args)]
pub struct GuestArgs {
    /// Debian packages of its root file system; without them it has the tools of busybox alone
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    packages: Vec<String>,

    /// Release of Debian, with its kernel: bookworm (12, Linux 6.1) or trixie (13, Linux 6.12).
    /// Without it, that of --series
    #[arg(long, value_name = "CODENAME", value_parser = parse_release)]
    release: Option<Series>,

    /// Its kernel: Debian's own for virtual machines, or the small one
    #[arg(long, value_enum, default_value = "debian")]
    kernel: Flavour,

    /// Script that it runs, unless the kernel's command line says postern.run="..."
    #[arg(long, value_name = "SCRIPT")]
    program: Option<String>,

    /// Directory for the files kernel, initrd and root.erofs; without it they stay in the cache
    #[arg(long, value_name = "DIRECTORY")]
    out: Option<PathBuf>,
}

/// Makes a guest and says how to boot it.
pub fn guest(series: &Series, arguments: &GuestArgs) -> Result<ExitCode> {
    let series = arguments.release.as_ref().unwrap_or(series);
    let packages: Vec<&str> = arguments.packages.iter().map(String::as_str).collect();
    let made = Setup::of(series)?.guest(&GuestOptions {
        kernel: arguments.kernel,
        packages: &packages,
        program: arguments.program.as_deref(),
    })?;
    let made = match &arguments.out {
        Some(directory) => copy(&made, directory)?,
        None => made,
    };
    let disk = made.image.as_ref().map(|image| {
        format!(
            " \\\n    --disk path={},readonly --cmdline 'console=ttyS0 root=/dev/vda'",
            image.display()
        )
    });
    println!(
        "postern run --kernel {} \\\n    --initrd {} --memory 256M --serial -{}",
        made.kernel.display(),
        made.initrd.display(),
        disk.unwrap_or_else(|| " --cmdline console=ttyS0".to_owned())
    );
    Ok(ExitCode::SUCCESS)
}

fn copy(made: &Guest, directory: &Path) -> Result<Guest> {
    fs::create_dir_all(directory).with_context(|| format!("making {}", directory.display()))?;
    let copy = |from: &Path, name: &str| {
        let to = directory.join(name);
        fs::copy(from, &to).with_context(|| format!("writing {}", to.display()))?;
        anyhow::Ok(to)
    };
    Ok(Guest {
        kernel: copy(&made.kernel, "kernel")?,
        initrd: copy(&made.initrd, "initrd")?,
        image: match &made.image {
            Some(image) => Some(copy(image, IMAGE)?),
            None => None,
        },
    })
}

fn parse_release(codename: &str) -> Result<Series> {
    let all = Series::all(setup::root())?;
    let names: Vec<&str> = all.iter().map(|series| &*series.debian).collect();
    let names = names.join(" or ");
    let found = all.into_iter().find(|series| series.debian == codename);
    found.with_context(|| format!("there is no kernel for Debian {codename}, only for {names}"))
}
