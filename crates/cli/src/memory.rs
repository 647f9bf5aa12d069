//! `rewake memory`: what is in the memory of a checkpoint.

use std::io::Write;
use std::ops::ControlFlow;
use std::path::PathBuf;

use anyhow::Context;
use rewake_images::Checkpoint;
use rewake_images::archive::Contents;
use rewake_images::explore::{Explorer, Hit, Pattern, Space};

use crate::source::Source;

/// Look into the memory of a checkpoint
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Find bytes or a regular expression; exit status 1 if there are none
    Search {
        /// The checkpoint, or an archive of a container engine; ARCHIVE::NAME for one of several in it
        #[arg(value_name = "DIR|ARCHIVE")]
        path: PathBuf,
        /// What to look for: text, with escapes like \x00 and \n
        #[arg(value_name = "PATTERN")]
        pattern: String,
        /// The pattern is a regular expression; (?-u) lets it match any bytes
        #[arg(short, long)]
        regex: bool,
        /// Look into this process alone, instead of every process and shared memory
        #[arg(short, long)]
        pid: Option<u32>,
        /// Show so many bytes on both sides
        #[arg(short, long, value_name = "BYTES", default_value_t = 0)]
        context: usize,
        /// End after so many places
        #[arg(short, long, value_name = "N")]
        max: Option<u64>,
        /// Report in JSON, one object a line
        #[arg(long)]
        json: bool,
    },
    /// Print a range of memory as a hex dump
    Read {
        /// The checkpoint, or an archive of a container engine; ARCHIVE::NAME for one of several in it
        #[arg(value_name = "DIR|ARCHIVE")]
        path: PathBuf,
        /// The process
        #[arg(short, long)]
        pid: u32,
        /// The first byte, hexadecimal with 0x
        #[arg(value_name = "ADDRESS", value_parser = number)]
        address: u64,
        /// How many bytes
        #[arg(value_name = "LENGTH", value_parser = number, default_value = "256")]
        length: u64,
        /// The bytes as they are
        #[arg(long)]
        raw: bool,
    },
}

/// The answer was no.
const NO: u8 = 1;

fn number(text: &str) -> Result<u64, std::num::ParseIntError> {
    match text.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16),
        None => text.parse(),
    }
}

pub(crate) fn run(args: &Args, out: &mut impl Write) -> anyhow::Result<u8> {
    match &args.command {
        Command::Search { path, pattern, regex, pid, context, max, json } => {
            let pattern = if *regex { Pattern::regex(pattern)? } else { Pattern::bytes(&unescape(pattern)?) };
            let source = Source::open(path, Contents::Memory)?;
            let explorer = Explorer::new(source.checkpoint())?;
            let spaces = match pid {
                Some(pid) => vec![Space::Pid(explorer.task(*pid)?.entry.pid)],
                None => explorer.spaces()?,
            };
            let mut found = 0_u64;
            let mut failed = None;
            for space in spaces {
                let ended = explorer.search(space, &pattern, *context, |hit| {
                    found += 1;
                    failed = show(&hit, *json, out).err();
                    let enough = failed.is_some() || max.is_some_and(|max| found >= max);
                    if enough { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
                })?;
                if let Some(error) = failed {
                    return Err(error);
                }
                if ended.is_break() {
                    break;
                }
            }
            Ok(if found == 0 { NO } else { crate::DONE })
        }
        Command::Read { path, pid, address, length, raw } => {
            let source = Source::open(path, Contents::Memory)?;
            read(source.checkpoint(), *pid, *address, *length, *raw, out)?;
            Ok(crate::DONE)
        }
    }
}

fn show(hit: &Hit, json: bool, out: &mut impl Write) -> anyhow::Result<()> {
    if json {
        return Ok(writeln!(out, "{}", serde_json::to_string(hit)?)?);
    }
    match hit.space {
        Space::Pid(pid) => write!(out, "{pid:7}")?,
        Space::Shmid(shmid) => write!(out, "shmem {shmid}")?,
    }
    let Hit { address, bytes, before, after, .. } = hit;
    let (before, bytes, after) = (before.escape_ascii(), bytes.escape_ascii(), after.escape_ascii());
    if hit.before.is_empty() && hit.after.is_empty() {
        writeln!(out, " {address:016x} {bytes}")?;
    } else {
        writeln!(out, " {address:016x} {before}[{bytes}]{after}")?;
    }
    Ok(())
}

/// A piece at a time: the length is the user's, but memory is ours.
fn read(
    checkpoint: &Checkpoint,
    pid: u32,
    address: u64,
    length: u64,
    raw: bool,
    out: &mut impl Write,
) -> anyhow::Result<()> {
    const PIECE: u64 = 64 << 10;
    const LINE: usize = 16;
    let store = checkpoint.memory(pid.into())?;
    let end = address.checked_add(length).context("the range ends behind the last address")?;
    let mut at = address;
    while at < end {
        let mut piece = vec![0; usize::try_from((end - at).min(PIECE))?];
        store.read_at(at, &mut piece)?;
        if raw {
            out.write_all(&piece)?;
        } else {
            for (address, line) in (at..).step_by(LINE).zip(piece.chunks(LINE)) {
                let hex: Vec<String> = line.iter().map(|byte| format!("{byte:02x}")).collect();
                let shown = |byte: &u8| if matches!(byte, b' '..=b'~') { char::from(*byte) } else { '.' };
                let text: String = line.iter().map(shown).collect();
                writeln!(out, "{address:016x}  {:47}  |{text}|", hex.join(" "))?;
            }
        }
        at += piece.len() as u64;
    }
    Ok(())
}

/// The bytes of a text with the escapes of Rust's byte strings.
fn unescape(text: &str) -> anyhow::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        if c != '\\' {
            bytes.extend(c.encode_utf8(&mut [0; 4]).as_bytes());
            continue;
        }
        bytes.push(match chars.next() {
            Some('n') => b'\n',
            Some('r') => b'\r',
            Some('t') => b'\t',
            Some('0') => 0,
            Some('\\') => b'\\',
            Some('x') => {
                let digits: String = chars.by_ref().take(2).collect();
                u8::from_str_radix(&digits, 16)
                    .with_context(|| format!("no two hex digits after \\x in {text:?}"))?
            }
            _ => anyhow::bail!("unknown escape in {text:?}: use \\\\ for a backslash"),
        });
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes() {
        assert_eq!(
            unescape(r"a\x00\xfe\n\\é").unwrap(),
            [b"a\0\xfe\n\\".as_slice(), "é".as_bytes()].concat()
        );
        assert!(unescape(r"\q").is_err());
        assert_eq!(number("0x10").unwrap(), 16);
    }
}
