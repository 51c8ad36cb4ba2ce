//! `cargo machine guest`: Linux guests of Debian packages.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Args;
use postern_lab::setup::guest::IMAGE;
use postern_lab::setup::{self, Flavour, Guest, GuestOptions, Series, Setup};
use postern_lab::topology_files::quoted;

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
    print!("{}", how_to_boot(&made, arguments.program.is_some()));
    Ok(ExitCode::SUCCESS)
}

/// The commands that boot a guest: on a host with KVM, and in the machine.
fn how_to_boot(made: &Guest, has_program: bool) -> String {
    let boot = |kernel: &Path, initrd: &Path, image: Option<&Path>, script: &str| {
        let (disk, root) = match image {
            Some(image) => (
                format!(" --disk path={},readonly", image.display()),
                " root=/dev/vda",
            ),
            None => (String::new(), ""),
        };
        format!(
            "postern run --kernel {} \\\n    --initrd {} --memory 256M --serial -{disk} \\\n    \
             --cmdline 'console=ttyS0{root}{script}'\n",
            kernel.display(),
            initrd.display(),
        )
    };
    // A shell on the console has nobody who types there.
    let script = match has_program {
        true => "",
        false => " postern.run=\"uname -a\"",
    };
    let image = made.image.as_deref();
    let in_machine = Path::new("/root").join(IMAGE);
    let mut files = vec![
        ("/root/kernel", &*made.kernel),
        ("/root/initrd", &*made.initrd),
    ];
    let in_machine_image = image.map(|_| &*in_machine);
    let name = in_machine.to_string_lossy();
    files.extend(image.map(|image| (&*name, image)));
    let files: String = files
        .iter()
        .map(|(to, from)| {
            format!(
                " \\\n    --file {}",
                quoted(&format!("{to}={}", from.display()))
            )
        })
        .collect();
    format!(
        "on a host with KVM:\n{}in the emulated machine:\ncargo machine run{files} \\\n    -- {}",
        boot(&made.kernel, &made.initrd, image, ""),
        boot(
            Path::new("/root/kernel"),
            Path::new("/root/initrd"),
            in_machine_image,
            script
        )
    )
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_commands_are_told() {
        let mut made = Guest {
            kernel: "out/kernel".into(),
            initrd: "out/initrd".into(),
            image: Some("out/root.erofs".into()),
        };
        let told = how_to_boot(&made, false);
        for part in [
            "\npostern run --kernel out/kernel \\\n    --initrd out/initrd ",
            " --disk path=out/root.erofs,readonly \\\n    --cmdline 'console=ttyS0 root=/dev/vda'\n",
            "\ncargo machine run \\\n    --file '/root/kernel=out/kernel' \\\n",
            " \\\n    -- postern run --kernel /root/kernel \\\n    --initrd /root/initrd ",
            " --disk path=/root/root.erofs,readonly ",
            "'console=ttyS0 root=/dev/vda postern.run=\"uname -a\"'\n",
        ] {
            assert!(told.contains(part), "{part} is not in\n{told}");
        }
        made.image = None;
        let told = how_to_boot(&made, true);
        assert!(
            !told.contains("--disk") && !told.contains("postern.run"),
            "{told}"
        );
        assert!(told.ends_with("--cmdline 'console=ttyS0'\n"), "{told}");
    }
}
