//! What is wrong with a message by its schema: all of it, where a decoder stops at the first.

use super::schema::{Field, Message, Schema, Type};
use super::wire::{self, MAX_DEPTH};

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Lint {
    /// The bytes are no message.
    Malformed(&'static str),
    /// Dotted name of a required field.
    Missing(String),
    /// Dotted name of an enum field, and a value that has no name.
    UnknownValue(String, i32),
}

/// Checks the encoded `message`. A message the schema lacks has nothing wrong.
pub(crate) fn lint(message: &str, bytes: &[u8]) -> Vec<Lint> {
    let schema = Schema::get();
    let mut linter = Linter { schema, found: Vec::new() };
    if let Some(row) = schema.find(message)
        && let Err(wire::Malformed(why)) = linter.message(row, message, bytes, MAX_DEPTH)
    {
        linter.found.push(Lint::Malformed(why));
    }
    linter.found
}

struct Linter<'s> {
    schema: &'s Schema,
    found: Vec<Lint>,
}

impl Linter<'_> {
    fn message(
        &mut self,
        row: &Message,
        path: &str,
        bytes: &[u8],
        depth: usize,
    ) -> Result<(), wire::Malformed> {
        let depth = depth.checked_sub(1).ok_or(wire::Malformed("it nests too deep"))?;
        let mut unknown = Vec::new();
        let items = wire::items_with(self.schema, row, bytes, |field, value| unknown.push((field, value)))?;
        for (index, value) in &unknown {
            if let Some(field) = row.fields.get(*index) {
                self.found.push(Lint::UnknownValue(dotted(path, field), *value));
            }
        }
        for (index, field) in row.fields.iter().enumerate().filter(|(_, field)| field.required) {
            let there = items.iter().any(|item| item.field == index) || unknown.iter().any(|u| u.0 == index);
            if !there {
                self.found.push(Lint::Missing(dotted(path, field)));
            }
        }
        for item in &items {
            let (Some(field), wire::Wire::Bytes(bytes)) = (row.fields.get(item.field), item.value) else {
                continue;
            };
            match field.ty {
                Type::Message(inner) => {
                    self.message(self.schema.message(inner), &dotted(path, field), bytes, depth)?;
                }
                Type::String if std::str::from_utf8(bytes).is_err() => {
                    return Err(wire::Malformed("a string is not UTF-8"));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

fn dotted(path: &str, field: &Field) -> String {
    format!("{path}.{}", field.name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_that_is_wrong_is_told() {
        // file_entry: type 99, id absent, an empty reg.
        let found = lint("file_entry", &[1 << 3, 99, 3 << 3 | 2, 0]);
        assert_eq!(
            found,
            [
                Lint::UnknownValue("file_entry.type".into(), 99),
                Lint::Missing("file_entry.id".into()),
                Lint::Missing("file_entry.reg.id".into()),
                Lint::Missing("file_entry.reg.flags".into()),
                Lint::Missing("file_entry.reg.pos".into()),
                Lint::Missing("file_entry.reg.fown".into()),
                Lint::Missing("file_entry.reg.name".into()),
            ]
        );
        assert_eq!(lint("fs_entry", &[0x08]), [Lint::Malformed("it ends inside a number")]);
        assert_eq!(lint("fs_entry", &[0x08, 1, 0x10, 2]), []);
    }
}
