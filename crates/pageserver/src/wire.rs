//! What goes over the wire: requests of a fixed size, and pages behind some of them.
//!
//! A request is 24 bytes, little-endian: a command (16 bits), flags (16), a number of pages (32), an address (64) and an
//! object (64). Which bytes mean what is tested against bytes taken from a connection of CRIU 4.1.1.

use rewake_images::{Kind, PAGE_SIZE, pe};

use crate::error::ProtocolError;

/// Size of a request in bytes.
pub const REQUEST_BYTES: usize = 24;

/// Numbers of the commands.
mod command {
    pub(super) const ADD: u16 = 1;
    pub(super) const HOLE: u16 = 2;
    pub(super) const OPEN: u16 = 3;
    pub(super) const OPEN_ANSWERED: u16 = 4;
    pub(super) const HAS_PARENT: u16 = 5;
    pub(super) const ADD_WITH_FLAGS: u16 = 6;
    pub(super) const GET: u16 = 7;
    pub(super) const CLOSE: u16 = 0x1023;
    pub(super) const CLOSE_KEEPING_SOCKET: u16 = 0x1024;
}

/// Whose memory it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Object {
    /// [`Kind::Pagemap`] or [`Kind::PagemapShmem`].
    pub kind: Kind,
    /// The pid, or the number of the shared memory.
    pub number: u64,
}

/// The kind is in the low bits of an object.
const TYPE_BITS: u32 = 8;
const TYPE_TASK: u8 = 1;
const TYPE_SHARED: u8 = 2;
/// What CRIU before 3.3 said instead.
const OLD_TASK: [u8; 4] = [10, 11, 16, 17];
const OLD_SHARED: [u8; 6] = [27, 28, 29, 32, 33, 34];

impl Object {
    /// An object, if its kind has pages and its number fits.
    #[must_use]
    pub fn new(kind: Kind, number: u64) -> Option<Self> {
        let fits = number >> (u64::BITS - TYPE_BITS) == 0;
        (fits && matches!(kind, Kind::Pagemap | Kind::PagemapShmem)).then_some(Self { kind, number })
    }

    fn decode(id: u64) -> Result<Self, ProtocolError> {
        let [kind, ..] = id.to_le_bytes();
        let kind = match kind {
            TYPE_TASK => Kind::Pagemap,
            TYPE_SHARED => Kind::PagemapShmem,
            old if OLD_TASK.contains(&old) => Kind::Pagemap,
            old if OLD_SHARED.contains(&old) => Kind::PagemapShmem,
            _ => return Err(ProtocolError::Object { id }),
        };
        Ok(Self { kind, number: id >> TYPE_BITS })
    }

    fn encode(self) -> u64 {
        let kind = if self.kind == Kind::PagemapShmem { TYPE_SHARED } else { TYPE_TASK };
        self.number << TYPE_BITS | u64::from(kind)
    }
}

/// Neighbouring pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// Address of the first page; for shared memory the offset in it.
    pub vaddr: u64,
    /// How many pages.
    pub pages: u32,
}

impl Span {
    /// Address behind the last page.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.vaddr + self.bytes()
    }

    /// Size in bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        u64::from(self.pages) * PAGE_SIZE
    }

    /// Whole pages, at least one, which end within 64 bits.
    fn check(self) -> Result<Self, ProtocolError> {
        let end = self.vaddr.checked_add(self.bytes());
        let sound = self.pages > 0 && self.vaddr.is_multiple_of(PAGE_SIZE) && end.is_some();
        if sound { Ok(self) } else { Err(ProtocolError::Span { vaddr: self.vaddr, pages: self.pages }) }
    }
}

