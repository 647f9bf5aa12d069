//! Memory of two generations on any pagemaps: what a search finds is what a search of the plain bytes finds.
#![no_main]

use std::fs;
use std::ops::ControlFlow;
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use rewake_images::explore::{Explorer, Pattern, Space};
use rewake_images::{Checkpoint, ImageWriter, Kind, Layout, PAGE_SIZE, pe, proto};
use rewake_images_fuzz::{Scratch, pieces};

/// Pages in each pages file.
const PAGES: u64 = 8;

static SCRATCH: Scratch = Scratch::new();
static PATTERNS: LazyLock<Vec<(Pattern, regex::bytes::Regex)>> = LazyLock::new(|| {
    let all = ["ab", "[ab]{3}", "a+", "[a-c]+x", r"\bab\b", "(?s-u)a.{5}b", "[^a]{2}c", "a.*?b"];
    all.iter().map(|text| (Pattern::regex(text).unwrap(), regex::bytes::Regex::new(text).unwrap())).collect()
});

fn image<M: prost::Message>(name: &str, kind: Kind, number: Option<u64>, messages: &[M]) {
    let mut image = ImageWriter::new(kind, Layout::V11, "image", Vec::new()).unwrap();
    messages.iter().for_each(|message| image.push(message).unwrap());
    let path = SCRATCH.dir().join(name).join(kind.file_name(number));
    fs::write(path, image.into_inner().unwrap()).unwrap();
}

fn pagemap(name: &str, runs: &[u8]) {
    let path = SCRATCH.dir().join(name).join(Kind::Pagemap.file_name(Some(5)));
    let mut image = ImageWriter::new(Kind::Pagemap, Layout::V11, &path, Vec::new()).unwrap();
    image.push(&proto::PagemapHead { pages_id: 1 }).unwrap();
    for run in runs.chunks_exact(3) {
        let flags = if run[2] & 1 == 0 { pe::PRESENT } else { pe::PARENT };
        let (vaddr, nr_pages) = (u64::from(run[0]) * PAGE_SIZE, Some(u64::from(run[1] % 9)));
        let entry = proto::PagemapEntry { vaddr, nr_pages, flags: Some(flags), ..Default::default() };
        image.push(&entry).unwrap();
    }
    fs::write(path, image.into_inner().unwrap()).unwrap();
}

fuzz_target!(|data: &[u8]| {
    let Some((&which, rest)) = data.split_first() else { return };
    let [runs, text] = pieces(rest);
    let (young, old) = runs.split_at(runs.len() / 2);
    for (name, runs) in [("young", young), ("old", old)] {
        let dir = SCRATCH.dir().join(name);
        if !dir.exists() {
            fs::create_dir(&dir).unwrap();
            image(
                name,
                Kind::Inventory,
                None,
                &[proto::InventoryEntry { img_version: 2, ..Default::default() }],
            );
            let task = proto::PstreeEntry { pid: 5, threads: vec![5], ..Default::default() };
            image(name, Kind::Pstree, None, &[task]);
            let tc = proto::TaskCoreEntry { task_state: 1, ..Default::default() };
            image(name, Kind::Core, Some(5), &[proto::CoreEntry { tc: Some(tc), ..Default::default() }]);
            if name == "young" {
                std::os::unix::fs::symlink("../old", dir.join("parent")).unwrap();
            }
        }
        pagemap(name, runs);
        // The text lies over the borders of the pages, again and again.
        let step = 509.min(text.len().max(1) * 3);
        let mut pages = vec![b'.'; usize::try_from(PAGES * PAGE_SIZE).unwrap()];
        for start in (0..pages.len().saturating_sub(text.len())).step_by(step) {
            pages[start..start + text.len()].copy_from_slice(text);
        }
        fs::write(dir.join("pages-1.img"), pages).unwrap();
    }
    let checkpoint = Checkpoint::open(SCRATCH.dir().join("young")).unwrap();
    let explorer = Explorer::new(&checkpoint).unwrap();
    let Ok(store) = explorer.store(Space::Pid(5)) else { return };
    let mut spans: Vec<(u64, Vec<u8>)> = Vec::new();
    for run in store.runs() {
        let mut bytes = vec![0; usize::try_from(run.bytes()).unwrap()];
        store.read_at(run.vaddr, &mut bytes).unwrap();
        match spans.last_mut() {
            Some((start, span)) if *start + span.len() as u64 == run.vaddr => span.extend(bytes),
            _ => spans.push((run.vaddr, bytes)),
        }
    }
    let (pattern, plain) = &PATTERNS[usize::from(which) % PATTERNS.len()];
    let mut wanted = Vec::new();
    for (start, span) in &spans {
        let found = plain.find_iter(span).filter(|found| !found.is_empty());
        wanted.extend(found.map(|found| (start + found.start() as u64, found.len() as u64)));
    }
    let mut found = Vec::new();
    let flow = explorer.search(Space::Pid(5), pattern, 9, |hit| {
        found.push((hit.address, hit.length));
        ControlFlow::Continue(())
    });
    assert!(flow.unwrap().is_continue());
    assert_eq!(found, wanted);
});
