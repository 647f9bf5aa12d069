//! Write a running process tree to a checkpoint.