/// What one side asks of the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Request {
    /// From here on comes the memory of this object.
    Open {
        /// Whose memory.
        object: Object,
        /// Answer with one byte, whether there is a parent of it.
        answered: bool,
    },
    /// Answer with 32 bits, whether there is a parent of it.
    HasParent {
        /// Whose memory.
        object: Object,
    },
    /// An entry of the pagemap. With [`pe::PRESENT`] the pages follow.
    Add {
        /// Whose memory.
        object: Object,
        /// Which pages.
        span: Span,
        /// Bits of [`pe`].
        flags: u32,
    },
    /// Send pages of a task.
    Get {
        /// The task.
        pid: u64,
        /// Which pages.
        span: Span,
    },
    /// All was sent; answer with 32 bits, 0 if all of it is safe.
    Close {
        /// The connection belongs to somebody else, who may not close it.
        keeping_socket: bool,
    },
}

/// The states an entry of a pagemap may be in.
const ENTRY_FLAGS: [u32; 4] = [pe::PRESENT, pe::PRESENT | pe::LAZY, pe::PARENT, pe::LAZY];

impl Request {
    /// Understands a request.
    ///
    /// # Errors
    /// [`ProtocolError`] for everything that no sound peer says.
    pub fn decode(bytes: &[u8; REQUEST_BYTES]) -> Result<Self, ProtocolError> {
        let Raw { command, flags, pages, vaddr, id } = Raw::from_bytes(bytes);
        let span = Span { vaddr, pages };
        if flags != 0 && command != command::ADD_WITH_FLAGS {
            return Err(ProtocolError::Flags { command, flags });
        }
        let add = |flags| Ok(Self::Add { object: Object::decode(id)?, span: span.check()?, flags });
        match command {
            command::OPEN | command::OPEN_ANSWERED => {
                Ok(Self::Open { object: Object::decode(id)?, answered: command == command::OPEN_ANSWERED })
            }
            command::HAS_PARENT => Ok(Self::HasParent { object: Object::decode(id)? }),
            command::ADD => add(pe::PRESENT),
            command::HOLE => add(pe::PARENT),
            command::ADD_WITH_FLAGS if ENTRY_FLAGS.contains(&flags.into()) => add(flags.into()),
            command::ADD_WITH_FLAGS => Err(ProtocolError::Flags { command, flags }),
            command::GET => Ok(Self::Get { pid: id, span: span.check()? }),
            command::CLOSE | command::CLOSE_KEEPING_SOCKET => {
                Ok(Self::Close { keeping_socket: command == command::CLOSE_KEEPING_SOCKET })
            }
            _ => Err(ProtocolError::Command { command }),
        }
    }

    /// The bytes of a request.
    #[must_use]
    pub fn encode(&self) -> [u8; REQUEST_BYTES] {
        let empty = Raw { command: 0, flags: 0, pages: 0, vaddr: 0, id: 0 };
        match *self {
            Self::Open { object, answered } => {
                let command = if answered { command::OPEN_ANSWERED } else { command::OPEN };
                Raw { command, id: object.encode(), ..empty }
            }
            Self::HasParent { object } => Raw { command: command::HAS_PARENT, id: object.encode(), ..empty },
            Self::Add { object, span, flags } => Raw {
                command: command::ADD_WITH_FLAGS,
                flags: u16::try_from(flags).unwrap_or(u16::MAX),
                pages: span.pages,
                vaddr: span.vaddr,
                id: object.encode(),
            },
            Self::Get { pid, span } => {
                Raw { command: command::GET, pages: span.pages, vaddr: span.vaddr, id: pid, ..empty }
            }
            Self::Close { keeping_socket } => {
                let command = if keeping_socket { command::CLOSE_KEEPING_SOCKET } else { command::CLOSE };
                Raw { command, ..empty }
            }
        }
        .to_bytes()
    }
}

/// What answers [`Request::Get`]: how many of the pages that were asked for follow, perhaps none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Given {
    pub(crate) pid: u64,
    pub(crate) vaddr: u64,
    pub(crate) pages: u32,
}

impl Given {
    pub(crate) fn encode(&self) -> [u8; REQUEST_BYTES] {
        let flags = if self.pages == 0 { 0 } else { u16::try_from(pe::PRESENT).unwrap_or(0) };
        let Self { pid, vaddr, pages } = *self;
        Raw { command: command::ADD_WITH_FLAGS, flags, pages, vaddr, id: pid }.to_bytes()
    }

