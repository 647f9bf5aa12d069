//! `rewake memory`: what is in the memory of a checkpoint.

use std::io::{BufWriter, Write};
use std::ops::{ControlFlow, Range};
use std::path::PathBuf;

use anyhow::Context;
use rewake_images::PageStore;
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
    /// Print memory as a hex dump: a range, or all there is of a process
    Read {
        /// The checkpoint, or an archive of a container engine; ARCHIVE::NAME for one of several in it
        #[arg(value_name = "DIR|ARCHIVE")]
        path: PathBuf,
        /// The process
        #[arg(short, long)]
        pid: u32,
        /// The first byte, hexadecimal with 0x; without it, every page in the images
        #[arg(value_name = "ADDRESS", value_parser = number)]
        address: Option<u64>,
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
            // There may be millions of places, and standard output writes each line by itself.
            let mut out = BufWriter::with_capacity(64 << 10, out);
            let mut found = 0_u64;
            let mut failed = None;
            for space in spaces {
                let ended = explorer.search(space, &pattern, *context, |hit| {
                    found += 1;
                    failed = show(&hit, *json, &mut out).err();
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
            out.flush()?;
            Ok(if found == 0 { NO } else { crate::DONE })
        }
        Command::Read { path, pid, address, length, raw } => {
            let source = Source::open(path, Contents::Memory)?;
            let store = source.checkpoint().memory((*pid).into())?;
            let mut dump = HexDump { raw: *raw, ..HexDump::default() };
            match address {
                Some(address) => {
                    let end =
                        address.checked_add(*length).context("the range ends behind the last address")?;
                    dump.range(&store, *address..end, out)?;
                }
                None => {
                    for run in store.runs() {
                        dump.range(&store, run.vaddr..run.end(), out)?;
                    }
                }
            }
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

const LINE: usize = 16;

/// What was printed last, so that lines that only repeat it need not be.
#[derive(Debug, Default)]
struct HexDump {
    /// The bytes as they are.
    raw: bool,
    last: Option<(u64, Vec<u8>)>,
    /// A star stands for the lines left out.
    starred: bool,
}

impl HexDump {
    /// A piece at a time: the length is the user's, but memory is ours.
    fn range(&mut self, store: &PageStore, range: Range<u64>, out: &mut impl Write) -> anyhow::Result<()> {
        const PIECE: u64 = 64 << 10;
        let mut at = range.start;
        while at < range.end {
            let mut piece = vec![0; usize::try_from((range.end - at).min(PIECE))?];
            store.read_at(at, &mut piece)?;
            if self.raw {
                out.write_all(&piece)?;
            } else {
                for (address, line) in (at..).step_by(LINE).zip(piece.chunks(LINE)) {
                    let is_last = address + line.len() as u64 == range.end;
                    self.line(address, line, is_last, out)?;
                }
            }
            at += piece.len() as u64;
        }
        Ok(())
    }

    fn line(&mut self, address: u64, line: &[u8], is_last: bool, out: &mut impl Write) -> anyhow::Result<()> {
        let follows =
            self.last.as_ref().is_some_and(|(at, last)| at + LINE as u64 == address && last == line);
        self.last = Some((address, line.to_vec()));
        if follows && !is_last {
            if !std::mem::replace(&mut self.starred, true) {
                writeln!(out, "*")?;
            }
            return Ok(());
        }
        self.starred = false;
        let hex: Vec<String> = line.iter().map(|byte| format!("{byte:02x}")).collect();
        let shown = |byte: &u8| if matches!(byte, b' '..=b'~') { char::from(*byte) } else { '.' };
        let text: String = line.iter().map(shown).collect();
        Ok(writeln!(out, "{address:016x}  {:47}  |{text}|", hex.join(" "))?)
    }
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
    fn lines_that_repeat_are_left_out() {
        let mut out = Vec::new();
        let mut dump = HexDump::default();
        for (address, byte) in (0x1000..).step_by(LINE).zip([1_u8, 0, 0, 0, 0, 2]) {
            dump.line(address, &[byte; LINE], false, &mut out).unwrap();
        }
        // Not what follows: a gap lies between.
        dump.line(0x3000, &[2; LINE], false, &mut out).unwrap();
        dump.line(0x3010, &[2; LINE], true, &mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        let starts: Vec<&str> = text.lines().map(|line| line.get(..16).unwrap_or(line)).collect();
        let wanted = [
            "0000000000001000",
            "0000000000001010",
            "*",
            "0000000000001050",
            "0000000000003000",
            "0000000000003010",
        ];
        assert_eq!(starts, wanted);
    }

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
