//! What a container engine puts beside the images.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;
use serde_json::Value;

/// The engine's files that are read.
pub(super) const FILES: &[&str] = &[
    "config.dump",
    "spec.dump",
    "network.status",
    "deleted.files",
    "status",
    "config.v2.json",
    "hostconfig.json",
];
/// Where images lie beside those files.
pub(super) const CHECKPOINT_DIR: &str = "checkpoint";

/// Whether these files describe a container.
pub(super) fn describes(files: &BTreeMap<String, Vec<u8>>) -> bool {
    (files.contains_key("config.dump") && files.contains_key("spec.dump"))
        || files.contains_key("config.v2.json")
}

/// Changes to the container's file system.
pub(super) const ROOT_FS_DIFF: &str = "rootfs-diff.tar";

/// A container engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Engine {
    /// podman.
    Podman,
    /// CRI-O.
    #[serde(rename = "CRI-O")]
    CriO,
    /// containerd.
    #[serde(rename = "containerd")]
    Containerd,
    /// docker.
    #[serde(rename = "docker")]
    Docker,
}

impl fmt::Display for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Podman => "Podman",
            Self::CriO => "CRI-O",
            Self::Containerd => "containerd",
            Self::Docker => "docker",
        })
    }
}

/// A container, as its engine describes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Container {
    /// The engine.
    pub engine: Engine,
    /// Its name.
    #[serde(rename = "container_name")]
    pub name: String,
    /// Its id.
    pub id: String,
    /// Name of its image.
    pub image: String,
    /// The runtime that ran it.
    pub runtime: String,
    /// When it was made, RFC 3339.
    pub created: String,
    /// When it was checkpointed, RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub checkpointed: Option<String>,
    /// Its pod.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod: Option<String>,
    /// Its pod's namespace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Its network interfaces.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub interfaces: Vec<Interface>,
    /// Annotations of the runtime specification.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// Mounts of the runtime specification.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub mounts: Vec<SpecMount>,
    /// Bytes of images in the archive.
    pub checkpoint_size: u64,
    /// Bytes of changes to its file system.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub root_fs_diff_size: Option<u64>,
    /// Files of its image that it had removed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub deleted_files: Vec<String>,
}

/// A network interface of a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Interface {
    /// The network, or empty.
    pub network: String,
    /// Its name, or empty.
    pub name: String,
    /// Addresses, with the length of the prefix where it is known.
    pub addresses: Vec<String>,
    /// Hardware address, or empty.
    pub mac: String,
}

/// A mount of the runtime specification.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SpecMount {
    /// Where.
    pub destination: String,
    /// Type of its file system.
    #[serde(rename = "type")]
    pub kind: String,
    /// What is mounted.
    pub source: String,
}

fn text(value: &Value, key: &str) -> String {
    value.get(key).and_then(Value::as_str).unwrap_or_default().to_owned()
}

/// The container that `files` describe; `None` if they do not.
pub(super) fn container(
    files: &BTreeMap<String, Vec<u8>>,
    checkpoint_size: u64,
    root_fs_diff_size: Option<u64>,
) -> Result<Option<Container>, String> {
    let parse = |name: &str| {
        let parsed = files.get(name).map(|bytes| serde_json::from_slice::<Value>(bytes));
        parsed.transpose().map_err(|error| format!("{name}: {error}"))
    };
    let (Some(config), Some(spec)) = (parse("config.dump")?, parse("spec.dump")?) else {
        let (docker, host) = (parse("config.v2.json")?, parse("hostconfig.json")?.unwrap_or_default());
        return Ok(docker.map(|docker| of_docker(&docker, &host, checkpoint_size)));
    };
    let annotations = spec.get("annotations").and_then(Value::as_object).into_iter().flatten();
    let annotations: BTreeMap<String, String> =
        annotations.filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned()))).collect();
    let note = |key: &str| annotations.get(key).cloned();
    let engine = match annotations.get("io.container.manager").map(String::as_str) {
        Some("libpod") => Engine::Podman,
        Some("cri-o") => Engine::CriO,
        _ => Engine::Containerd,
    };
    let created = text(&config, "createdTime");
    let (name, created, pod, namespace, interfaces) = match engine {
        Engine::Podman => {
            (text(&config, "name"), created, None, None, interfaces(parse("network.status")?.as_ref()))
        }
        Engine::CriO => {
            let metadata = note("io.kubernetes.cri-o.Metadata").unwrap_or_default();
            let metadata: Value = serde_json::from_str(&metadata).unwrap_or_default();
            let address = note("io.kubernetes.cri-o.IP.0").filter(|address| !address.is_empty());
            let interface = address.map(|address| Interface {
                network: String::new(),
                name: String::new(),
                addresses: vec![address],
                mac: String::new(),
            });
            (
                text(&metadata, "name"),
                note("io.kubernetes.cri-o.Created").unwrap_or(created),
                note("io.kubernetes.pod.name"),
                note("io.kubernetes.pod.namespace"),
                interface.into_iter().collect(),
            )
        }
        Engine::Containerd | Engine::Docker => (
            note("io.kubernetes.cri.container-name").unwrap_or_default(),
            created,
            note("io.kubernetes.cri.sandbox-name"),
            note("io.kubernetes.cri.sandbox-namespace"),
            Vec::new(),
        ),
    };
    // Outside of Kubernetes there are no such notes.
    let name = if name.is_empty() { text(&config, "name") } else { name };
    let image = ["rootfsImageName", "rootfsImage"].map(|key| text(&config, key));
    let image = image.into_iter().find(|image| !image.is_empty()).unwrap_or_default();
    let mounts = spec.get("mounts").and_then(Value::as_array).into_iter().flatten();
    let mount = |value: &Value| SpecMount {
        destination: text(value, "destination"),
        kind: text(value, "type"),
        source: text(value, "source"),
    };
    let deleted = parse("deleted.files")?;
    let deleted = deleted.as_ref().and_then(Value::as_array).into_iter().flatten();
    Ok(Some(Container {
        engine,
        name,
        id: text(&config, "id"),
        image,
        runtime: text(&config, "runtime"),
        created,
        // Go writes the time that is none as the first of all years.
        checkpointed: Some(text(&config, "checkpointedTime"))
            .filter(|t| !t.is_empty() && !t.starts_with("0001-")),
        pod,
        namespace,
        interfaces,
        mounts: mounts.map(mount).collect(),
        annotations,
        checkpoint_size,
        root_fs_diff_size,
        deleted_files: deleted.filter_map(|name| Some(name.as_str()?.to_owned())).collect(),
    }))
}