    pub(crate) fn decode(bytes: &[u8; REQUEST_BYTES]) -> Result<Self, ProtocolError> {
        let Raw { command, pages, vaddr, id, .. } = Raw::from_bytes(bytes);
        match command {
            command::ADD | command::ADD_WITH_FLAGS => Ok(Self { pid: id, vaddr, pages }),
            _ => Err(ProtocolError::Command { command }),
        }
    }
}

struct Raw {
    command: u16,
    flags: u16,
    pages: u32,
    vaddr: u64,
    id: u64,
}

impl Raw {
    fn from_bytes(bytes: &[u8; REQUEST_BYTES]) -> Self {
        let [c0, c1, f0, f1, n0, n1, n2, n3, rest @ ..] = *bytes;
        let [v0, v1, v2, v3, v4, v5, v6, v7, i0, i1, i2, i3, i4, i5, i6, i7] = rest;
        Self {
            command: u16::from_le_bytes([c0, c1]),
            flags: u16::from_le_bytes([f0, f1]),
            pages: u32::from_le_bytes([n0, n1, n2, n3]),
            vaddr: u64::from_le_bytes([v0, v1, v2, v3, v4, v5, v6, v7]),
            id: u64::from_le_bytes([i0, i1, i2, i3, i4, i5, i6, i7]),
        }
    }

