//! A Linux task under control: seize, registers, remote system calls.
