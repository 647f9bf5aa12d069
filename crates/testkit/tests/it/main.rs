//! The workload program judged by itself: with nothing done to it, every scenario finds its state intact.

mod sandbox;
mod scenarios;
