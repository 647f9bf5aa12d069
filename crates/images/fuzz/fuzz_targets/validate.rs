//! A checkpoint whose images are anything: validating, inspecting and all the views end, and a clean one can be looked at.
#![no_main]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use rewake_images::explore::{Details, Explorer, diff, inspect};
use rewake_images::validate::validate;
use rewake_images::{Checkpoint, Kind};
use rewake_images_fuzz::{Scratch, pieces};

/// Of a checkpoint of one task, the images a fuzzer may break.
const IMAGES: [(Kind, Option<u64>); 10] = [
    (Kind::Pstree, None),
    (Kind::Core, Some(66)),
    (Kind::Files, None),
    (Kind::Mm, Some(66)),
    (Kind::Pagemap, Some(66)),
    (Kind::Ids, Some(66)),
    (Kind::Fs, Some(66)),
    (Kind::Fdinfo, Some(2)),
    (Kind::PipesData, None),
    (Kind::Inventory, None),
];

static SCRATCH: Scratch = Scratch::new();

fn good_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../testdata/pipe00-h")
}

/// The checkpoint before it was broken. To read it takes as long as all that is done with a broken one.
static GOOD: LazyLock<Checkpoint> = LazyLock::new(|| Checkpoint::open(good_dir()).unwrap());

/// All of its images.
static NAMES: LazyLock<Vec<String>> = LazyLock::new(|| {
    let names =
        fs::read_dir(good_dir()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| !name.ends_with("json")).collect()
});

thread_local! {
    static EXPLORER: Explorer<'static> = Explorer::new(&GOOD).unwrap();
}

fuzz_target!(|data: &[u8]| {
    let Some((&which, rest)) = data.split_first() else { return };
    let dir = SCRATCH.dir();
    let bad: Vec<_> = IMAGES.iter().cycle().skip(usize::from(which)).take(2).collect();
    for name in
        NAMES.iter().filter(|name| !bad.iter().any(|(kind, number)| **name == kind.file_name(*number)))
    {
        let to = dir.join(name);
        if !to.exists() {
            fs::copy(good_dir().join(name), to).unwrap();
        }
    }
    let broken = pieces(rest);
    for ((kind, number), bytes) in bad.iter().zip(broken) {
        fs::write(dir.join(kind.file_name(*number)), bytes).unwrap();
    }
    let report = validate(dir);
    let _ = report.to_string();
    if let Ok(checkpoint) = Checkpoint::open(dir) {
        let looked_at = inspect(&checkpoint, Details { environment: true, files: true });
        assert!(!report.is_clean() || looked_at.is_ok(), "{looked_at:?}");
        if let Ok(explorer) = Explorer::new(&checkpoint) {
            // One of them each time: each reads most of the images again.
            match usize::from(which) / IMAGES.len() % 6 {
                0 => EXPLORER.with(|good| drop(diff(&explorer, good))),
                1 => drop(explorer.fds().map(|view| view.to_string())),
                2 => drop(explorer.mems().map(|view| view.to_string())),
                3 => drop(explorer.rss().map(|view| view.to_string())),
                4 => drop(explorer.ps().map(|view| view.to_string())),
                _ => drop(explorer.sockets().map(|view| view.to_string())),
            }
        }
    }
    for (kind, number) in bad {
        fs::remove_file(dir.join(kind.file_name(*number))).unwrap();
    }
});
