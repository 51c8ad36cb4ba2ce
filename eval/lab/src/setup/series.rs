//! The kernel series: patches for one line of Linux kernels, and the packages that they are built
//! with.
//!
//! Each folder of `kernel-patches/series` is one. Its `series.toml` says all that set-up, tests and
//! `kernel-patches/build.sh` need to know about it, so that another kernel is another folder.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

/// Folder of all series, from the top of the checkout.
const FOLDER: &str = "kernel-patches/series";

/// A series, as its `series.toml` describes it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Series {
    /// Beginning of the releases of kernels that it is for, such as `6.1`.
    pub linux: String,
    /// True for the series whose kernel the emulated machine runs.
    #[serde(default)]
    pub default: bool,
    /// Codename of the Debian release that has the packages.
    pub debian: String,
    /// Package with the source of the kernel.
    pub source_package: String,
    /// Version of that package that the patches were made against.
    pub source_version: String,
    /// File of that package: the source, a compressed archive.
    pub source_archive: PathBuf,
    /// Package without content that depends on the newest kernel for virtual machines.
    pub image_package: String,
    /// Package without content that depends on the headers of the newest kernel.
    pub headers_package: String,
    /// Beginning of the name of the package with the programs that building modules takes, on which
    /// the headers depend.
    pub kbuild_package: String,
    /// Names of the patches, one a step of the series, with one `*`; sorted by name, they apply one
    /// after another. What they are applied to, `build.sh` knows alone.
    pub patches: String,
    /// The patch that lets a build leave defences out, for tests of attacks only.
    pub omit_defences: PathBuf,
    /// Path of the folder.
    #[serde(skip)]
    folder: PathBuf,
}

impl Series {
    /// All series, by name.
    ///
    /// # Errors
    ///
    /// A folder without a `series.toml`, or one that cannot be understood.
    pub fn all(root: &Path) -> Result<Vec<Self>> {
        let all = root.join(FOLDER);
        let mut folders: Vec<PathBuf> = fs::read_dir(&all)
            .and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect())
            .with_context(|| format!("reading {}", all.display()))?;
        folders.retain(|path| path.is_dir());
        folders.sort();
        folders.iter().map(|folder| Self::read(folder)).collect()
    }

    /// The series of the emulated machine.
    ///
    /// # Errors
    ///
    /// A folder that describes no series; none or several that are the default.
    pub fn default_one(root: &Path) -> Result<Self> {
        let mut series = Self::all(root)?;
        series.retain(|series| series.default);
        ensure!(
            series.len() == 1,
            "{} series in {FOLDER} say `default = true`, where one should",
            series.len()
        );
        Ok(series.remove(0))
    }

    /// The series with this name.
    ///
    /// # Errors
    ///
    /// There is none; those that there are are named.
    pub fn named(root: &Path, name: &str) -> Result<Self> {
        let all = Self::all(root)?;
        let names: Vec<String> = all.iter().map(Self::name).collect();
        let found = all.into_iter().find(|series| series.name() == name);
        found.with_context(|| format!("there is no series {name}, only {}", names.join(", ")))
    }

    fn read(folder: &Path) -> Result<Self> {
        let file = folder.join("series.toml");
        let text = fs::read_to_string(&file)
            .with_context(|| format!("reading {}, which describes a series", file.display()))?;
        let mut series: Self =
            toml::from_str(&text).with_context(|| format!("reading {}", file.display()))?;
        ensure!(
            series.patches.matches('*').count() == 1,
            "{}: patches = {:?} is no name with one *",
            file.display(),
            series.patches
        );
        folder.clone_into(&mut series.folder);
        Ok(series)
    }

    /// True for the kernels of this release, such as `6.1.0-57-cloud-amd64`.
    pub fn is_for(&self, release: &str) -> bool {
        let rest = release.strip_prefix(&*self.linux);
        rest.is_some_and(|rest| rest.starts_with('.'))
    }

    /// The name of the series: that of its folder.
    pub fn name(&self) -> String {
        let name = self.folder.file_name().unwrap_or_default();
        name.to_string_lossy().into_owned()
    }

    /// The patches, in the order in which they apply.
    ///
    /// # Errors
    ///
    /// There are none.
    pub fn patches(&self) -> Result<Vec<PathBuf>> {
        let (begin, end) = self.patches.split_once('*').unwrap_or((&*self.patches, ""));
        let mut patches: Vec<PathBuf> = fs::read_dir(&self.folder)
            .with_context(|| format!("reading {}", self.folder.display()))?
            .flatten()
            .map(|entry| entry.path())
            .filter(|path| {
                let name = path.file_name().unwrap_or_default().to_string_lossy();
                name.starts_with(begin) && name.ends_with(end)
            })
            .collect();
        patches.sort();
        ensure!(
            !patches.is_empty(),
            "no file in {} is called {}",
            self.folder.display(),
            self.patches
        );
        Ok(patches)
    }

    /// The patch that lets a build leave defences out.
    pub fn omit_defences(&self) -> PathBuf {
        self.folder.join(&self.omit_defences)
    }
}

#[cfg(test)]
mod tests {
    use super::super::checkout::root;
    use super::*;

    #[test]
    fn every_folder_is_a_series_and_one_is_the_default() {
        let all = Series::all(root()).unwrap();
        assert!(!all.is_empty());
        for series in &all {
            let name = series.name();
            assert_eq!(series.linux, name);
            assert!(series.source_package.contains(&name), "{series:?}");
            assert!(series.omit_defences().is_file(), "{series:?}");
            assert!(!series.patches().unwrap().is_empty());
        }
        assert!(all.contains(&Series::default_one(root()).unwrap()));
    }

    #[test]
    fn patches_are_in_order() {
        let folder = tempfile::tempdir().unwrap();
        let mut series = Series::default_one(root()).unwrap();
        folder.path().clone_into(&mut series.folder);
        assert!(
            series
                .patches()
                .unwrap_err()
                .to_string()
                .contains("0*.patch")
        );
        for name in ["0002-b.patch", "0001-a.patch", "x"] {
            fs::write(folder.path().join(name), "").unwrap();
        }
        let names: Vec<_> = series.patches().unwrap();
        let names: Vec<_> = names.iter().map(|path| path.file_name().unwrap()).collect();
        assert_eq!(names, ["0001-a.patch", "0002-b.patch"]);
    }

    #[test]
    fn files_beside_the_folders_are_no_series() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join(FOLDER);
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("README.md"), "").unwrap();
        assert_eq!(Series::all(root.path()).unwrap(), []);
        fs::create_dir(folder.join("6.1")).unwrap();
        assert!(Series::all(root.path()).is_err(), "no series.toml");
    }

    #[test]
    fn names_of_patches_have_one_star() {
        let known = Series::default_one(root()).unwrap().folder;
        let text = fs::read_to_string(known.join("series.toml")).unwrap();
        let folder = tempfile::tempdir().unwrap();
        for (patches, is_good) in [("0*.patch", true), ("0001", false), ("0*.*", false)] {
            let text = text.replace("0*.patch", patches);
            fs::write(folder.path().join("series.toml"), text).unwrap();
            let read = Series::read(folder.path());
            assert_eq!(read.is_ok(), is_good, "{patches}");
        }
    }

    #[test]
    fn an_unknown_word_is_told_with_the_file() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("series.toml"), "linus = '6.1'\n").unwrap();
        let error = format!("{:#}", Series::read(folder.path()).unwrap_err());
        assert!(
            error.contains("series.toml") && error.contains("linus"),
            "{error}"
        );
    }
}
