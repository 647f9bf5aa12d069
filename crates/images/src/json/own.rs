//! The messages of our own image, which is not in the descriptors: see [`crate::extra`].

use super::schema::{Field, Int, Message, Render, Type};

/// Appends them to `messages`.
pub(super) fn add_messages(messages: &mut Vec<Message>) {
    let u32 = Type::Int(Int::Uint32);
    let u64 = Type::Int(Int::Uint64);
    let option = messages.len();
    messages.push(message("rewake_option_entry", vec![field(1, "option", u32), field(2, "value", u64)]));
    let policy = messages.len();
    let nodes = Field { packed: true, ..repeated(2, "nodes", u64) };
    messages.push(message("rewake_policy_entry", vec![field(1, "mode", u32), nodes]));
    let thread = messages.len();
    messages.push(message(
        "rewake_thread_entry",
        vec![
            field(1, "tid", u32),
            // Lists of numbers are packed there, unlike in CRIU's messages.
            Field { packed: true, ..repeated(2, "affinity", u64) },
            field(3, "io_priority", u32),
            field(4, "reset_on_fork", Type::Bool),
            repeated(5, "options", Type::Message(option)),
            field(6, "memory_policy", Type::Message(policy)),
        ],
    ));
    let area = messages.len();
    messages.push(message(
        "rewake_area_entry",
        vec![
            hex(1, "start"),
            hex(2, "end"),
            Field { packed: true, render: Render::Hex, ..repeated(3, "guards", u64) },
            field(4, "lock_on_fault", Type::Bool),
            field(5, "sealed", Type::Bool),
            Field { render: Render::UnixName, ..field(7, "name", Type::Bytes) },
        ],
    ));
    messages.push(message(
        "rewake_task_entry",
        vec![
            field(1, "timer_slack_ns", u64),
            Field { render: Render::Hex, ..field(2, "coredump_filter", u32) },
            repeated(3, "threads", Type::Message(thread)),
            repeated(4, "areas", Type::Message(area)),
            repeated(5, "options", Type::Message(option)),
        ],
    ));
}

fn message(name: &str, fields: Vec<Field>) -> Message {
    Message::new(name.to_owned(), fields)
}

fn field(number: u32, name: &str, ty: Type) -> Field {
    Field::new(number, name, ty)
}

fn repeated(number: u32, name: &str, ty: Type) -> Field {
    Field { repeated: true, ..field(number, name, ty) }
}

fn hex(number: u32, name: &str) -> Field {
    Field { render: Render::Hex, ..field(number, name, Type::Int(Int::Uint64)) }
}
