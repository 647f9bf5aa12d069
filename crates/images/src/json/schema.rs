//! The schema in the form that rendering and parsing walk: compiled once from the descriptors and their options.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use prost::Message as _;

use super::descriptors::{EnumType, FieldType, FileSet, MessageType, Show, label};
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
    /// The field whose values begin with a byte, as index: for field numbers below 16 the byte tells number and wire type.
    by_key: Box<[Option<u8>; 128]>,
}

#[derive(Debug)]
pub(super) struct Field {
    pub(super) number: u32,
    pub(super) name: String,
    /// The name as JSON has it: between quotes, with the colon.
    pub(super) json_key: Vec<u8>,
    /// As it is printed on one line, at first and behind another field.
    pub(super) first_text: Padded,
    pub(super) next_text: Padded,
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

/// A text that is mostly short. To put more bytes than it has and to take back those too many is faster than to put so many as
/// only the text knows.
#[derive(Debug)]
pub(super) struct Padded {
    start: [u8; 32],
    text: String,
}

impl Padded {
    fn new(text: String) -> Self {
        let mut start = [0; 32];
        start.iter_mut().zip(text.bytes()).for_each(|(to, from)| *to = from);
        Self { start, text }
    }

    #[inline]
    pub(super) fn put(&self, out: &mut Vec<u8>) {
        if self.text.len() <= self.start.len() {
            let end = out.len() + self.text.len();
            out.extend_from_slice(&self.start);
            out.truncate(end);
        } else {
            out.extend_from_slice(self.text.as_bytes());
        }
    }
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
            first_text: Padded::new(format!("\"{name}\": ")),
            next_text: Padded::new(format!(", \"{name}\": ")),
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
        let mut by_key = Box::new([None; 128]);
        for (index, field) in fields.iter().enumerate() {
            if let Some(key) = field.wire_key.only_byte()
                && let Some(room) = by_key.get_mut(usize::from(key))
            {
                *room = u8::try_from(index).ok();
            }
        }
        Self { name, fields, required, by_key }
    }

    /// The field, and its index, of a value that begins with this byte and is not packed; `None` also if one byte does not
    /// tell.
    #[inline]
    pub(super) fn by_key(&self, key: u8) -> Option<(usize, &Field)> {
        let index = usize::from((*self.by_key.get(usize::from(key))?)?);
        Some((index, self.fields.get(index)?))
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
        let files = FileSet::decode(DESCRIPTORS).expect("generated with the crate, and tested");
        let (mut found, mut found_enums) = (Vec::new(), Vec::new());
        for file in files.file.iter().filter(|file| file.package().is_empty()) {
            collect("", &file.message_type, &file.enum_type, &mut found, &mut found_enums);
        }
        let index = |names: &mut dyn Iterator<Item = &String>| -> BTreeMap<String, usize> {
            names.enumerate().map(|(index, name)| (name.clone(), index)).collect()
        };
        let message_index = index(&mut found.iter().map(|(name, _)| name));
        let enum_index = index(&mut found_enums.iter().map(|(name, _)| name));
        let field = |field: &FieldType| {
            let type_name = field.type_name().trim_start_matches('.');
            let ty = match field.r#type() {
                11 => Type::Message(*message_index.get(type_name)?),
                14 => Type::Enum(*enum_index.get(type_name)?),
                scalar => scalar_type(scalar)?,
            };
            let options = field.options.clone().unwrap_or_default();
            Some(Field {
                repeated: field.label() == label::REPEATED,
                required: field.label() == label::REQUIRED,
                packed: options.packed(),
                render: options.criu.map_or(Render::Plain, |show| render(&show, field.name())),
                ..Field::new(field.number(), field.name(), ty)
            })
        };
        let messages = found.iter().map(|(name, message)| {
            let mut fields: Vec<Field> = message.field.iter().filter_map(field).collect();
            fields.sort_by_key(|f| f.number);
            Message::new(name.clone(), fields)
        });
        let mut messages: Vec<_> = messages.collect();
        super::own::add_messages(&mut messages);
        let enums = found_enums.iter().map(|(name, e)| Enum {
            name: name.clone(),
            values: e.value.iter().map(|value| (value.number(), value.name().to_owned())).collect(),
        });
        let by_name = messages.iter().enumerate().map(|(i, m)| (m.name.clone(), i)).collect();
        Self { enums: enums.collect(), messages, by_name }
    }
}

/// Messages and enums with their full names, those inside messages as well. Ours nest as deep as the schema was written.
fn collect<'f>(
    prefix: &str,
    messages: &'f [MessageType],
    enums: &'f [EnumType],
    found: &mut Vec<(String, &'f MessageType)>,
    found_enums: &mut Vec<(String, &'f EnumType)>,
) {
    found_enums.extend(enums.iter().map(|e| (format!("{prefix}{}", e.name()), e)));
    for message in messages {
        let name = format!("{prefix}{}", message.name());
        let inner = format!("{name}.");
        found.push((name, message));
        collect(&inner, &message.nested_type, &message.enum_type, found, found_enums);
    }
}

/// The numbers of `FieldDescriptorProto.Type`. Images have no floating-point numbers.
fn scalar_type(number: u32) -> Option<Type> {
    Some(match number {
        3 => Type::Int(Int::Int64),
        4 => Type::Int(Int::Uint64),
        5 => Type::Int(Int::Int32),
        6 => Type::Int(Int::Fixed64),
        7 => Type::Int(Int::Fixed32),
        8 => Type::Bool,
        9 => Type::String,
        12 => Type::Bytes,
        13 => Type::Int(Int::Uint32),
        15 => Type::Int(Int::Sfixed32),
        16 => Type::Int(Int::Sfixed64),
        17 => Type::Int(Int::Sint32),
        18 => Type::Int(Int::Sint64),
        _ => return None,
    })
}

/// The options of a field, in the order of precedence.
fn render(show: &Show, name: &str) -> Render {
    if show.conv == "unix_name" {
        Render::UnixName
    } else if show.ipadd {
        Render::Address
    } else if show.hex {
        Render::Hex
    } else if show.dev {
        Render::Dev { user: show.odev }
    } else if !show.flags.is_empty() {
        tables::flags(&show.flags).map_or(Render::Hex, Render::Flags)
    } else if !show.dict.is_empty() {
        tables::dict(&show.dict, name).map_or(Render::Plain, Render::Dict)
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
