//! Many checkpoints of one process in one directory, numbered, of which some are kept.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rewake_images::pagemap::PARENT_LINK;
use rewake_images::{Checkpoint, ImageError, ImageWriter, Kind, Layout};

use crate::error::Result;
use crate::write;

/// Name of the link to the youngest.
const LATEST: &str = "latest";
/// Says that the numbered directories beside it are a series: what others have made is not removed.
const MARK: &str = ".rewake-series";
/// What a directory that is being removed is called behind its number.
const REMOVED: &str = ".rewake-removed";

/// A directory of checkpoints `1`, `2` and so on, each the parent of the next or of none.
///
/// Nothing is remembered elsewhere, so a run that was killed at any point is followed by one that finds everything as it
/// is: a checkpoint is complete as soon as it has its number, and loses that before it is removed.
#[derive(Debug)]
pub(crate) struct Series {
    dir: PathBuf,
}

/// What is there under a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Member {
    parent: Option<u64>,
    /// It can be restored; otherwise it only keeps memory for others.
    whole: bool,
}

impl Series {
    /// The series in `dir`, which is made if there is none, without what a run that was killed has left there.
    ///
    /// # Errors
    /// [`ImageError::Invalid`] if there are numbered directories of somebody else.
    pub(crate) fn open(dir: &Path) -> Result<Self> {
        fs::create_dir_all(dir).map_err(at(dir, "create"))?;
        let series = Self { dir: dir.to_owned() };
        let names = series.names()?;
        let mark = dir.join(MARK);
        if !mark.exists() {
            if let Some(name) = names.iter().find(|name| name.parse::<u64>().is_ok()) {
                let what = "not of periodic checkpoints, which would remove it some day: give them a directory of their own";
                return Err(ImageError::Invalid { path: dir.join(name), what: what.into() }.into());
            }
            fs::File::create(&mark).map_err(at(&mark, "create"))?;
        }
        for name in names {
            let of_number =
                |rest: &str| name.strip_suffix(rest).is_some_and(|number| number.parse::<u64>().is_ok());
            let unfinished = name.split_once(".rewake-").is_some_and(|(number, pid)| {
                let ours = number.parse::<u64>().is_ok() && pid.parse::<u32>().is_ok();
                ours && !Path::new("/proc").join(pid).exists()
            });
            if unfinished || of_number(REMOVED) {
                let path = dir.join(&name);
                tracing::info!(path = %path.display(), "removing what an earlier run has left");
                fs::remove_dir_all(&path).map_err(at(&path, "remove"))?;
            }
        }
        Ok(series)
    }

    /// Where the checkpoint of that number is.
    pub(crate) fn path(&self, number: u64) -> PathBuf {
        self.dir.join(number.to_string())
    }

    /// The number after the highest.
    pub(crate) fn next(&self) -> Result<u64> {
        Ok(self.members()?.last_key_value().map_or(1, |(number, _)| number + 1))
    }

    /// How many generations a restore of it has to look at, itself included.
    pub(crate) fn generations(&self, number: u64) -> Result<usize> {
        Ok(self.with_ancestors(&self.members()?, number).len())
    }

    /// Makes the link to the youngest point to `number`.
    pub(crate) fn publish(&self, number: u64) -> Result<()> {
        let new = self.dir.join(format!(".{LATEST}-{}", std::process::id()));
        let link = self.dir.join(LATEST);
        match fs::remove_file(&new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(at(&new, "remove")(error)),
            _ => {}
        }
        std::os::unix::fs::symlink(number.to_string(), &new).map_err(at(&new, "make"))?;
        fs::rename(&new, &link).map_err(at(&link, "put in place"))
    }

    /// Keeps the `keep` youngest that can be restored. Of older ones their memory stays as far as those need it, the rest is
    /// removed.
    pub(crate) fn retain(&self, keep: usize) -> Result<()> {
        let members = self.members()?;
        let whole = members.iter().rev().filter(|(_, member)| member.whole);
        let kept: Vec<u64> = whole.map(|(number, _)| *number).take(keep).collect();
        let needed: Vec<u64> =
            kept.iter().flat_map(|&number| self.with_ancestors(&members, number)).collect();
        let mut stripped = false;
        for (&number, member) in &members {
            if !needed.contains(&number) {
                self.remove(number)?;
            } else if member.whole && !kept.contains(&number) {
                self.strip(number)?;
                stripped = true;
            }
        }
        if let Some(&oldest) = kept.last().filter(|_| stripped) {
            // The room is not needed to go on.
            if let Err(error) = rewake_memdump::dedup(&self.path(oldest)) {
                tracing::warn!(%error, "pages that no checkpoint needs stay where they are");
            }
        }
        Ok(())
    }

    /// Without its number it is no checkpoint of the series any more, however far the rest gets.
    fn remove(&self, number: u64) -> Result<()> {
        let path = self.path(number);
        let removed = self.dir.join(format!("{number}{REMOVED}"));
        fs::rename(&path, &removed).map_err(at(&path, "remove"))?;
        fs::remove_dir_all(&removed).map_err(at(&removed, "remove"))
    }

    /// Makes it what a pre-dump leaves: memory, and nothing that could be restored.
    fn strip(&self, number: u64) -> Result<()> {
        let dir = self.path(number);
        let new = dir.join(".inventory");
        let inventory = write::as_pre_dump(Checkpoint::open(&dir)?.inventory().clone());
        let mut image = ImageWriter::create(Kind::Inventory, Layout::V11, new.clone())?;
        image.push(&inventory)?;
        image.finish()?;
        let path = dir.join(inventory_name());
        fs::rename(&new, &path).map_err(at(&path, "put in place"))?;
        for entry in fs::read_dir(&dir).map_err(at(&dir, "list"))? {
            let name = entry.map_err(at(&dir, "list"))?.file_name();
            let text = name.to_string_lossy();
            let memory = ["pagemap-", "pages-"].iter().any(|prefix| text.starts_with(prefix));
            if memory || text == PARENT_LINK || text == inventory_name() {
                continue;
            }
            let path = dir.join(&name);
            fs::remove_file(&path).map_err(at(&path, "remove"))?;
        }
        Ok(())
    }

