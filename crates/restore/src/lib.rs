//! Wake a process tree up again from a checkpoint.
