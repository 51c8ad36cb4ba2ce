//! Files from Debian's archive, by its own tools.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use sha2::{Digest, Sha256};

use super::cache::{Cache, hex};
use super::progress::Task;

/// A mirror of Debian's archive; `POSTERN_MIRROR` names another one.
fn mirror() -> String {
    let own = std::env::var("POSTERN_MIRROR")
        .ok()
        .filter(|url| !url.is_empty());
    own.unwrap_or_else(|| "http://deb.debian.org/debian".to_owned())
        .trim_end_matches('/')
        .to_owned()
}

/// Fetches a file of the archive, unless it was fetched before, and compares its hash.
///
/// # Errors
///
/// A sentence that names the file and says what to do.
pub fn pinned(cache: &Cache, task: &Task, path: &str, sha256: &str) -> Result<PathBuf> {
    let name = path.rsplit('/').next().unwrap_or(path);
    let file = cache.path("download").join(name);
    if file.exists() && hash(&file)? == sha256 {
        return Ok(file);
    }
    fs::create_dir_all(cache.path("download")).context("making a directory for downloads")?;
    // Its own directory, whoever else fetches the same file; the program takes what is there
    // already for the beginning of the file.
    let directory = tempfile::tempdir_in(cache.path("download"))
        .context("making a directory for a download")?;
    let part = directory.path().join(name);
    let url = format!("{}/{path}", mirror());
    task.show_line(&format!("fetching {url}"));
    task.run(
        Command::new("/usr/lib/apt/apt-helper")
            // As this user, who alone may write there.
            .args(["-o", "APT::Sandbox::User=", "download-file", &url])
            .arg(&part),
    )?;
    let found = hash(&part)?;
    ensure!(
        found == sha256,
        "{url} is not the file that was expected (its SHA-256 is {found}, not {sha256}); \
         POSTERN_MIRROR names another mirror"
    );
    fs::rename(&part, &file).context("keeping a download")?;
    Ok(file)
}

/// Packages of a Debian release, whatever the host's release is, without installing them.
#[derive(Debug)]
pub struct Release<'a> {
    cache: &'a Cache,
    task: &'a Task,
    root: PathBuf,
    options: Vec<String>,
}

impl<'a> Release<'a> {
    /// Reads the lists of packages of a release, and those of its security updates.
    ///
    /// # Errors
    ///
    /// A sentence that says what to do.
    pub fn open(cache: &'a Cache, task: &'a Task, codename: &str) -> Result<Self> {
        let root = cache.path("apt").join(codename);
        for directory in ["lists/partial", "archives/partial"] {
            fs::create_dir_all(root.join(directory)).context("making directories for apt")?;
        }
        let sources = root.join("sources.list");
        let mirror = mirror();
        let keyring = "[signed-by=/usr/share/keyrings/debian-archive-keyring.gpg]";
        let list = format!(
            "deb {keyring} {mirror} {codename} main\n\
             deb {keyring} {mirror}-security {codename}-security main\n"
        );
        fs::write(&sources, list).context("writing a configuration for apt")?;
        let options = [
            format!("Dir::Etc::sourcelist={}", sources.display()),
            "Dir::Etc::sourceparts=-".to_owned(),
            format!("Dir::State::lists={}", root.join("lists").display()),
            format!("Dir::Cache={}", root.display()),
            "APT::Architecture=amd64".to_owned(),
            "APT::Sandbox::User=".to_owned(),
            "Acquire::Languages=none".to_owned(),
            // A list that cannot be fetched is an error, not a warning.
            "APT::Update::Error-Mode=any".to_owned(),
            "Debug::NoLocking=true".to_owned(),
        ];
        let options = options
            .into_iter()
            .flat_map(|option| ["-o".to_owned(), option])
            .collect();
        let release = Self {
            cache,
            task,
            root,
            options,
        };
        task.show_line(&format!("reading the package lists of Debian {codename}"));
        task.run(release.apt("apt-get").args(["-q", "update"]))?;
        Ok(release)
    }

    /// The list of where its packages are, for programs like apt.
    pub fn sources(&self) -> PathBuf {
        self.root.join("sources.list")
    }

    fn apt(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.args(&self.options);
        command
    }

    /// The package that a package without content stands for: its first dependency that begins with
    /// `prefix`.
    ///
    /// # Errors
    ///
    /// A sentence that names both.
    pub fn dependency(&self, package: &str, prefix: &str) -> Result<String> {
        let output = self.apt("apt-cache").args(["depends", package]).output();
        let output = output.context("running apt-cache")?;
        let text = String::from_utf8_lossy(&output.stdout);
        let names = text
            .lines()
            .filter_map(|line| line.trim().strip_prefix("Depends: "));
        match names.map(str::trim).find(|name| name.starts_with(prefix)) {
            Some(name) => Ok(name.to_owned()),
            None => bail!("Debian's package {package} depends on no {prefix}* as it used to"),
        }
    }

