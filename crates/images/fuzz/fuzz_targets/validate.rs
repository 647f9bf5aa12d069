//! A checkpoint whose images are anything: validating, inspecting and all the views end, and a clean one can be looked at.
#![no_main]

use std::fs;
use std::path::Path;

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

fuzz_target!(|data: &[u8]| {
    let Some((&which, rest)) = data.split_first() else { return };
    let dir = SCRATCH.dir();
    let good = Path::new(env!("CARGO_MANIFEST_DIR")).join("../testdata/pipe00-h");
    let bad: Vec<_> = IMAGES.iter().cycle().skip(usize::from(which)).take(2).collect();
    for entry in fs::read_dir(&good).unwrap() {
        let entry = entry.unwrap();
        let to = dir.join(entry.file_name());
        let is_bad = bad.iter().any(|(kind, number)| *entry.file_name() == *kind.file_name(*number));
        if !is_bad && !to.exists() && !entry.file_name().to_str().unwrap().ends_with("json") {
            fs::copy(entry.path(), to).unwrap();
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
            let good = Checkpoint::open(&good).unwrap();
            let _ = diff(&explorer, &Explorer::new(&good).unwrap());
            let _ = explorer.fds().map(|view| view.to_string());
            let _ = explorer.mems().map(|view| view.to_string());
            let _ = explorer.rss().map(|view| view.to_string());
            let _ = explorer.ps().map(|view| view.to_string());
            let _ = explorer.sockets().map(|view| view.to_string());
        }
    }
    for (kind, number) in bad {
        fs::remove_file(dir.join(kind.file_name(*number))).unwrap();
    }
});
