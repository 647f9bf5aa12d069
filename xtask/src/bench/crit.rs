//! `cargo xtask bench crit`: our image tool against CRIU's, on images large enough to tell: a pagemap of 1,000,000 entries
//! and 50,000 open files. Both tools must write the same bytes.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::measure::timed;
use crate::codegen;
use crate::peer::Peer;

const RUNS: usize = 5;
/// KiB of memory that ours may take at most.
const MOST_MEMORY: i64 = 20 << 10;

pub(super) fn run() -> Result<()> {
    let peer = Peer::open()?;
    let built = Command::new("cargo")
        .args(["build", "--release", "-p", "rewake-cli"])
        .current_dir(codegen::root())
        .status()?;
    if !built.success() {
        bail!("rewake does not build");
    }
    let rewake = codegen::root().join("target/release/rewake");
    let dir = tempfile::tempdir()?;
    let inputs = [pagemap(dir.path())?, files(dir.path())?];
    let mut ours = Vec::new();
    let mut memory = 0;
    for json in &inputs {
        let image = json.with_extension("img");
        let command = |args: &[&str]| {
            let mut command = Command::new(&rewake);
            command.arg("crit").args(args);
            command
        };
        let encode = median(RUNS, || convert(command(&["encode"]), json, &image, &mut memory))?;
        let back = json.with_extension("ours");
        let decode = median(RUNS, || convert(command(&["decode"]), &image, &back, &mut memory))?;
        ours.push((encode, decode));
    }
    println!("{:<34} {:>9} {:>9} {:>7}", "", "rewake", "crit", "ratio");
    for (json, ours) in inputs.iter().zip(ours) {
        let (image, their_image) = (json.with_extension("img"), json.with_extension("their-img"));
        let (ours_json, their_json) = (json.with_extension("ours"), json.with_extension("theirs"));
        let crit = |command: &str| {
            let mut crit = peer.crit();
            crit.arg(command);
            crit
        };
        let their_input = json.with_extension("their-input");
        fs::write(&their_input, as_theirs(&fs::read_to_string(json)?))?;
        let encode = convert(crit("encode"), &their_input, &their_image, &mut 0)?;
        let decode = convert(crit("decode"), &image, &their_json, &mut 0)?;
        let same_json = as_theirs(&fs::read_to_string(&ours_json)?) == fs::read_to_string(&their_json)?;
        if fs::read(&image)? != fs::read(&their_image)? || !same_json {
            bail!("{}: the tools disagree", json.display());
        }
        let name = json.file_stem().unwrap_or_default().to_string_lossy();
        for (what, ours, theirs) in [("decode", ours.1, decode), ("encode", ours.0, encode)] {
            let ratio = theirs / ours;
            println!("{:<34} {ours:>7.3} s {theirs:>7.3} s {ratio:>6.1}x", format!("{what} {name}"));
        }
    }
    println!("peak memory of rewake: {} MiB", memory >> 10);
    if memory > MOST_MEMORY { bail!("more than {} MiB", MOST_MEMORY >> 10) } else { Ok(()) }
}

/// The field that 4.2 calls `compat_nr_pages` has another name in the schema of 4.1; number and meaning are the same.
fn as_theirs(json: &str) -> String {
    json.replace("\"compat_nr_pages\"", "\"nr_pages\"")
}

fn median(runs: usize, mut run: impl FnMut() -> Result<f64>) -> Result<f64> {
    let mut times = (0..runs).map(|_| run()).collect::<Result<Vec<_>>>()?;
    times.sort_by(f64::total_cmp);
    times.get(runs / 2).copied().context("no run")
}

/// Seconds that it takes; `most_memory` in KiB becomes its peak, if that is more. The file is new each time: to cut one that the
/// disk is still busy with takes longer than the tool.
fn convert(mut command: Command, from: &Path, to: &Path, most_memory: &mut i64) -> Result<f64> {
    if to.exists() {
        fs::remove_file(to)?;
    }
    command.arg("-i").arg(from).arg("-o").arg(to);
    let (time, peak) = timed(&command)?;
    *most_memory = peak.max(*most_memory);
    Ok(time.as_secs_f64())
}

/// As dumpers before 4.2 wrote it, which every crit knows.
fn pagemap(dir: &Path) -> Result<PathBuf> {
    write_json(dir, "pagemap of 1,000,000 entries", "PAGEMAP", |out| {
        write!(out, "{{\"pages_id\": 1}}")?;
        for index in 0..1_000_000_u64 {
            let (vaddr, pages) = (0x7f00_0000_0000 + index * 0x4000, index % 3 + 1);
            write!(out, ", {{\"vaddr\": {vaddr}, \"compat_nr_pages\": {pages}, \"flags\": 6}}")?;
        }
        Ok(())
    })
}

fn files(dir: &Path) -> Result<PathBuf> {
    write_json(dir, "files image of 50,000 entries", "FILES", |out| {
        for id in 1..=50_000 {
            let mut entry = String::new();
            write!(
                entry,
                "{{\"type\": \"REG\", \"id\": {id}, \"reg\": {{\"id\": {id}, \"flags\": 32770, \"pos\": {pos}, \
                 \"fown\": {{\"uid\": 0, \"euid\": 0, \"signum\": 0, \"pid_type\": 0, \"pid\": 0}}, \
                 \"name\": \"/usr/share/service/data/{bucket}/segment-{id}.log\", \"size\": {pos}, \"mode\": 33188}}}}",
                pos = id * 4093,
                bucket = id % 97
            )?;
            write!(out, "{}{entry}", if id == 1 { "" } else { ", " })?;
        }
        Ok(())
    })
}

fn write_json(
    dir: &Path,
    name: &str,
    magic: &str,
    entries: impl FnOnce(&mut BufWriter<File>) -> Result<()>,
) -> Result<PathBuf> {
    let path = dir.join(format!("{name}.json"));
    let mut out = BufWriter::new(File::create(&path)?);
    write!(out, "{{\"magic\": \"{magic}\", \"entries\": [")?;
    entries(&mut out)?;
    write!(out, "]}}")?;
    out.flush()?;
    Ok(path)
}
