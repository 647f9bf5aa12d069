//! `cargo xtask ci`: every check that needs no privileges and no peer, in the order in which they fail fastest.

use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::codegen;

/// Combinations of features that must build without a warning, each alone: package and features.
/// A crate that gains a feature gains lines here.
const FEATURES: [(&str, &str); 11] = [
    ("rewake-images", ""),
    ("rewake-images", "mmap"),
    ("rewake-images", "json"),
    ("rewake-images", "mmap,json"),
    ("rewake-images", "explore"),
    ("rewake-images", "lz4"),
    ("rewake-images", "mmap,lz4"),
    ("rewake-images", "validate"),
    ("rewake-images", "archive"),
    ("rewake-pageserver", ""),
    ("rewake-pageserver", "tls"),
];

/// Runs all checks; the first that fails ends the run.
pub(crate) fn run() -> Result<()> {
    let start = Instant::now();
    step("format", || cargo(&["fmt", "--all", "--check"], &[]))?;
    step("generated code", || codegen::run(true))?;
    step("clippy", || {
        cargo(&["clippy", "--workspace", "--all-targets", "--all-features", "--", "-D", "warnings"], &[])
    })?;
    for (package, features) in FEATURES {
        step(
            &format!("features of {package}: {}", if features.is_empty() { "none" } else { features }),
            || {
                cargo(
                    &[
                        "clippy",
                        "--package",
                        package,
                        "--lib",
                        "--no-default-features",
                        "--features",
                        features,
                        "--",
                        "-D",
                        "warnings",
                    ],
                    &[],
                )
            },
        )?;
    }
    step("documentation", || {
        cargo(&["doc", "--workspace", "--no-deps", "--all-features"], &[("RUSTDOCFLAGS", "-Dwarnings")])
    })?;
    println!("\nall checks passed in {:.1} s", start.elapsed().as_secs_f64());
    Ok(())
}

fn step(name: &str, check: impl FnOnce() -> Result<()>) -> Result<()> {
    println!("== {name}");
    let start = Instant::now();
    check().with_context(|| format!("check failed: {name}"))?;
    println!("   {:.1} s", start.elapsed().as_secs_f64());
    Ok(())
}

fn cargo(args: &[&str], environment: &[(&str, &str)]) -> Result<()> {
    let status = Command::new("cargo")
        .args(args)
        .envs(environment.iter().copied())
        .current_dir(codegen::root())
        .status()
        .context("starting cargo")?;
    if !status.success() {
        bail!("cargo {}: {status}", args.join(" "));
    }
    Ok(())
}
