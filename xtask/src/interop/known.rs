//! What is known not to work, and why: each a fact about the peer or about this machine, none about rewake.

use super::ways::Way;

/// A scenario that one way cannot take.
pub(crate) struct Known {
    /// The scenario.
    pub(crate) scenario: &'static str,
    /// The way that fails.
    pub(crate) way: Way,
    /// The fact behind it.
    pub(crate) reason: &'static str,
}

/// The table. A case in it still runs: its failure is told with this reason, and its success counts.
pub(crate) const KNOWN: &[Known] = &[];

/// The reason why the case may fail.
pub(crate) fn reason(scenario: &str, way: Way) -> Option<&'static str> {
    KNOWN.iter().find(|known| known.scenario == scenario && known.way == way).map(|known| known.reason)
}
