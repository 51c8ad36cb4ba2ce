//! The kernels that there are patch series for.
#![deny(unsafe_code)]

/// A patch series.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Series {
    /// The line of Linux that it is for, such as `6.1`.
    pub linux: &'static str,
    /// The Debian version of the sources that it was made against.
    pub base: &'static str,
    /// The Debian release that this line is of.
    pub debian: &'static str,
}

/// All series, as `kernel-patches/series` had them when this was built.
pub const SERIES: &[Series] = include!(concat!(env!("OUT_DIR"), "/series.rs"));

/// The line of Linux that a release is of: `6.1` of `6.1.0-30-amd64`.
pub fn line(release: &str) -> Option<String> {
    let mut numbers = release.split(['.', '-']);
    let [major, minor] = [numbers.next()?, numbers.next()?];
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    (is_number(major) && is_number(minor)).then(|| format!("{major}.{minor}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_releases() {
        for (release, expected) in [
            ("6.1.0-30-amd64", Some("6.1")),
            ("6.12.48+deb13-cloud-amd64", Some("6.12")),
            ("6.1", Some("6.1")),
            ("6.1-rc1", Some("6.1")),
            ("6", None),
            ("", None),
            ("linux.next", None),
        ] {
            assert_eq!(line(release).as_deref(), expected, "{release}");
        }
    }

    #[test]
    fn each_series_is_for_a_line_and_made_of_it() {
        assert!(!SERIES.is_empty());
        for series in SERIES {
            assert_eq!(line(series.linux).as_deref(), Some(series.linux));
            assert_eq!(line(series.base).as_deref(), Some(series.linux));
            assert!(!series.debian.is_empty());
        }
    }
}
