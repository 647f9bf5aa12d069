//! The options of all commands that look at the files of a checkpoint.

use std::path::PathBuf;

use anyhow::Context;
use rewake_filecheck::{HashCache, Hashing, Level, PathRule, Policy, Verdict, measure_verity};

/// At least one file differs.
pub(crate) const DIFFERS: u8 = 1;

#[derive(Debug, clap::Args)]
pub(crate) struct FileArgs {
    /// How closely files are looked at: filesize, buildid, checksum[=N|full|period:N], blake3 or auto (build-id and
    /// BLAKE3 of what is mapped executable, build-id and size of the rest)
    #[arg(long, value_name = "LEVEL", default_value = "auto")]
    file_validation: Level,
    /// An exception: ignore:, warn: or grow: (may have grown) before a path pattern with *, ?, [] and **; a pattern
    /// alone is ignored. The first that fits a path counts
    #[arg(long, value_name = "[ACTION:]GLOB")]
    skip_file_validation: Vec<PathRule>,
    /// A file of such exceptions, one a line; they count after those of the command line
    #[arg(long, value_name = "FILE")]
    file_rules: Option<PathBuf>,
    /// Remember hashes between runs in this file
    #[arg(long, value_name = "FILE")]
    file_cache: Option<PathBuf>,
}

/// What `verify` and `stamp` look at.
#[derive(Debug, clap::Args)]
pub(crate) struct CheckedArgs {
    /// The checkpoint
    #[arg(short = 'D', long, value_name = "DIR", default_value = ".")]
    pub(crate) images_dir: PathBuf,
    /// The directory in which the paths of the checkpoint begin: an unpacked container image, a mounted host
    #[arg(long, value_name = "PATH", default_value = "/")]
    pub(crate) root: PathBuf,
    #[command(flatten)]
    pub(crate) files: FileArgs,
    /// Report in JSON
    #[arg(long)]
    pub(crate) json: bool,
}

impl FileArgs {
    pub(crate) fn policy(&self) -> anyhow::Result<Policy> {
        let mut policy = Policy::at(self.file_validation);
        policy.rules.clone_from(&self.skip_file_validation);
        if let Some(path) = &self.file_rules {
            let text = std::fs::read_to_string(path)
                .with_context(|| format!("cannot read file rules {}", path.display()))?;
            policy.add_rules(&text).with_context(|| format!("file rules {}", path.display()))?;
        }
        Ok(policy)
    }

    pub(crate) fn cache(&self) -> Option<PathBuf> {
        self.file_cache.clone()
    }

    /// With the cache, if one is asked for.
    pub(crate) fn hashing(&self) -> anyhow::Result<Hashing> {
        let hashing = Hashing::unlimited().with_verity(measure_verity);
        Ok(match &self.file_cache {
            Some(path) => hashing.with_cache(HashCache::read(path)?),
            None => hashing,
        })
    }

    pub(crate) fn keep(&self, hashing: &Hashing) -> anyhow::Result<()> {
        if let (Some(path), Some(cache)) = (&self.file_cache, hashing.cache()) {
            cache.write(path)?;
        }
        Ok(())
    }
}

/// The exit status: 0 the same, 1 at least one differs, 2 something could not be checked.
pub(crate) fn exit_status(verdict: Verdict) -> u8 {
    match verdict {
        Verdict::Same => crate::DONE,
        Verdict::Differs => DIFFERS,
        Verdict::Unchecked => crate::FAILED,
    }
}