/// What docker keeps in the directory of a container, in which its checkpoints lie.
fn of_docker(config: &Value, host: &Value, checkpoint_size: u64) -> Container {
    let networks = config.pointer("/NetworkSettings/Networks").and_then(Value::as_object);
    let interfaces = networks.into_iter().flatten().map(|(network, settings)| Interface {
        network: network.clone(),
        name: String::new(),
        addresses: ["IPAddress", "GlobalIPv6Address"]
            .map(|key| text(settings, key))
            .into_iter()
            .filter(|address| !address.is_empty())
            .collect(),
        mac: text(settings, "MacAddress"),
    });
    let mounts = config.get("MountPoints").and_then(Value::as_object).into_iter().flatten();
    let mounts = mounts.map(|(destination, mount)| SpecMount {
        destination: destination.clone(),
        kind: text(mount, "Type"),
        source: text(mount, "Source"),
    });
    let image = config.pointer("/Config/Image").and_then(Value::as_str).unwrap_or_default();
    Container {
        engine: Engine::Docker,
        name: text(config, "Name").trim_start_matches('/').to_owned(),
        id: text(config, "ID"),
        image: image.to_owned(),
        runtime: text(host, "Runtime"),
        created: text(config, "Created"),
        checkpointed: None,
        pod: None,
        namespace: None,
        interfaces: interfaces.collect(),
        annotations: BTreeMap::new(),
        mounts: mounts.collect(),
        checkpoint_size,
        root_fs_diff_size: None,
        deleted_files: Vec::new(),
    }
}

/// Interfaces in podman's status of the network: by network and name, or before podman 4 the results of CNI plugins.
fn interfaces(status: Option<&Value>) -> Vec<Interface> {
    if let Some(results) = status.and_then(Value::as_array) {
        return results.iter().flat_map(of_cni).collect();
    }
    let mut all = Vec::new();
    for (network, result) in status.and_then(Value::as_object).into_iter().flatten() {
        for (name, interface) in result.get("interfaces").and_then(Value::as_object).into_iter().flatten() {
            let subnets = interface.get("subnets").and_then(Value::as_array).into_iter().flatten();
            all.push(Interface {
                network: network.clone(),
                name: name.clone(),
                addresses: subnets.map(|subnet| text(subnet, "ipnet")).filter(|a| !a.is_empty()).collect(),
                mac: text(interface, "mac_address"),
            });
        }
    }
    all
}

/// The interfaces inside the container: those in a sandbox. The others are the host's ends.
fn of_cni(result: &Value) -> Vec<Interface> {
    let list = |key: &str| result.get(key).and_then(Value::as_array).into_iter().flatten().enumerate();
    let inside = list("interfaces").filter(|(_, interface)| !text(interface, "sandbox").is_empty());
    let interfaces = inside.map(|(index, interface)| {
        let is_its = |ip: &&Value| ip.get("interface").and_then(Value::as_u64) == Some(index as u64);
        let addresses = list("ips").map(|(_, ip)| ip).filter(is_its).map(|ip| text(ip, "address"));
        Interface {
            network: String::new(),
            name: text(interface, "name"),
            addresses: addresses.filter(|address| !address.is_empty()).collect(),
            mac: text(interface, "mac"),
        }
    });
    interfaces.collect()
}
