//! Checkpoints deeper in archives: in layers of container images, several in one.

use std::path::Path;

use rewake_images::ImageError;
use rewake_images::archive::{Archive, Contents, Engine};
use rewake_images::explore::{Details, inspect};

use super::{CONFIG, case, gzip, opened, tar};

const SPEC: &str = r#"{"annotations": {"io.container.manager": "libpod"}}"#;

/// A tar file of these files.
fn tar_of(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (name, bytes) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o600);
        tar.append_data(&mut header, name, *bytes).unwrap();
    }
    tar.into_inner().unwrap()
}

fn exported() -> Vec<u8> {
    tar("checkpoint/", &[("config.dump", CONFIG), ("spec.dump", SPEC)])
}

const MANIFEST: &str = r#"{"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
    "config": {"digest": "sha256:cc", "mediaType": "application/vnd.oci.image.config.v1+json", "size": 2},
    "layers": [{"digest": "sha256:00", "mediaType": "application/vnd.oci.image.layer.v1.tar", "size": 1},
               {"digest": "sha256:11", "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "size": 1}]}"#;

const INDEX: &str = r#"{"schemaVersion": 2, "manifests": [{"digest": "sha256:aa", "size": 1,
    "mediaType": "application/vnd.oci.image.manifest.v1+json",
    "annotations": {"org.opencontainers.image.ref.name": "quay.io/me/checkpoint:latest"}}]}"#;

fn layout(layer: &[u8]) -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("blobs/sha256/00", tar_of(&[("etc/motd", b"hello")])),
        ("blobs/sha256/11", layer.to_vec()),
        ("blobs/sha256/aa", MANIFEST.into()),
        ("blobs/sha256/cc", b"{}".to_vec()),
        ("index.json", INDEX.into()),
        ("oci-layout", br#"{"imageLayoutVersion": "1.0.0"}"#.to_vec()),
    ]
}

fn check(archive: &Archive, image: Option<&str>) {
    assert_eq!(archive.image(), image);
    assert_eq!(archive.container().unwrap().name, "web");
    let found = inspect(archive.checkpoint(), Details { environment: true, files: true }).unwrap();
    let wanted = inspect(
        &rewake_images::Checkpoint::open(case()).unwrap(),
        Details { environment: true, files: true },
    )
    .unwrap();
    assert_eq!(found.processes, wanted.processes, "arguments and environment, too");
    assert_eq!(found.statistics, wanted.statistics);
}

#[test]
fn an_image_with_a_checkpoint_in_a_layer() {
    let layers = [
        exported(),
        gzip(&exported()),
        // The export itself as a file of the layer, compressed or not.
        gzip(&tar_of(&[("tmp/checkpoint.tar", &exported())])),
        tar_of(&[("checkpoint.tar.gz", &gzip(&exported()))]),
    ];
    for layer in layers {
        let files = layout(&layer);
        let files: Vec<(&str, &[u8])> = files.iter().map(|(name, bytes)| (*name, bytes.as_slice())).collect();
        let plain = tar_of(&files);
        for bytes in [gzip(&plain), plain] {
            check(&opened(&bytes, Contents::Arguments).unwrap(), Some("quay.io/me/checkpoint:latest"));
        }
        let dir = tempfile::tempdir().unwrap();
        for (name, bytes) in &files {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, bytes).unwrap();
        }
        let archive = Archive::open(dir.path(), None, Contents::Arguments).unwrap();
        check(&archive, Some("quay.io/me/checkpoint:latest"));
    }
}

#[test]
fn what_docker_save_and_containerd_make() {
    let saved = r#"[{"Config": "c.json", "RepoTags": ["checkpoint:1"], "Layers": ["0123/layer.tar"]}]"#;
    let bytes =
        tar_of(&[("0123/layer.tar", &exported()), ("c.json", b"{}"), ("manifest.json", saved.as_bytes())]);
    check(&opened(&bytes, Contents::Arguments).unwrap(), Some("checkpoint:1"));

    // containerd's own checkpoints: images at the top of a layer that the index names itself.
    let index = r#"{"manifests": [{"digest": "sha256:11", "size": 1,
        "mediaType": "application/vnd.containerd.container.criu.checkpoint.criu.tar",
        "annotations": {"io.containerd.image.name": "docker.io/library/saved:1"}}]}"#;
    let bytes = tar_of(&[("blobs/sha256/11", &tar("", &[])), ("index.json", index.as_bytes())]);
    let archive = opened(&bytes, Contents::Arguments).unwrap();
    assert!(archive.container().is_none());
    assert_eq!(archive.image(), Some("docker.io/library/saved:1"));
    assert_eq!(archive.checkpoint().tasks().unwrap().len(), 2);
}

