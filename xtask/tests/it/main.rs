//! Tests of what the repository's tools rely on.

mod schema;
