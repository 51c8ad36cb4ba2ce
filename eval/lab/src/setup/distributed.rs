//! Debian's own kernels for virtual machines, with what modules for them are built with.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::cache::{Cache, Key, Step};
use super::download::Release;
use super::kernel_tree::KernelTree;
use super::progress::{Progress, Task};
use super::series::Series;
use crate::machine::Kernel;

/// Fetches the newest kernel of a series' Debian release, with the headers of exactly that one.
///
/// # Errors
///
/// A sentence that says what failed.
pub fn fetch(cache: &Cache, progress: &Progress, series: &Series) -> Result<KernelTree> {
    let name = series.name();
    let step = Step {
        name: &format!("linux-debian-{name}"),
        title: &format!("Debian's own Linux {name}"),
        about: "half a minute, by network",
        key: Key::new()
            .bytes(series.image_package.as_bytes())
            .bytes(b"for any host"),
        megabytes: 600,
    };
    let directory = cache.step(progress, &step, |directory, task| {
        let release = Release::open(cache, task, &series.debian)?;
        let image = release.dependency(&series.image_package, "linux-image-")?;
        let headers = image.replacen("linux-image-", "linux-headers-", 1);
        let common = headers.replace("-cloud-amd64", "-common");
        let kbuild = release.dependency(&headers, &series.kbuild_package)?;
        for package in [&image, &headers, &common, &kbuild] {
            release.unpack(package, directory)?;
        }
        let version = image.trim_start_matches("linux-image-");
        fs::write(directory.join("version"), version).context("noting the kernel's version")?;
        for module in modules(directory, version) {
            decompress(task, &module)?;
        }
        adapt_headers(&directory.join("usr/src"), &headers, &common)?;
        let programs = directory.join("usr/lib").join(&kbuild);
        adapt_programs(&release, directory, &programs)
    })?;
    let version = fs::read_to_string(directory.join("version")).context("reading a version")?;
    let [irqbypass, kvm, kvm_intel] = modules(&directory, &version);
    let all_modules = all_modules(&directory, &version);
    Ok(KernelTree {
        kernel: Kernel {
            image: directory.join(format!("boot/vmlinuz-{version}")),
            disk_drivers: Vec::new(),
        },
        build: directory.join(format!("usr/src/linux-headers-{version}")),
        irqbypass,
        stock: [kvm, kvm_intel],
        modules: Some(all_modules),
        leaking: None,
    })
}

/// The directory of all modules.
fn all_modules(directory: &Path, version: &str) -> PathBuf {
    // Since Debian 13 packages have nothing in /lib.
    let usr = directory.join("usr/lib/modules").join(version);
    match usr.join("kernel").exists() {
        true => usr,
        false => directory.join("lib/modules").join(version),
    }
}

/// The modules of KVM, in the order of loading.
fn modules(directory: &Path, version: &str) -> [PathBuf; 3] {
    let modules = all_modules(directory, version).join("kernel");
    [
        "virt/lib/irqbypass.ko",
        "arch/x86/kvm/kvm.ko",
        "arch/x86/kvm/kvm-intel.ko",
    ]
    .map(|name| modules.join(name))
}

/// Decompresses a module, unless it lies there as it is loaded.
fn decompress(task: &Task, module: &Path) -> Result<()> {
    if module.exists() {
        return Ok(());
    }
    let compressed = module.with_extension("ko.xz");
    task.run(Command::new("xz").arg("-dk").arg(&compressed))
}

/// Has the headers find each other where they are, and use the compiler that there is.
fn adapt_headers(source: &Path, headers: &str, common: &str) -> Result<()> {
    // They name each other by where they would be installed.
    let makefile = source.join(headers).join("Makefile");
    let include = format!(
        "include {}\n",
        source.join(common).join("Makefile").display()
    );
    fs::write(&makefile, include).context("adapting the kernel's headers")?;
    for (name, change) in [
        // They ask for the compiler of their own release, by its version ...
        (".kernelvariables", without_version as fn(&str) -> String),
        // ... and for what only that one can do.
        ("include/config/auto.conf", without_new_options),
    ] {
        let file = source.join(headers).join(name);
        let text = fs::read_to_string(&file)
            .with_context(|| format!("reading the kernel's {}", file.display()))?;
        let text: String = text.lines().map(|line| change(line) + "\n").collect();
        fs::write(&file, text).with_context(|| format!("adapting {}", file.display()))?;
    }
    Ok(())
}