/// All of a pod: a directory for each container, beside what the engine says of the pod.
#[test]
fn several_in_one() {
    let mut builder = tar::Builder::new(Vec::new());
    let mut put = |name: &str, bytes: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o600);
        builder.append_data(&mut header, name, bytes).unwrap();
    };
    put("pod.options", br#"{"version": 1, "containers": {"web": "k8s_web", "db": "k8s_db"}}"#);
    put("pod.dump", br#"{"hostname": "host"}"#);
    for name in ["web", "db"] {
        put(&format!("{name}/config.dump"), CONFIG.replace("\"web\"", &format!("\"{name}\"")).as_bytes());
        put(&format!("{name}/spec.dump"), SPEC.as_bytes());
        put(&format!("{name}/rootfs-diff.tar"), name.repeat(3).as_bytes());
        for entry in std::fs::read_dir(case()).unwrap() {
            let entry = entry.unwrap();
            let file = entry.file_name().into_string().unwrap();
            if file.ends_with(".img") {
                put(&format!("{name}/checkpoint/{file}"), &std::fs::read(entry.path()).unwrap());
            }
        }
    }
    let mut file = tempfile::NamedTempFile::new().unwrap();
    std::io::Write::write_all(&mut file, &builder.into_inner().unwrap()).unwrap();
    let all = Archive::open_all(file.path(), Contents::Arguments).unwrap();
    let names: Vec<_> = all.iter().map(Archive::name).collect();
    assert_eq!(names, ["db", "web"]);
    assert_eq!(all[0].place(), Path::new("db/checkpoint"));
    let sizes: Vec<_> = all.iter().map(|a| a.container().unwrap().root_fs_diff_size).collect();
    assert_eq!(sizes, [Some(6), Some(9)]);
    for archive in &all {
        let found = inspect(archive.checkpoint(), Details::default()).unwrap();
        assert!(found.processes[0].arguments.as_ref().unwrap()[0].ends_with("pipe00"));
    }
    let error = Archive::open(file.path(), None, Contents::Arguments).unwrap_err();
    assert!(matches!(&error, ImageError::Invalid { what, .. } if what.ends_with("db, web")), "{error}");
    for name in ["web", "web/checkpoint"] {
        let one = Archive::open(file.path(), Some(name), Contents::Memory).unwrap();
        assert_eq!(one.name(), "web");
    }
    let error = Archive::open(file.path(), Some("mail"), Contents::Arguments).unwrap_err();
    assert!(matches!(&error, ImageError::Invalid { what, .. } if what.contains("mail")), "{error}");
}

/// docker has its checkpoints in the directory of the container.
#[test]
fn a_directory_of_docker() {
    let dir = tempfile::tempdir().unwrap();
    let images = dir.path().join("checkpoints/before-lunch");
    std::fs::create_dir_all(&images).unwrap();
    for entry in std::fs::read_dir(case()).unwrap() {
        let entry = entry.unwrap();
        if entry.file_name().to_str().unwrap().ends_with(".img") {
            std::fs::copy(entry.path(), images.join(entry.file_name())).unwrap();
        }
    }
    let config = r#"{"ID": "abc", "Name": "/looper", "Created": "2024-05-01T10:00:00Z", "Config": {"Image": "busybox"},
        "NetworkSettings": {"Networks": {"bridge": {"IPAddress": "172.17.0.2", "MacAddress": "02:42:ac:11:00:02"}}},
        "MountPoints": {"/data": {"Type": "volume", "Source": "/var/lib/docker/volumes/data/_data"}}}"#;
    std::fs::write(dir.path().join("config.v2.json"), config).unwrap();
    std::fs::write(dir.path().join("hostconfig.json"), r#"{"Runtime": "runc"}"#).unwrap();
    let archive = Archive::open(dir.path(), None, Contents::Arguments).unwrap();
    let container = archive.container().unwrap();
    assert_eq!((container.engine, container.name.as_str()), (Engine::Docker, "looper"));
    assert_eq!((container.image.as_str(), container.runtime.as_str()), ("busybox", "runc"));
    assert_eq!(container.interfaces[0].addresses, ["172.17.0.2"]);
    assert_eq!(container.mounts[0].destination, "/data");
    let found = inspect(archive.checkpoint(), Details::default()).unwrap();
    assert!(found.processes[0].arguments.as_ref().unwrap()[0].ends_with("pipe00"));
}

/// Archives in archives end somewhere, and one that is cut short is told.
#[test]
fn nesting_is_bounded() {
    let mut bytes = exported();
    for _ in 0..6 {
        bytes = tar_of(&[("checkpoint.tar", &bytes)]);
    }
    assert!(opened(&bytes, Contents::Arguments).unwrap_err().to_string().contains("no checkpoint"));
    let whole = exported();
    let cut = tar_of(&[("blobs/sha256/11", &gzip(&whole)[..500])]);
    assert!(opened(&cut, Contents::Arguments).is_err());
}
