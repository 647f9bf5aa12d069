//! Read, write and explore CRIU checkpoint images.
