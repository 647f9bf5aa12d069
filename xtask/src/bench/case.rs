//! The processes that are measured, and what was promised for them.

/// A kind of process.
#[derive(Debug)]
pub(crate) struct Case {
    pub(crate) name: &'static str,
    /// Arguments of `rewake-load`.
    pub(crate) load: &'static [&'static str],
    /// Our time must be at most this part of CRIU's: dump, restore.
    pub(crate) goals: (f64, f64),
}

impl Case {
    /// How many bytes of memory it has, if that is what it is about.
    pub(crate) fn memory(&self) -> Option<u64> {
        match self.load {
            ["--memory", bytes, ..] => bytes.parse().ok(),
            _ => None,
        }
    }
}

/// The table.
pub(crate) const ALL: &[Case] = &[
    Case { name: "tiny", load: &[], goals: (1.0 / 3.0, 2.0 / 3.0) },
    Case { name: "memory-1g", load: &["--memory", "1073741824"], goals: (0.5, 0.5) },
    Case { name: "threads-1000", load: &["--threads", "1000"], goals: (0.25, 2.0 / 3.0) },
    Case { name: "mappings-10000", load: &["--mappings", "10000"], goals: (0.25, 2.0 / 3.0) },
    Case { name: "descriptors-5000", load: &["--descriptors", "5000"], goals: (0.25, 2.0 / 3.0) },
];

/// Names of all cases.
pub(crate) fn names() -> String {
    ALL.iter().map(|case| case.name).collect::<Vec<_>>().join(", ")
}
