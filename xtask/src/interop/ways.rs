//! The ways a scenario is taken: who dumps it, who restores it.

use std::fmt;

/// Who dumps, who restores.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Way {
    /// rewake dumps, rewake restores.
    Own,
    /// rewake dumps, CRIU restores.
    ToPeer,
    /// CRIU dumps, rewake restores.
    FromPeer,
    /// rewake dumps, CRIU's tool decodes every image.
    Decode,
}

impl Way {
    /// All of them, in the order of the table's columns.
    pub(crate) const ALL: [Self; 4] = [Self::Own, Self::ToPeer, Self::FromPeer, Self::Decode];

    /// The name on the command line and in the table.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Own => "own",
            Self::ToPeer => "to-criu",
            Self::FromPeer => "from-criu",
            Self::Decode => "crit",
        }
    }

    /// The way of that name.
    pub(crate) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|way| way.name() == name)
    }
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}
