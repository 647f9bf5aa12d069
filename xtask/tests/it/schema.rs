//! `proto/` says what the format says: each message, field, enum and option, both ways.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use protox::prost_reflect::{DescriptorPool, FieldDescriptor, Kind, Value};
use serde_json::Value as Json;

/// What a name means, as one comparable line; keys are `message m`, `field m.f`, `enum e`, `value e.v`.
type Facts = BTreeMap<String, String>;

#[test]
fn proto_is_the_schema_of_the_format() {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut wanted = Facts::new();
    for name in ["schema.json", "newer.json"] {
        let text = fs::read_to_string(manifest.join("testdata").join(name)).expect(name);
        let facts = facts_of_json(&serde_json::from_str(&text).expect(name));
        let count = |kind: &str| facts.keys().filter(|k| k.starts_with(kind)).count();
        let counted = (name, count("message "), count("field "));
        assert!([("schema.json", 173, 1162), ("newer.json", 9, 16)].contains(&counted), "{counted:?}");
        wanted.extend(facts);
    }
    let found = facts_of_pool(&compile(&manifest.parent().expect("the workspace").join("proto")));

    let mut differences = Vec::new();
    for (name, fact) in &wanted {
        match found.get(name) {
            None => differences.push(format!("{name}: missing in proto/, the format has {fact:?}")),
            Some(ours) if ours != fact => {
                differences.push(format!("{name}: proto/ has {ours:?}, the format has {fact:?}"));
            }
            Some(_) => {}
        }
    }
    for name in found.keys().filter(|name| !wanted.contains_key(*name)) {
        differences.push(format!("{name}: the format has no such thing"));
    }
    assert!(differences.is_empty(), "{} differences:\n{}", differences.len(), differences.join("\n"));
}

/// All files of `proto/`, with the values of custom options.
fn compile(proto: &Path) -> DescriptorPool {
    let mut files: Vec<PathBuf> = fs::read_dir(proto)
        .expect("proto/")
        .map(|entry| entry.expect("an entry of proto/").path())
        .filter(|path| path.extension().is_some_and(|e| e == "proto"))
        .collect();
    files.sort();
    let mut compiler = protox::Compiler::new([proto]).expect("proto/ is a folder");
    compiler.include_imports(true).open_files(files).expect("proto/ compiles");
    compiler.descriptor_pool()
}

fn facts_of_pool(pool: &DescriptorPool) -> Facts {
    let mut facts = Facts::new();
    for file in pool.files().filter(|f| f.package_name() != "google.protobuf") {
        let proto2 = file.file_descriptor_proto().syntax.as_deref().is_none_or(|s| s == "proto2");
        assert!(proto2 && file.package_name().is_empty(), "{}: syntax or package", file.name());
    }
    for message in pool.all_messages().filter(|m| m.package_name().is_empty()) {
        facts.insert(format!("message {}", message.full_name()), String::new());
        for field in message.fields() {
            facts.insert(format!("field {}", field.full_name()), describe(&field));
        }
    }
    for an_enum in pool.all_enums().filter(|e| e.package_name().is_empty()) {
        facts.insert(format!("enum {}", an_enum.full_name()), String::new());
        for value in an_enum.values() {
            let name = format!("value {}.{}", an_enum.full_name(), value.name());
            facts.insert(name, value.number().to_string());
        }
    }
    for extension in pool.all_extensions() {
        let fact = format!("{} to {}", extension.number(), extension.containing_message().full_name());
        facts.insert(format!("extension {}", extension.full_name()), fact);
    }
    facts
}

fn describe(field: &FieldDescriptor) -> String {
    let proto = field.field_descriptor_proto();
    let kind = match field.kind() {
        Kind::Message(m) => format!("message {}", m.full_name()),
        Kind::Enum(e) => format!("enum {}", e.full_name()),
        scalar => format!("scalar {scalar:?}"),
    };
    let label = format!("{:?}", proto.label()).to_lowercase();
    let mut options: Vec<String> = Vec::new();
    for (extension, value) in field.options().extensions() {
        assert_eq!(extension.full_name(), "criu", "{}", field.full_name());
        let value = value.as_message().expect("the option is a message");
        options.extend(value.fields().map(|(option, value)| match value {
            Value::Bool(v) => format!("{}={v}", option.name()),
            Value::String(v) => format!("{}={v}", option.name()),
            other => format!("{}={other:?}", option.name()),
        }));
    }
    options.sort();
    let packed = proto.options.as_ref().is_some_and(|o| o.packed.is_some());
    line(field.number().into(), &label, &kind, proto.default_value.as_deref(), packed, &options)
}

fn facts_of_json(schema: &Json) -> Facts {
    let mut facts = Facts::new();
    for file in list(schema, "files") {
        for message in list(file, "messages") {
            let name = text(message, "name");
            facts.insert(format!("message {name}"), String::new());
            for field in list(message, "fields") {
                facts.insert(format!("field {name}.{}", text(field, "name")), describe_json(field));
            }
            enums_of_json(list(message, "enums"), &format!("{name}."), &mut facts);
            assert_eq!(list(message, "messages").len(), 0, "{name} nests messages");
        }
        enums_of_json(list(file, "enums"), "", &mut facts);
        for extension in list(file, "extensions") {
            let fact = format!("{} to {}", number(extension), text(extension, "extendee"));
            facts.insert(format!("extension {}", text(extension, "name")), fact);
        }
    }
    facts
}

fn enums_of_json(enums: &[Json], prefix: &str, facts: &mut Facts) {
    for an_enum in enums {
        let name = format!("{prefix}{}", text(an_enum, "name"));
        facts.insert(format!("enum {name}"), String::new());
        for value in list(an_enum, "values") {
            facts.insert(format!("value {name}.{}", text(value, "name")), number(value).to_string());
        }
    }
}

fn describe_json(field: &Json) -> String {
    let mut options: Vec<String> = Vec::new();
    for (name, value) in field.get("criu").and_then(Json::as_object).into_iter().flatten() {
        options.push(format!("{name}={}", value.as_str().map_or_else(|| value.to_string(), str::to_owned)));
    }
    options.sort();
    let kind = format!("{} {}", text(field, "kind"), text(field, "type"));
    let default = field.get("default").map(|_| text(field, "default"));
    let packed = field.get("packed").is_some();
    line(number(field), text(field, "label"), &kind, default, packed, &options)
}

fn line(
    number: i64,
    label: &str,
    kind: &str,
    default: Option<&str>,
    packed: bool,
    options: &[String],
) -> String {
    let default = default.map(|d| format!(" default {d}")).unwrap_or_default();
    let packed = if packed { " packed" } else { "" };
    format!("{number} {label} {kind}{default}{packed} {}", options.join(" ")).trim_end().to_owned()
}

fn list<'a>(of: &'a Json, name: &str) -> &'a [Json] {
    of.get(name).and_then(Json::as_array).map_or(&[], Vec::as_slice)
}

fn text<'a>(of: &'a Json, name: &str) -> &'a str {
    of.get(name).and_then(Json::as_str).expect("schema.json names, labels and types everything")
}

fn number(of: &Json) -> i64 {
    of.get("number").and_then(Json::as_i64).expect("schema.json numbers everything")
}