    /// `number`, its parent, the parent of that and so on.
    fn with_ancestors(&self, members: &BTreeMap<u64, Member>, number: u64) -> Vec<u64> {
        let mut line = vec![number];
        let mut at = number;
        // Parents are older, so this ends.
        while let Some(parent) = members.get(&at).and_then(|member| member.parent).filter(|&p| p < at) {
            line.push(parent);
            at = parent;
        }
        line
    }

    fn members(&self) -> Result<BTreeMap<u64, Member>> {
        let mut members = BTreeMap::new();
        for name in self.names()? {
            let Ok(number) = name.parse::<u64>() else { continue };
            let dir = self.path(number);
            let checkpoint = Checkpoint::open(&dir)?;
            let parent = fs::read_link(dir.join(PARENT_LINK)).ok();
            let parent = parent.and_then(|link| link.file_name()?.to_str()?.parse().ok());
            let whole = !write::is_pre_dump(checkpoint.inventory());
            members.insert(number, Member { parent, whole });
        }
        Ok(members)
    }

    fn names(&self) -> Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.dir).map_err(at(&self.dir, "list"))? {
            names.extend(entry.map_err(at(&self.dir, "list"))?.file_name().into_string().ok());
        }
        Ok(names)
    }
}

fn inventory_name() -> String {
    Kind::Inventory.file_name(None)
}

fn at(path: &Path, action: &'static str) -> impl Fn(io::Error) -> crate::DumpError + use<> {
    let path = path.to_owned();
    move |source| ImageError::Io { path: path.clone(), action, source }.into()
}

#[cfg(test)]
mod tests {
    use rewake_images::CheckpointWriter;
    use rewake_images::proto::InventoryEntry;

    use super::*;

    /// A checkpoint without memory.
    fn make(series: &Series, number: u64, parent: Option<u64>) {
        let mut writer = CheckpointWriter::create(series.path(number)).unwrap();
        if let Some(parent) = parent {
            writer.set_parent(Path::new(&format!("../{parent}"))).unwrap();
        }
        fs::write(writer.staging_dir().join("pstree.img"), "who").unwrap();
        writer.commit(&InventoryEntry { img_version: 2, ..Default::default() }).unwrap();
    }

    /// Numbers, and whether each can be restored.
    fn there(series: &Series) -> Vec<(u64, bool)> {
        series.members().unwrap().into_iter().map(|(number, member)| (number, member.whole)).collect()
    }

    #[test]
    fn the_youngest_are_kept_and_what_they_need() {
        let dir = tempfile::tempdir().unwrap();
        let series = Series::open(&dir.path().join("series")).unwrap();
        assert_eq!(series.next().unwrap(), 1);
        for number in 1..=4 {
            make(&series, number, (number > 1).then(|| number - 1));
        }
        assert_eq!(series.generations(4).unwrap(), 4);
        series.retain(2).unwrap();
        assert_eq!(there(&series), [(1, false), (2, false), (3, true), (4, true)]);
        assert!(!series.path(1).join("pstree.img").exists() && series.path(3).join("pstree.img").exists());
        make(&series, 5, None);
        series.retain(2).unwrap();
        assert_eq!(there(&series), [(1, false), (2, false), (3, false), (4, true), (5, true)]);
        make(&series, 6, Some(5));
        series.retain(2).unwrap();
        assert_eq!(there(&series), [(5, true), (6, true)], "nobody needs the old line any more");
        series.retain(1).unwrap();
        assert_eq!(there(&series), [(5, false), (6, true)]);
        assert_eq!(series.next().unwrap(), 7);
    }

    #[test]
    fn the_link_follows() {
        let dir = tempfile::tempdir().unwrap();
        let series = Series::open(dir.path()).unwrap();
        for number in [1, 2, 10] {
            make(&series, number, None);
            series.publish(number).unwrap();
            assert_eq!(fs::read_link(dir.path().join("latest")).unwrap(), Path::new(&number.to_string()));
        }
        assert_eq!(there(&series).len(), 3);
    }

    #[test]
    fn what_a_killed_run_left_is_cleared_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let series = Series::open(dir.path()).unwrap();
        make(&series, 7, None);
        let living = format!("9.rewake-{}", std::process::id());
        for name in ["8.rewake-removed", "8.rewake-4194305", living.as_str(), "notes", "1.rewake-x"] {
            fs::create_dir(dir.path().join(name)).unwrap();
            fs::write(dir.path().join(name).join("pages-1.img"), "part").unwrap();
        }
        let series = Series::open(dir.path()).unwrap();
        let mut names = series.names().unwrap();
        names.sort();
        assert_eq!(names, [MARK, "1.rewake-x", "7", living.as_str(), "notes"]);
        assert_eq!(series.next().unwrap(), 8);
    }

    #[test]
    fn numbered_directories_of_others_are_refused_and_stay() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("2024")).unwrap();
        fs::write(dir.path().join("2024/photo"), "mine").unwrap();
        let error = Series::open(dir.path()).unwrap_err();
        let error = std::error::Error::source(&error).unwrap().to_string();
        assert!(error.contains("2024") && error.contains("a directory of their own"), "{error}");
        assert_eq!(fs::read_to_string(dir.path().join("2024/photo")).unwrap(), "mine");
        assert!(!dir.path().join(MARK).exists());
    }
}
