//! The subcommands of `cargo lab`.

pub mod guest;
pub mod machine;
pub mod timeout;
pub mod up;

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use postern_lab::setup::cache::Cache;
use postern_lab::setup::progress::Progress;
use postern_lab::setup::usage::{self, Usage};
use postern_lab::setup::{Flavour, Series, Setup};
use postern_lab::testbed::EmulatedTestbed;

/// Makes everything, for these series.
pub fn setup(all: &[Series]) -> Result<ExitCode> {
    let start = std::time::Instant::now();
    for series in all {
        EmulatedTestbed::prepare(series, Flavour::Small)?;
        Setup::of(series)?.kernel(Flavour::Debian)?;
    }
    let cache = Cache::open()?;
    println!(
        "all is ready (checked in {:.1} s); {} in {}",
        start.elapsed().as_secs_f64(),
        megabytes(total(&usage::usage(&cache)?)),
        cache.path("").display()
    );
    Ok(ExitCode::SUCCESS)
}

/// Shows what the cache takes.
pub fn cache() -> Result<ExitCode> {
    let cache = Cache::open()?;
    let parts = usage::usage(&cache)?;
    for part in &parts {
        let name = part.path.file_name().unwrap_or_default().to_string_lossy();
        println!("{:>10}  {name}", megabytes(part.bytes));
    }
    let directory = cache.path("");
    println!("{:>10}  {}", megabytes(total(&parts)), directory.display());
    Ok(ExitCode::SUCCESS)
}

/// Arguments of `cargo lab clean`.
#[derive(Args)]
pub struct CleanArgs {
    /// Remove the whole cache: the next run makes everything again
    #[arg(long)]
    all: bool,
}

/// Removes from the cache what is not needed, or all, and says what.
pub fn clean(arguments: &CleanArgs) -> Result<ExitCode> {
    let cache = Cache::open()?;
    let removed = match arguments.all {
        true => usage::clean_all(&cache)?,
        false => usage::clean(&cache, &Progress::new())?,
    };
    for part in &removed {
        println!("{:>10}  {}", megabytes(part.bytes), part.path.display());
    }
    let left = megabytes(total(&usage::usage(&cache)?));
    println!(
        "{:>10}  removed; {left} are left",
        megabytes(total(&removed))
    );
    Ok(ExitCode::SUCCESS)
}

fn total(parts: &[Usage]) -> u64 {
    parts.iter().map(|part| part.bytes).sum()
}

fn megabytes(bytes: u64) -> String {
    format!("{} MB", bytes.div_ceil(1 << 20))
}
