//! Programs with state to lose, and sandboxes to lose it in: for rewake's own tests.
