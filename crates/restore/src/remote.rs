//! Tables of system calls that must all succeed.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;

use rewake_tracee::{Call, Remote};

use crate::error::{RestoreError, Result};

/// What a system call is for, put into words only if it fails: there may be tens of thousands.
#[derive(Debug, Clone)]
pub(crate) enum Object {
    Named(Cow<'static, str>),
    Memory(Range<u64>),
}

impl From<&'static str> for Object {
    fn from(name: &'static str) -> Self {
        Self::Named(name.into())
    }
}

impl From<String> for Object {
    fn from(name: String) -> Self {
        Self::Named(name.into())
    }
}

impl From<Range<u64>> for Object {
    fn from(range: Range<u64>) -> Self {
        Self::Memory(range)
    }
}

impl fmt::Display for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Named(name) => f.write_str(name),
            Self::Memory(range) => write!(f, "memory {:#x}-{:#x}", range.start, range.end),
        }
    }
}

/// System calls to be run by the new process, and what each is for.
#[derive(Debug)]
pub(crate) struct Table {
    pid: u32,
    calls: Vec<Call>,
    names: Vec<(&'static str, Object)>,
    /// What the calls point to; it goes to the data area first.
    data: Vec<u8>,
    /// Calls whose last argument is an offset in the data area.
    relative: Vec<(usize, libc::c_long, Vec<u64>, u64)>,
}

impl Table {
    pub(crate) fn new(pid: u32) -> Self {
        Self { pid, calls: Vec::new(), names: Vec::new(), data: Vec::new(), relative: Vec::new() }
    }

    pub(crate) fn add(&mut self, name: &'static str, object: impl Into<Object>, call: Call) {
        self.calls.push(call);
        self.names.push((name, object.into()));
    }

    /// Adds a call whose last argument points to what [`Self::bytes`] put at `offset`.
    pub(crate) fn add_at(
        &mut self,
        name: &'static str,
        object: impl Into<Object>,
        nr: libc::c_long,
        args: &[u64],
        offset: u64,
    ) {
        self.relative.push((self.calls.len(), nr, args.to_vec(), offset));
        self.add(name, object, Call::new(nr, args));
    }

    /// Puts bytes into the data area, aligned to words; gives their offset.
    pub(crate) fn bytes(&mut self, bytes: &[u8]) -> u64 {
        self.data.resize(self.data.len().next_multiple_of(8), 0);
        let at = self.data.len() as u64;
        self.data.extend(bytes);
        at
    }

    /// Runs all of them; the first that failed is the error.
    pub(crate) fn run(mut self, remote: &mut Remote<'_>) -> Result<()> {
        let failed = RestoreError::tracee;
        if self.data.len() as u64 > remote.data_len() {
            return Err(RestoreError::unsupported("this process", "its tables do not fit the data area"));
        }
        if !self.data.is_empty() {
            remote.write(remote.data(), &self.data).map_err(failed(self.pid))?;
        }
        for (index, nr, mut args, offset) in std::mem::take(&mut self.relative) {
            args.push(remote.data() + offset);
            if let Some(call) = self.calls.get_mut(index) {
                *call = Call::new(nr, &args);
            }
        }
        remote.batch(&mut self.calls).map_err(failed(self.pid))?;
        for (result, (call, object)) in self.calls.iter().map(Call::result).zip(self.names) {
            let object = || object.to_string();
            result.map_err(|source| RestoreError::Remote {
                pid: self.pid,
                call,
                object: object(),
                source,
            })?;
        }
        Ok(())
    }
}
