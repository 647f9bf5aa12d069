//! Names of numbers.

use std::borrow::Cow;
use std::net::{Ipv4Addr, Ipv6Addr};

use crate::proto::FdTypes;

/// Kind of a file.
pub(super) fn file_type(kind: i32) -> Cow<'static, str> {
    match FdTypes::try_from(kind) {
        Ok(kind) => kind.as_str_name().into(),
        Err(_) => kind.to_string().into(),
    }
}

fn name(table: &[(u32, &'static str)], value: u32) -> String {
    table.iter().find(|(v, _)| *v == value).map_or_else(|| value.to_string(), |(_, n)| (*n).to_owned())
}

/// Address family of a socket.
pub(super) fn family(value: u32) -> String {
    name(&[(1, "UNIX"), (2, "INET"), (10, "INET6"), (16, "NETLINK"), (17, "PACKET")], value)
}

/// Type of a socket.
pub(super) fn socket_type(value: u32) -> String {
    name(&[(1, "STREAM"), (2, "DGRAM"), (3, "RAW"), (4, "RDM"), (5, "SEQPACKET"), (10, "PACKET")], value)
}

/// Internet protocol.
pub(super) fn inet_protocol(value: u32) -> String {
    const NAMES: &[(u32, &str)] = &[
        (0, "IP"),
        (1, "ICMP"),
        (6, "TCP"),
        (17, "UDP"),
        (58, "ICMPV6"),
        (132, "SCTP"),
        (136, "UDPLITE"),
        (255, "RAW"),
        (262, "MPTCP"),
    ];
    name(NAMES, value)
}

/// Netlink protocol.
pub(super) fn netlink_protocol(value: u32) -> String {
    const NAMES: &[(u32, &str)] = &[
        (0, "ROUTE"),
        (4, "SOCK_DIAG"),
        (5, "NFLOG"),
        (6, "XFRM"),
        (7, "SELINUX"),
        (9, "AUDIT"),
        (11, "CONNECTOR"),
        (12, "NETFILTER"),
        (15, "KOBJECT_UEVENT"),
        (16, "GENERIC"),
        (21, "CRYPTO"),
    ];
    name(NAMES, value)
}

/// State of a socket, as TCP names it; 0 is none.
pub(super) fn socket_state(value: u32) -> String {
    const NAMES: &[(u32, &str)] = &[
        (0, ""),
        (1, "ESTABLISHED"),
        (2, "SYN_SENT"),
        (3, "SYN_RECV"),
        (4, "FIN_WAIT1"),
        (5, "FIN_WAIT2"),
        (6, "TIME_WAIT"),
        (7, "CLOSE"),
        (8, "CLOSE_WAIT"),
        (9, "LAST_ACK"),
        (10, "LISTEN"),
        (11, "CLOSING"),
        (12, "NEW_SYN_RECV"),
    ];
    name(NAMES, value)
}

/// An address whose words lie in memory as the network has them; empty if it is none.
pub(super) fn address(words: &[u32]) -> String {
    match words {
        [word] => Ipv4Addr::from(word.to_le_bytes()).to_string(),
        [a, b, c, d] => {
            let mut bytes = [0; 16];
            for (to, word) in bytes.chunks_exact_mut(4).zip([a, b, c, d]) {
                to.copy_from_slice(&word.to_le_bytes());
            }
            Ipv6Addr::from(bytes).to_string()
        }
        _ => String::new(),
    }
}

/// Name of a Unix socket: `@` for the NUL of an abstract one, without the NUL that ends a path.
pub(super) fn unix_name(name: &[u8]) -> String {
    match name {
        [0, rest @ ..] => format!("@{}", rest.escape_ascii()),
        [path @ .., 0] | path => String::from_utf8_lossy(path).into_owned(),
    }
}

/// A size with a unit, one decimal from a KB on.
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "one decimal is shown")]
pub fn size(bytes: u64) -> String {
    const UNITS: &[&str] = &["KB", "MB", "GB", "TB", "PB", "EB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1024.0;
    let mut units = UNITS.iter();
    let mut unit = units.next().copied().unwrap_or_default();
    for larger in units {
        if value < 1024.0 {
            break;
        }
        value /= 1024.0;
        unit = larger;
    }
    format!("{value:.1} {unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers() {
        assert_eq!(file_type(1), "REG");
        assert_eq!(file_type(4711), "4711");
        assert_eq!(netlink_protocol(0), "ROUTE");
        assert_eq!(inet_protocol(99), "99");
        assert_eq!(address(&[0x0100_007f]), "127.0.0.1");
        assert_eq!(address(&[0, 0, 0, 0x0100_0000]), "::1");
        assert_eq!(address(&[1, 2]), "");
        assert_eq!(unix_name(b"\0abs\x01"), "@abs\\x01");
        assert_eq!(unix_name(b"/run/x\0"), "/run/x");
        assert_eq!(unix_name(b""), "");
    }

    #[test]
    fn sizes() {
        for (bytes, text) in
            [(0, "0 B"), (1023, "1023 B"), (212_992, "208.0 KB"), (1 << 20, "1.0 MB"), (u64::MAX, "16.0 EB")]
        {
            assert_eq!(size(bytes), text);
        }
    }
}
