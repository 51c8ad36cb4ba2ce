//! The checkout that this program was built from.

use std::path::{Path, PathBuf};
use std::sync::LazyLock;

/// The top of the checkout.
pub fn root() -> &'static Path {
    static ROOT: LazyLock<PathBuf> = LazyLock::new(|| {
        let path = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."));
        // A checkout that was moved away gets its message from whoever reads a file of it.
        path.canonicalize().unwrap_or_else(|_| path.to_owned())
    });
    &ROOT
}