    fn to_bytes(&self) -> [u8; REQUEST_BYTES] {
        let [c0, c1] = self.command.to_le_bytes();
        let [f0, f1] = self.flags.to_le_bytes();
        let [n0, n1, n2, n3] = self.pages.to_le_bytes();
        let [v0, v1, v2, v3, v4, v5, v6, v7] = self.vaddr.to_le_bytes();
        let [i0, i1, i2, i3, i4, i5, i6, i7] = self.id.to_le_bytes();
        [c0, c1, f0, f1, n0, n1, n2, n3, v0, v1, v2, v3, v4, v5, v6, v7, i0, i1, i2, i3, i4, i5, i6, i7]
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_request() -> impl Strategy<Value = Request> {
        let object = (any::<bool>(), 0..1_u64 << 56).prop_map(|(shared, number)| {
            Object::new(if shared { Kind::PagemapShmem } else { Kind::Pagemap }, number).unwrap()
        });
        let span =
            (0..1_u64 << 48, 1..u32::MAX).prop_map(|(page, pages)| Span { vaddr: page * PAGE_SIZE, pages });
        let flags = proptest::sample::select(ENTRY_FLAGS.to_vec());
        prop_oneof![
            (object.clone(), any::<bool>()).prop_map(|(object, answered)| Request::Open { object, answered }),
            object.clone().prop_map(|object| Request::HasParent { object }),
            (object, span.clone(), flags).prop_map(|(object, span, flags)| Request::Add {
                object,
                span,
                flags
            }),
            (any::<u64>(), span).prop_map(|(pid, span)| Request::Get { pid, span }),
            any::<bool>().prop_map(|keeping_socket| Request::Close { keeping_socket }),
        ]
    }

    proptest! {
        #[test]
        fn what_is_said_is_understood(request in any_request()) {
            prop_assert_eq!(Request::decode(&request.encode()).unwrap(), request);
        }

        /// Whatever is understood is sound, and only the old spellings are said in another way.
        #[test]
        fn any_bytes_are_understood_or_refused(bytes in any::<[u8; REQUEST_BYTES]>(), small in any::<bool>()) {
            let mut bytes = bytes;
            if small {
                // Else next to nothing is a command.
                bytes[0] %= 9;
                bytes[1..4].fill(0);
            }
            if let Ok(request) = Request::decode(&bytes) {
                if let Request::Add { span, flags, .. } = request {
                    prop_assert!(span.pages > 0 && span.vaddr % PAGE_SIZE == 0 && span.end() > span.vaddr);
                    prop_assert!(ENTRY_FLAGS.contains(&flags));
                }
                prop_assert_eq!(Request::decode(&request.encode()).unwrap(), request);
            }
        }
    }

    /// Requests taken from a connection of a `criu dump` of version 4.1.1, with an anonymous shared mapping in its task.
    #[test]
    fn what_criu_says() {
        let request = |head: [u8; 8], vaddr: u64, id: u64| {
            let bytes: Vec<u8> =
                head.into_iter().chain(vaddr.to_le_bytes()).chain(id.to_le_bytes()).collect();
            Request::decode(&bytes.try_into().unwrap()).unwrap()
        };
        let shared = Object::new(Kind::PagemapShmem, 7780).unwrap();
        let task = Object::new(Kind::Pagemap, 2).unwrap();
        let add = |object, vaddr, pages, flags| Request::Add { object, span: Span { vaddr, pages }, flags };
        assert_eq!(
            request([4, 0, 0, 0, 0, 0, 0, 0], 0, 0x1e_6402),
            Request::Open { object: shared, answered: true }
        );
        assert_eq!(request([6, 0, 4, 0, 1, 0, 0, 0], 0x2000, 0x1e_6402), add(shared, 0x2000, 1, pe::PRESENT));
        assert_eq!(
            request([6, 0, 4, 0, 2, 0, 0, 0], 0x55ef_e461_4000, 0x0201),
            add(task, 0x55ef_e461_4000, 2, pe::PRESENT)
        );
        assert_eq!(
            request([6, 0, 6, 0, 0x82, 0, 0, 0], 0x55f0_1a49_e000, 0x0201),
            add(task, 0x55f0_1a49_e000, 130, pe::PRESENT | pe::LAZY)
        );
        assert_eq!(request([0x23, 0x10, 0, 0, 0, 0, 0, 0], 0, 0), Request::Close { keeping_socket: false });
    }

    #[test]
    fn old_commands_and_types() {
        let raw = |command, id| Raw { command, flags: 0, pages: 1, vaddr: PAGE_SIZE, id }.to_bytes();
        for id in [11, 1] {
            let object = Object::new(Kind::Pagemap, 7).unwrap();
            let span = Span { vaddr: PAGE_SIZE, pages: 1 };
            let add = |flags| Request::Add { object, span, flags };
            assert_eq!(Request::decode(&raw(command::ADD, 7 << 8 | id)).unwrap(), add(pe::PRESENT));
            assert_eq!(Request::decode(&raw(command::HOLE, 7 << 8 | id)).unwrap(), add(pe::PARENT));
        }
        let shared = Request::Open { object: Object::new(Kind::PagemapShmem, 9).unwrap(), answered: false };
        assert_eq!(Request::decode(&raw(command::OPEN, 9 << 8 | 34)).unwrap(), shared);
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let raw = |command, flags, pages, vaddr, id| {
            Request::decode(&Raw { command, flags, pages, vaddr, id }.to_bytes()).unwrap_err()
        };
        assert!(matches!(raw(0, 0, 1, 0, 1), ProtocolError::Command { command: 0 }));
        assert!(matches!(raw(99, 0, 1, 0, 1), ProtocolError::Command { command: 99 }));
        assert!(matches!(raw(command::OPEN, 0, 0, 0, 5), ProtocolError::Object { id: 5 }));
        assert!(matches!(raw(command::OPEN, 4, 0, 0, 1), ProtocolError::Flags { .. }));
        for flags in [0, 5, 7, 8, u16::MAX] {
            assert!(matches!(raw(command::ADD_WITH_FLAGS, flags, 1, 0, 1), ProtocolError::Flags { .. }));
        }
        for (pages, vaddr) in [(0, 0), (1, 1), (1, u64::MAX - 4095), (u32::MAX, !4095)] {
            for command in [command::ADD, command::GET] {
                assert!(matches!(raw(command, 0, pages, vaddr, 1), ProtocolError::Span { .. }));
            }
        }
        assert!(Object::new(Kind::Pagemap, 1 << 56).is_none());
        assert!(Object::new(Kind::Mm, 1).is_none());
    }
}