    /// Makes sure that there are packages of these names.
    ///
    /// # Errors
    ///
    /// A sentence that names those that there are not.
    pub fn check(&self, packages: &[&str]) -> Result<()> {
        let mut missing = Vec::new();
        for package in packages {
            let output = self.apt("apt-cache").args(["show", package]).output();
            if !output.context("running apt-cache")?.status.success() {
                missing.push(*package);
            }
        }
        ensure!(
            missing.is_empty(),
            "Debian {} has no package {}; `apt-cache search WORD` finds names",
            self.name(),
            missing.join(" and no package ")
        );
        Ok(())
    }

    /// Codename of the release.
    fn name(&self) -> std::borrow::Cow<'_, str> {
        self.root.file_name().unwrap_or_default().to_string_lossy()
    }

    /// Fetches a package and unpacks it into a directory.
    ///
    /// # Errors
    ///
    /// A sentence that names the package.
    pub fn unpack(&self, package: &str, into: &Path) -> Result<()> {
        let downloads = self.cache.path("download");
        fs::create_dir_all(&downloads).context("making a directory for downloads")?;
        let output = self
            .apt("apt-get")
            .args(["download", "--print-uris", package])
            .output();
        let output = output.context("running apt-get")?;
        let text = String::from_utf8_lossy(&output.stdout);
        // 'URI' file size hash
        let Some(name) = text
            .lines()
            .next_back()
            .and_then(|line| line.split_whitespace().nth(1))
        else {
            bail!(
                "Debian has no package {package}: {}",
                String::from_utf8_lossy(&output.stderr).trim()
            );
        };
        let file = downloads.join(name);
        if !file.exists() {
            self.task.show_line(&format!("fetching {name}"));
            self.task.run(
                self.apt("apt-get")
                    .args(["-q", "download", package])
                    .current_dir(&downloads),
            )?;
        }
        fs::create_dir_all(into).with_context(|| format!("making {}", into.display()))?;
        self.task
            .run(Command::new("dpkg-deb").arg("-x").args([&file, into]))
    }

    /// Fetches a package and all that it depends on, whatever the host has of it, and unpacks them
    /// into a directory.
    ///
    /// # Errors
    ///
    /// A sentence that names the package.
    pub fn unpack_with_dependencies(&self, package: &str, into: &Path) -> Result<()> {
        let archives = into.join("archives");
        fs::create_dir_all(&archives).with_context(|| format!("making {}", into.display()))?;
        // Where nothing is installed, a package depends on all that it depends on.
        let nothing = archives.join("status");
        fs::write(&nothing, "").context("writing a list of no packages")?;
        let nothing = format!("Dir::State::status={}", nothing.display());
        let output = self
            .apt("apt-get")
            .args(["-o", &nothing, "-q", "-y", "--no-install-recommends"])
            .args(["install", "--print-uris", package])
            .output();
        let output = output.context("running apt-get")?;
        let text = String::from_utf8_lossy(&output.stdout);
        let packages: Vec<&str> = text.lines().filter_map(package_of_uri).collect();
        if packages.is_empty() {
            bail!(
                "Debian has no package {package}: {}",
                String::from_utf8_lossy(&output.stderr).trim()
            );
        }
        self.task.show_line(&format!(
            "fetching {package} and what it depends on, {} packages",
            packages.len()
        ));
        self.task.run(
            self.apt("apt-get")
                .args(["-q", "download"])
                .args(packages)
                .current_dir(&archives),
        )?;
        let files = fs::read_dir(&archives).context("reading what was fetched")?;
        for file in files {
            let file = file.context("reading what was fetched")?.path();
            if file.extension().is_some_and(|extension| extension == "deb") {
                self.task
                    .run(Command::new("dpkg-deb").arg("-x").args([&*file, into]))?;
            }
        }
        fs::remove_dir_all(&archives).context("removing what was unpacked")
    }
}

/// The package in a line that `apt-get --print-uris` prints: `'URI' NAME_VERSION_ARCH.deb SIZE ...`.
fn package_of_uri(line: &str) -> Option<&str> {
    let file = line.strip_prefix('\'')?.split_whitespace().nth(1)?;
    Some(file.split_once('_')?.0)
}

fn hash(path: &Path) -> Result<String> {
    let fail = || format!("reading {}", path.display());
    let mut file = File::open(path).with_context(fail)?;
    let mut hasher = Sha256::new();
    io::copy(&mut file, &mut hasher).with_context(fail)?;
    Ok(hex(&hasher.finalize()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_are_found_among_what_apt_prints() {
        let line = "'http://deb.debian.org/x/libaio1_0.3.113-4_amd64.deb' libaio1_0.3.113-4_amd64.deb \
                    13360 MD5Sum:0";
        assert_eq!(package_of_uri(line), Some("libaio1"));
        assert_eq!(package_of_uri("Reading package lists..."), None);
    }
}
