//! Container images that hold checkpoints: which image a layer belongs to. Facts: the OCI image layout (`index.json`, manifests
//! and layers under `blobs`), and `manifest.json` as `docker save` writes it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::Value;

/// Files of an archive, by directory and name.
type Files = BTreeMap<PathBuf, BTreeMap<String, Vec<u8>>>;

/// What names an image, in its index.
const NAMES: [&str; 2] = ["io.containerd.image.name", "org.opencontainers.image.ref.name"];

/// No manifest is larger.
const LARGEST: u64 = 1 << 20;

/// Whether a file may tell about images.
pub(super) fn is_wanted(parts: &[&str], size: u64) -> bool {
    match parts {
        ["index.json" | "manifest.json"] => true,
        ["blobs", _, _] => size <= LARGEST,
        _ => false,
    }
}

/// Name of the image in one of whose layers `place` lies.
pub(super) fn image_of(files: &Files, place: &Path) -> Option<String> {
    let top = files.get(Path::new(""))?;
    let parse = |bytes: &Vec<u8>| serde_json::from_slice::<Value>(bytes).ok();
    let in_index = top.get("index.json").and_then(parse).and_then(|index| {
        list(&index, "manifests").find_map(|entry| {
            // An index may name layers as they are, as containerd's checkpoints do.
            let is_here = is_at(entry, place) || manifest_holds(files, entry, place, DEEPEST);
            is_here.then(|| name_of(entry))?
        })
    });
    in_index.or_else(|| {
        let saved = top.get("manifest.json").and_then(parse)?;
        let image = saved.as_array()?.iter().find(|image| {
            list(image, "Layers").filter_map(Value::as_str).any(|layer| place.starts_with(layer))
        })?;
        list(image, "RepoTags").find_map(Value::as_str).map(str::to_owned)
    })
}

/// Indexes in indexes.
const DEEPEST: usize = 4;

fn manifest_holds(files: &Files, entry: &Value, place: &Path, depth: usize) -> bool {
    let manifest = blob(entry).and_then(|path| {
        let bytes = files.get(path.parent()?)?.get(path.file_name()?.to_str()?)?;
        serde_json::from_slice::<Value>(bytes).ok()
    });
    manifest.is_some_and(|manifest| {
        list(&manifest, "layers").any(|layer| is_at(layer, place))
            || list(&manifest, "manifests").any(|entry| {
                is_at(entry, place) || (depth > 0 && manifest_holds(files, entry, place, depth - 1))
            })
    })
}

fn list<'v>(value: &'v Value, key: &str) -> impl Iterator<Item = &'v Value> {
    value.get(key).and_then(Value::as_array).into_iter().flatten()
}

fn is_at(entry: &Value, place: &Path) -> bool {
    blob(entry).is_some_and(|path| place.starts_with(path))
}

/// Where the blob that `entry` describes lies.
fn blob(entry: &Value) -> Option<PathBuf> {
    let (algorithm, digest) = entry.get("digest")?.as_str()?.split_once(':')?;
    Some(Path::new("blobs").join(algorithm).join(digest))
}

fn name_of(entry: &Value) -> Option<String> {
    let annotations = entry.get("annotations")?;
    NAMES.iter().find_map(|name| Some(annotations.get(name)?.as_str()?.to_owned()))
}
