//! Archives that are anything: a tar file, a compressed one, one made of the fuzzer's own files.
#![no_main]

use std::fs;

use libfuzzer_sys::fuzz_target;
use rewake_images::archive::{Archive, Contents};
use rewake_images::explore::{Details, inspect};
use rewake_images_fuzz::{Scratch, pieces};

static SCRATCH: Scratch = Scratch::new();

const NAMES: [&str; 12] = [
    "checkpoint/inventory.img",
    "checkpoint/pstree.img",
    "config.dump",
    "spec.dump",
    "network.status",
    "index.json",
    "oci-layout",
    "blobs/sha256/0",
    "stats-dump",
    "checkpoint/core-5.img",
    "a/checkpoint/inventory.img",
    "manifest.json",
];

fuzz_target!(|data: &[u8]| {
    let Some((&how, rest)) = data.split_first() else { return };
    let bytes = if how & 1 == 0 {
        rest.to_vec()
    } else {
        let mut tar = tar::Builder::new(Vec::new());
        let mut files = rest;
        for index in 0.. {
            let [file, others] = pieces(files);
            let mut header = tar::Header::new_gnu();
            header.set_size(file.len() as u64);
            header.set_mode(0o600);
            let name = NAMES[(usize::from(how) + index * (usize::from(how >> 4) + 1)) % NAMES.len()];
            tar.append_data(&mut header, name, file).unwrap();
            if others.is_empty() {
                break;
            }
            files = others;
        }
        tar.into_inner().unwrap()
    };
    let path = SCRATCH.dir().join("archive");
    fs::write(&path, bytes).unwrap();
    let contents = if how & 2 == 0 { Contents::Arguments } else { Contents::Memory };
    for archive in Archive::open_all(&path, contents).unwrap_or_default() {
        let _ = inspect(archive.checkpoint(), Details { environment: true, files: true });
    }
});
