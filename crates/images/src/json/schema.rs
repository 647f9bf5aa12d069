//! The schema in the form that rendering and parsing walk: compiled once from the descriptors and their options.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use prost_reflect::{Cardinality, DescriptorPool, FieldDescriptor, Kind as FieldKind, Value};

use super::tables::{self, Dict, Flags};
use super::wire;
use crate::DESCRIPTORS;

/// All messages and enums, referred to by index.
#[derive(Debug)]
pub(super) struct Schema {
    messages: Vec<Message>,
    enums: Vec<Enum>,
    by_name: BTreeMap<String, usize>,
}

/// Fields in order of their number.
#[derive(Debug)]
pub(super) struct Message {
    pub(super) name: String,
    pub(super) fields: Vec<Field>,
    /// A bit for each required field, by index.
    pub(super) required: u128,
}

#[derive(Debug)]
pub(super) struct Field {
    pub(super) number: u32,
    pub(super) name: String,
    /// The name as JSON has it: between quotes, with the colon.
    pub(super) json_key: Vec<u8>,
    /// The first eight bytes of it, the first one lowest, and a mask of those that it has.
    pub(super) key_word: u64,
    pub(super) key_mask: u64,
    /// Number and wire type of a value that is not packed, as they are encoded.
    pub(super) wire_key: wire::Short,
    pub(super) repeated: bool,
    pub(super) required: bool,
    pub(super) packed: bool,
    pub(super) ty: Type,
    pub(super) render: Render,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Type {
    Bool,
    Int(Int),
    String,
    Bytes,
    /// Index of the enum.
    Enum(usize),
    /// Index of the message.
    Message(usize),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Int {
    Int32,
    Int64,
    Uint32,
    Uint64,
    Sint32,
    Sint64,
    Fixed32,
    Fixed64,
    Sfixed32,
    Sfixed64,
}

/// What the options of a field ask of the pretty form, and of its reading back. `UnixName` counts in the plain form too.
#[derive(Debug, Clone, Copy)]
pub(super) enum Render {
    Plain,
    /// Of a message: all integers below.
    Hex,
    Dev {
        /// As user space encodes device numbers, not as the kernel does.
        user: bool,
    },
    Flags(&'static Flags),
    Dict(&'static Dict),
    Address,
    UnixName,
}

#[derive(Debug)]
pub(super) struct Enum {
    pub(super) name: String,
    values: Vec<(i32, String)>,
}

impl Enum {
    pub(super) fn name_of(&self, number: i32) -> Option<&str> {
        self.values.iter().find(|(n, _)| *n == number).map(|(_, name)| name.as_str())
    }

    pub(super) fn number_of(&self, name: &[u8]) -> Option<i32> {
        self.values.iter().find(|(_, n)| n.as_bytes() == name).map(|(number, _)| *number)
    }
}

impl Field {
    /// A plain one, neither repeated nor required.
    pub(super) fn new(number: u32, name: &str, ty: Type) -> Self {
        // Names in a schema need no escapes.
        let json_key = format!("\"{name}\":").into_bytes();
        let mut word = [0; 8];
        word.iter_mut().zip(&json_key).for_each(|(to, from)| *to = *from);
        let mask = word.map(|byte| if byte == 0 { 0 } else { 0xff });
        Self {
            wire_key: wire::Short::key(number, wire::wire_type_of(ty)),
            number,
            name: name.to_owned(),
            json_key,
            key_word: u64::from_le_bytes(word),
            key_mask: u64::from_le_bytes(mask),
            repeated: false,
            required: false,
            packed: false,
            ty,
            render: Render::Plain,
        }
    }
}

impl Message {
    /// `fields` in order of their number.
    pub(super) fn new(name: String, fields: Vec<Field>) -> Self {
        let required = fields.iter().enumerate().filter(|(_, field)| field.required);
        let required = required.fold(0, |all, (index, _)| all | 1 << index);
        Self { name, fields, required }
    }

    /// The field and its index; looks first at `guess`, for fields mostly come in order.
    pub(super) fn by_number(&self, number: u32, guess: usize) -> Option<(usize, &Field)> {
        if let Some(field) = self.fields.get(guess).filter(|f| f.number == number) {
            return Some((guess, field));
        }
        let index = self.fields.binary_search_by_key(&number, |f| f.number).ok()?;
        Some((index, self.fields.get(index)?))
    }

    /// The field and its index; looks first at `guess`, for keys mostly come in order.
    pub(super) fn by_name(&self, name: &[u8], guess: usize) -> Option<(usize, &Field)> {
        let matches = |f: &&Field| f.name.as_bytes() == name;
        if let Some(field) = self.fields.get(guess).filter(matches) {
            return Some((guess, field));
        }
        self.fields.iter().enumerate().find(|(_, f)| matches(f))
    }
}

impl Schema {
    pub(super) fn get() -> &'static Self {
        static SCHEMA: LazyLock<Schema> = LazyLock::new(Schema::compile);
        &SCHEMA
    }

    pub(super) fn find(&self, name: &str) -> Option<&Message> {
        self.by_name.get(name).map(|&index| self.message(index))
    }

    pub(super) fn message(&self, index: usize) -> &Message {
        self.messages.get(index).expect("compile() makes indices of what is there")
    }

    pub(super) fn enumeration(&self, index: usize) -> &Enum {
        self.enums.get(index).expect("compile() makes indices of what is there")
    }

    fn compile() -> Self {
        let pool = DescriptorPool::decode(DESCRIPTORS).expect("generated with the crate, and tested");
        let descriptors: Vec<_> = pool.all_messages().filter(|m| m.package_name().is_empty()).collect();
        let enumerations: Vec<_> = pool.all_enums().filter(|e| e.package_name().is_empty()).collect();
        let message_index: BTreeMap<_, _> =
            descriptors.iter().enumerate().map(|(i, m)| (m.full_name().to_owned(), i)).collect();
        let enum_index: BTreeMap<_, _> =
            enumerations.iter().enumerate().map(|(i, e)| (e.full_name().to_owned(), i)).collect();
        let ty = |kind: FieldKind| match kind {
            FieldKind::Bool => Some(Type::Bool),
            FieldKind::String => Some(Type::String),
            FieldKind::Bytes => Some(Type::Bytes),
            FieldKind::Enum(e) => enum_index.get(e.full_name()).map(|&i| Type::Enum(i)),
            FieldKind::Message(m) => message_index.get(m.full_name()).map(|&i| Type::Message(i)),
            FieldKind::Int32 => Some(Type::Int(Int::Int32)),
            FieldKind::Int64 => Some(Type::Int(Int::Int64)),
            FieldKind::Uint32 => Some(Type::Int(Int::Uint32)),
            FieldKind::Uint64 => Some(Type::Int(Int::Uint64)),
            FieldKind::Sint32 => Some(Type::Int(Int::Sint32)),
            FieldKind::Sint64 => Some(Type::Int(Int::Sint64)),
            FieldKind::Fixed32 => Some(Type::Int(Int::Fixed32)),
            FieldKind::Fixed64 => Some(Type::Int(Int::Fixed64)),
            FieldKind::Sfixed32 => Some(Type::Int(Int::Sfixed32)),
            FieldKind::Sfixed64 => Some(Type::Int(Int::Sfixed64)),
            FieldKind::Float | FieldKind::Double => None,
        };
        let field = |descriptor: FieldDescriptor| {
            let ty = ty(descriptor.kind())?;
            Some(Field {
                repeated: descriptor.cardinality() == Cardinality::Repeated,
                required: descriptor.cardinality() == Cardinality::Required,
                packed: descriptor.is_packed(),
                render: render(&pool, &descriptor),
                ..Field::new(descriptor.number(), descriptor.name(), ty)
            })
        };
        let messages = descriptors.iter().map(|m| {
            let mut fields: Vec<Field> = m.fields().filter_map(field).collect();
            fields.sort_by_key(|f| f.number);
            Message::new(m.full_name().to_owned(), fields)
        });
        let enums = enumerations.iter().map(|e| Enum {
            name: e.full_name().to_owned(),
            values: e.values().map(|v| (v.number(), v.name().to_owned())).collect(),
        });
        let mut messages: Vec<_> = messages.collect();
        super::own::add_messages(&mut messages);
        let by_name = messages.iter().enumerate().map(|(i, m)| (m.name.clone(), i)).collect();
        Self { enums: enums.collect(), messages, by_name }
    }
}

/// The options of a field, in the order of precedence.
fn render(pool: &DescriptorPool, field: &FieldDescriptor) -> Render {
    let Some(extension) = pool.get_extension_by_name("criu") else { return Render::Plain };
    let options = field.options();
    if !options.has_extension(&extension) {
        return Render::Plain;
    }
    let value = options.get_extension(&extension);
    let Some(given) = value.as_message() else { return Render::Plain };
    let set = |name: &str| given.get_field_by_name(name).is_some_and(|v| v.as_bool() == Some(true));
    let text = |name: &str| {
        let value = given.get_field_by_name(name)?;
        value.as_ref().as_str().filter(|s| !s.is_empty()).map(str::to_owned)
    };
    debug_assert!(matches!(value.as_ref(), Value::Message(_)));
    if text("conv").as_deref() == Some("unix_name") {
        Render::UnixName
    } else if set("ipadd") {
        Render::Address
    } else if set("hex") {
        Render::Hex
    } else if set("dev") {
        Render::Dev { user: set("odev") }
    } else if let Some(table) = text("flags") {
        tables::flags(&table).map_or(Render::Hex, Render::Flags)
    } else if let Some(family) = text("dict") {
        tables::dict(&family, field.name()).map_or(Render::Plain, Render::Dict)
    } else {
        Render::Plain
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kind::{Head, KINDS};

    #[test]
    fn every_kind_has_its_messages_and_fields_are_sorted() {
        let schema = Schema::get();
        for row in KINDS.iter().filter(|row| row.head != Head::Raw) {
            assert!(schema.find(row.entry).is_some(), "{}", row.entry);
            assert!(row.rest.is_none_or(|name| schema.find(name).is_some()));
        }
        for message in &schema.messages {
            assert!(message.fields.is_sorted_by_key(|f| f.number), "{}", message.name);
            assert!(message.fields.len() <= 128, "{}: one bit for each", message.name);
        }
    }

    #[test]
    fn options_are_read() {
        let schema = Schema::get();
        let render = |message: &str, field: &str| {
            schema.find(message).unwrap().by_name(field.as_bytes(), 0).unwrap().1.render
        };
        assert!(matches!(render("vma_entry", "prot"), Render::Flags(_)));
        assert!(matches!(render("ghost_file_entry", "dev"), Render::Dev { user: false }));
        assert!(matches!(render("ghost_file_entry", "rdev"), Render::Dev { user: true }));
        assert!(matches!(render("unix_sk_entry", "name"), Render::UnixName));
        assert!(matches!(render("thread_info_x86", "gpregs"), Render::Hex));
        assert!(matches!(render("inet_sk_entry", "src_addr"), Render::Address));
        assert!(matches!(render("task_core_entry", "task_state"), Render::Dict(_)));
    }
}
