//! `proto/` to checked-in Rust: protox compiles, prost-build writes. No protoc is needed anywhere.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// The repository's root.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask is a folder of the workspace").to_owned()
}

/// Regenerates `crates/images/src/generated/`, or with `check` fails if it differs.
pub(crate) fn run(check: bool) -> Result<()> {
    let root = root();
    let proto = root.join("proto");
    let target = root.join("crates/images/src/generated");
    let mut files: Vec<PathBuf> = fs::read_dir(&proto)?.map(|e| Ok(e?.path())).collect::<Result<Vec<_>>>()?;
    files.retain(|p| p.extension().is_some_and(|e| e == "proto"));
    files.sort();
    let mut compiler = protox::Compiler::new([&proto])?;
    compiler.include_imports(true).open_files(files).context("compiling proto/")?;
    let all = compiler.file_descriptor_set();

    // `opts.proto` stays in the descriptor set, where reflection reads the options of fields, but
    // its CRIU_Opts would be the same Rust name as criu_opts of the RPC protocol.
    let mut for_rust = all.clone();
    for_rust.file.retain(|f| !matches!(f.name(), "opts.proto" | "google/protobuf/descriptor.proto"));
    let out = tempfile::tempdir()?;
    let mut config = prost_build::Config::new();
    // An entry of files.img is one of two dozen kinds. With room for each of them, one would take kilobytes, and there can be
    // many thousands, nearly all of them regular files.
    for field in large_fields(&all) {
        config.boxed(field);
    }
    config
        .out_dir(out.path())
        .disable_comments(["."])
        .enable_type_names()
        .compile_fds(for_rust)
        .context("generating Rust")?;

    let rust = fs::read(out.path().join("_.rs"))?;
    // Encoded by the compiler: the typed set above has no place for custom options. Without source
    // info, for the comments of `proto/` are no part of the format.
    let descriptors = compiler.encode_file_descriptor_set();
    let shapes = shapes(&all).into_bytes();
    let wanted = [("images.rs", rust), ("images.fds", descriptors), ("shapes.rs", shapes)];
    for (name, bytes) in wanted {
        let path = target.join(name);
        if check {
            if fs::read(&path).unwrap_or_default() != bytes {
                bail!("{} is stale: run `cargo xtask codegen`", path.display());
            }
        } else {
            fs::create_dir_all(&target)?;
            fs::write(&path, bytes)?;
        }
    }
    Ok(())
}

/// The kinds of `file_entry` but the most common.
fn large_fields(all: &prost_types::FileDescriptorSet) -> Vec<String> {
    use prost_types::field_descriptor_proto::Type;
    let messages = all.file.iter().flat_map(|file| &file.message_type);
    let fields = messages.filter(|message| message.name() == "file_entry").flat_map(|message| &message.field);
    let kinds = fields.filter(|field| field.r#type() == Type::Message && field.name() != "reg");
    kinds.map(|field| format!(".file_entry.{}", field.name())).collect()
}

/// What prost does not keep: which fields of a message are required, and which hold messages.
fn shapes(all: &prost_types::FileDescriptorSet) -> String {
    use prost_types::field_descriptor_proto::{Label, Type};
    let mut messages: Vec<_> =
        all.file.iter().filter(|f| f.package().is_empty()).flat_map(|f| &f.message_type).collect();
    messages.sort_by_key(|m| m.name());
    let index = |name: &str| messages.iter().position(|m| format!(".{}", m.name()) == name);
    let mut text = String::from("// Written by `cargo xtask codegen`.\nstatic SHAPES: &[Shape] = &[\n");
    for message in &messages {
        let required: Vec<String> = message
            .field
            .iter()
            .filter(|f| f.label() == Label::Required)
            .map(|f| format!("({}, {:?})", f.number(), f.name()))
            .collect();
        let nested: Vec<String> = message
            .field
            .iter()
            .filter(|f| f.r#type() == Type::Message)
            .filter_map(|f| Some(format!("({}, {})", f.number(), index(f.type_name())?)))
            .collect();
        text += &format!(
            "Shape {{ name: {:?}, required: &[{}], nested: &[{}] }},\n",
            message.name(),
            required.join(", "),
            nested.join(", ")
        );
    }
    text + "];\n"
}
