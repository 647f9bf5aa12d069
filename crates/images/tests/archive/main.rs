//! Archives of container engines, made here from a real checkpoint as the engines lay them out.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "helpers of tests")]

mod nested;

use std::io::Write;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use rewake_images::archive::{Archive, Contents, Engine};
use rewake_images::explore::{Details, Explorer, Pattern, inspect};
use rewake_images::{Checkpoint, ImageError};

const CONFIG: &str = r#"{"id": "0123456789abcdef", "name": "web", "rootfsImageName": "docker.io/library/alpine:latest",
    "runtime": "crun", "createdTime": "2024-05-01T10:00:00Z", "checkpointedTime": "2024-05-01T11:00:00Z",
    "restoredTime": "0001-01-01T00:00:00Z", "restored": false}"#;

fn case() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/pipe00-h")
}

/// A tar file of the images under `dir`, with `more` files before them; the statistics lie beside, as engines have it.
fn tar(dir: &str, more: &[(&str, &str)]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    let mut put = |name: &str, bytes: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o600);
        tar.append_data(&mut header, name, bytes).unwrap();
    };
    for (name, text) in more {
        put(name, text.as_bytes());
    }
    for entry in std::fs::read_dir(case()).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        let bytes = std::fs::read(entry.path()).unwrap();
        if name == "stats-dump" {
            put(&name, &bytes);
        } else if name.ends_with(".img") {
            put(&format!("{dir}{name}"), &bytes);
        }
    }
    tar.into_inner().unwrap()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(bytes).unwrap();
    gzip.finish().unwrap()
}

fn opened(bytes: &[u8], contents: Contents) -> Result<Archive, ImageError> {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(bytes).unwrap();
    Archive::open(file.path(), None, contents)
}

#[test]
fn the_same_in_all_compressions() {
    let plain = tar("checkpoint/", &[("config.dump", CONFIG), ("spec.dump", r#"{"annotations": {}}"#)]);
    let zstd =
        ruzstd::encoding::compress_to_vec(plain.as_slice(), ruzstd::encoding::CompressionLevel::Fastest);
    let wanted =
        inspect(&Checkpoint::open(case()).unwrap(), Details { environment: true, files: true }).unwrap();
    assert!(wanted.processes[0].environment.as_ref().unwrap().len() > 3);
    for bytes in [gzip(&plain), plain, zstd] {
        let archive = opened(&bytes, Contents::Arguments).unwrap();
        let found = inspect(archive.checkpoint(), Details { environment: true, files: true }).unwrap();
        assert_eq!(found.processes, wanted.processes, "arguments and environment, too");
        assert_eq!(found.statistics, wanted.statistics);
        assert_eq!(found.sizes.pages, wanted.sizes.pages);
        assert_eq!(archive.container().unwrap().name, "web");
    }
}

#[test]
fn all_memory_if_asked() {
    let bytes = tar("checkpoint/", &[]);
    let pattern = Pattern::bytes(b"\x7fELF");
    let places = |checkpoint: &Checkpoint| {
        let explorer = Explorer::new(checkpoint).unwrap();
        let mut places = Vec::new();
        for space in explorer.spaces().unwrap() {
            let _ = explorer.search(space, &pattern, 0, |hit| {
                places.push((hit.space, hit.address));
                ControlFlow::Continue(())
            });
        }
        places
    };
    let wanted = places(&Checkpoint::open(case()).unwrap());
    assert!(!wanted.is_empty());
    assert_eq!(places(opened(&bytes, Contents::Memory).unwrap().checkpoint()), wanted);
}

#[test]
fn what_each_engine_says() {
    let podman = r#"{"annotations": {"io.container.manager": "libpod"},
        "mounts": [{"destination": "/proc", "type": "proc", "source": "proc"}]}"#;
    let network = r#"{"podman": {"interfaces": {"eth0": {"mac_address": "f2:99:8d:fb:5a:57",
        "subnets": [{"ipnet": "10.88.0.9/16", "gateway": "10.88.0.1"}]}}}}"#;
    let files = [
        ("config.dump", CONFIG),
        ("spec.dump", podman),
        ("network.status", network),
        ("deleted.files", r#"["/etc/motd"]"#),
        ("rootfs-diff.tar", "0123456789"),
    ];
    let archive = opened(&tar("./checkpoint/", &files), Contents::Arguments).unwrap();
    let container = archive.container().unwrap();
    assert_eq!((container.engine, container.name.as_str()), (Engine::Podman, "web"));
    assert_eq!(container.interfaces[0].addresses, ["10.88.0.9/16"]);
    assert_eq!(container.mounts[0].destination, "/proc");
    assert_eq!(container.deleted_files, ["/etc/motd"]);
    assert_eq!(container.root_fs_diff_size, Some(10));
    assert_eq!(container.checkpointed.as_deref(), Some("2024-05-01T11:00:00Z"));

    let crio = r#"{"annotations": {"io.container.manager": "cri-o", "io.kubernetes.cri-o.IP.0": "10.85.0.2",
        "io.kubernetes.cri-o.Created": "2024-06-01T10:00:00Z", "io.kubernetes.pod.name": "pod-1",
        "io.kubernetes.cri-o.Metadata": "{\"name\": \"counter\", \"attempt\": 1}", "io.kubernetes.pod.namespace": "default"}}"#;
    let files = [("config.dump", CONFIG), ("spec.dump", crio)];
    let archive = opened(&tar("checkpoint/", &files), Contents::Arguments).unwrap();
    let container = archive.container().unwrap();
    assert_eq!((container.engine, container.name.as_str()), (Engine::CriO, "counter"));
    assert_eq!((container.pod.as_deref(), container.namespace.as_deref()), (Some("pod-1"), Some("default")));
    assert_eq!(container.created, "2024-06-01T10:00:00Z");
    assert_eq!(container.interfaces[0].addresses, ["10.85.0.2"]);

    let containerd = r#"{"annotations": {"io.kubernetes.cri.container-name": "job",
        "io.kubernetes.cri.sandbox-name": "pod-2", "io.kubernetes.cri.sandbox-namespace": "prod"}}"#;
    let files = [("config.dump", CONFIG), ("spec.dump", containerd)];
    let archive = opened(&tar("checkpoint/", &files), Contents::Arguments).unwrap();
    let container = archive.container().unwrap();
    assert_eq!((container.engine, container.name.as_str()), (Engine::Containerd, "job"));
    assert_eq!((container.pod.as_deref(), container.namespace.as_deref()), (Some("pod-2"), Some("prod")));
}