/// The line with which Debian's headers choose a compiler, changed to choose the default one.
fn without_version(line: &str) -> String {
    match (line.starts_with("CC ="), line.rfind("gcc-")) {
        (true, Some(at)) => line[..at].to_owned() + "gcc",
        _ => line.to_owned(),
    }
}

/// The line of a configuration, or none for what compilers before GCC 14 cannot do; the kernel's
/// Makefiles then use what these can.
fn without_new_options(line: &str) -> String {
    match line.starts_with("CONFIG_CC_HAS_MIN_FUNCTION_ALIGNMENT=") {
        true => String::new(),
        false => line.to_owned(),
    }
}

/// Programs of the kernel's build that are linked with libraries of their own release, in the
/// directory of the package that has them.
const PROGRAMS: [&str; 2] = [
    "scripts/mod/modpost.real-lsb-64",
    "tools/objtool/objtool.real-x86",
];

/// Packages of those libraries.
const LIBRARIES: [&str; 4] = ["libc6", "libelf1", "zlib1g", "libzstd1"];

/// Has the programs of the kernel's build use libraries of their own release where the host's are
/// older.
fn adapt_programs(release: &Release<'_>, directory: &Path, programs: &Path) -> Result<()> {
    let mut foreign = Vec::new();
    for name in PROGRAMS {
        let program = programs.join(name);
        if program.exists() && !runs_here(&program)? {
            foreign.push(program);
        }
    }
    if foreign.is_empty() {
        return Ok(());
    }
    for library in LIBRARIES {
        let kbuild = programs.file_name().unwrap_or_default().to_string_lossy();
        // Releases differ in what they append to these names; not every one names all of them.
        let package = release.dependency(&kbuild, library);
        release.unpack(package.as_deref().unwrap_or(library), directory)?;
    }
    let libraries = directory.join("usr/lib/x86_64-linux-gnu");
    for program in foreign {
        let original = program.with_extension("original");
        fs::rename(&program, &original).context("adapting a program of the kernel's build")?;
        let script = format!(
            "#!/bin/sh\nexec {loader} --library-path {libraries} {program} \"$@\"\n",
            loader = quoted(&libraries.join("ld-linux-x86-64.so.2")),
            libraries = quoted(&libraries),
            program = quoted(&original),
        );
        fs::write(&program, script)
            .and_then(|()| fs::set_permissions(&program, fs::Permissions::from_mode(0o755)))
            .context("adapting a program of the kernel's build")?;
    }
    Ok(())
}

/// True if the host has the libraries that a program is linked with.
fn runs_here(program: &Path) -> Result<bool> {
    let output = Command::new("ldd").arg(program).output();
    let output = output.context("running ldd")?;
    let says = |text: &[u8]| String::from_utf8_lossy(text).contains("not found");
    Ok(!says(&output.stdout) && !says(&output.stderr))
}

/// A path as a word for the shell.
fn quoted(path: &Path) -> String {
    format!("'{}'", path.display().to_string().replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_compilers_version_is_taken_away() {
        let line = "CC = $(if $(X),$(CCACHE)) $(CROSS_COMPILE)gcc-12";
        assert_eq!(
            without_version(line),
            "CC = $(if $(X),$(CCACHE)) $(CROSS_COMPILE)gcc"
        );
        assert_eq!(
            without_version("override ARCH = x86"),
            "override ARCH = x86"
        );
    }

    #[test]
    fn options_of_new_compilers_are_taken_away() {
        assert_eq!(
            without_new_options("CONFIG_CC_HAS_MIN_FUNCTION_ALIGNMENT=y"),
            ""
        );
        assert_eq!(without_new_options("CONFIG_KVM=m"), "CONFIG_KVM=m");
    }

    #[test]
    fn a_program_with_its_libraries_runs() {
        assert!(runs_here(Path::new("/bin/sh")).unwrap());
    }
}