/// What versions and settings leave out or write otherwise.
#[test]
fn what_engines_say_otherwise() {
    let container = |spec: &str, more: &[(&str, &str)]| {
        let files = [&[("config.dump", CONFIG), ("spec.dump", spec)], more].concat();
        opened(&tar("checkpoint/", &files), Contents::Arguments).unwrap().container().unwrap().clone()
    };
    // Before podman 4, with CNI.
    let podman = r#"{"annotations": {"io.container.manager": "libpod"}}"#;
    let network = r#"[{"cniVersion": "0.4.0", "interfaces": [{"name": "cni-podman0", "mac": "c6:37:79:d6:20:01"},
        {"name": "eth0", "mac": "f2:99:8d:fb:5a:57", "sandbox": "/run/netns/cni-1"}],
        "ips": [{"version": "4", "interface": 1, "address": "10.88.0.9/16", "gateway": "10.88.0.1"}]}]"#;
    let plain = container(podman, &[]);
    let old = container(podman, &[("network.status", network), ("checkpoint/descriptors.json", "[null]")]);
    assert_eq!(old.interfaces.len(), 1);
    assert_eq!(
        (old.interfaces[0].name.as_str(), old.interfaces[0].mac.as_str()),
        ("eth0", "f2:99:8d:fb:5a:57")
    );
    assert_eq!(old.interfaces[0].addresses, ["10.88.0.9/16"]);
    assert_eq!(
        old.checkpoint_size,
        plain.checkpoint_size + 6,
        "what the runtime keeps beside the images counts"
    );
    // Without the notes of Kubernetes.
    for spec in [r#"{"annotations": {"io.container.manager": "cri-o"}}"#, "{}"] {
        assert_eq!(container(spec, &[]).name, "web");
    }
}

#[test]
fn a_bare_tar_of_images_is_a_checkpoint_too() {
    for dir in ["", "some-name/"] {
        let archive = opened(&tar(dir, &[]), Contents::Arguments).unwrap();
        assert!(archive.container().is_none());
        assert_eq!(archive.checkpoint().tasks().unwrap().len(), 2);
    }
}

#[test]
fn bad_archives_are_told() {
    let no_checkpoint = tar("a/b/c/d/", &[]);
    let error = opened(&no_checkpoint, Contents::Arguments).unwrap_err();
    assert!(matches!(&error, ImageError::Invalid { what, .. } if what.contains("no checkpoint")), "{error}");
    assert!(opened(b"\x1f\x8bnonsense", Contents::Arguments).is_err());
    assert!(opened(&[0x28, 0xb5, 0x2f, 0xfd, 1, 2, 3], Contents::Arguments).is_err());
    assert!(opened(b"", Contents::Arguments).is_err());
    let whole = tar("checkpoint/", &[]);
    assert!(opened(&whole[..whole.len() / 2], Contents::Arguments).is_err());
    let files = [("config.dump", "{"), ("spec.dump", "{}")];
    let error = opened(&tar("checkpoint/", &files), Contents::Arguments).unwrap_err();
    assert!(error.to_string().contains("config.dump"), "{error}");
}

/// A path that leads elsewhere is no part of a checkpoint, and nothing is written there.
#[test]
fn paths_do_not_lead_out() {
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("inventory.img");
    let mut bytes = tar("checkpoint/", &[]);
    // The builder refuses such names, so they are put into the header by hand.
    for name in [target.display().to_string(), "../../../inventory.img".to_owned()] {
        let mut header = tar::Header::new_gnu();
        header.as_gnu_mut().unwrap().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_size(3);
        header.set_mode(0o600);
        header.set_cksum();
        let mut entry = header.as_bytes().to_vec();
        entry.extend(b"abc");
        entry.resize(1024, 0);
        entry.extend(bytes);
        bytes = entry;
    }
    let archive = opened(&bytes, Contents::Arguments).unwrap();
    assert_eq!(archive.checkpoint().tasks().unwrap().len(), 2);
    assert!(!target.exists());
}
