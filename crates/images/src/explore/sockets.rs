//! Sockets.

use std::fmt;

use serde::Serialize;

use super::explorer::Explorer;
use super::names;
use crate::error::Result;
use crate::proto;

/// A socket a task has open.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Socket {
    /// The descriptor.
    pub fd: u32,
    /// Kind of file: `INETSK`, `UNIXSK`, `PACKETSK` or `NETLINKSK`.
    pub fd_type: String,
    /// Address family.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub family: String,
    /// Protocol in that family.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub protocol: String,
    /// Type.
    #[serde(rename = "type", skip_serializing_if = "String::is_empty")]
    pub kind: String,
    /// State, as TCP names it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub state: String,
    /// Own address, or the name of a Unix socket (`@` begins an abstract one).
    #[serde(skip_serializing_if = "String::is_empty")]
    pub src_addr: String,
    /// Own port.
    #[serde(skip_serializing_if = "is_zero")]
    pub src_port: u32,
    /// Address of the peer; of a Unix socket the peer's name or inode number.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub dest_addr: String,
    /// Port of the peer.
    #[serde(skip_serializing_if = "is_zero")]
    pub dest_port: u32,
    /// Size of the send buffer, with a unit.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub send_buf: String,
    /// Size of the receive buffer, with a unit.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub recv_buf: String,
}

/// The sockets of a task.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TaskSockets {
    /// Process id.
    pub pid: u32,
    /// By descriptor.
    pub sockets: Vec<Socket>,
}

/// The sockets of all tasks that have any.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct SocketList(pub Vec<TaskSockets>);

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn is_zero(port: &u32) -> bool {
    *port == 0
}

impl Explorer<'_> {
    /// The sockets of all tasks that have any.
    ///
    /// # Errors
    /// Any error of reading `ids` and `fdinfo`.
    pub fn sockets(&self) -> Result<SocketList> {
        let mut all = Vec::new();
        for task in &self.tasks {
            let descriptors = self.descriptors(task)?;
            let sockets: Vec<_> = descriptors.iter().filter_map(|entry| self.socket(entry)).collect();
            if !sockets.is_empty() {
                all.push(TaskSockets { pid: task.entry.pid, sockets });
            }
        }
        Ok(SocketList(all))
    }

    fn socket(&self, entry: &proto::FdinfoEntry) -> Option<Socket> {
        let file = self.files.get(entry.id)?;
        let fd_type = names::file_type(entry.r#type).into_owned();
        let (socket, opts) = match file {
            proto::FileEntry { isk: Some(sk), .. } => (inet(sk), &sk.opts),
            proto::FileEntry { usk: Some(sk), .. } => (unix(sk), &sk.opts),
            proto::FileEntry { psk: Some(sk), .. } => (packet(sk), &sk.opts),
            proto::FileEntry { nlsk: Some(sk), .. } => (netlink(sk), &sk.opts),
            _ => return None,
        };
        Some(Socket {
            fd: entry.fd,
            fd_type,
            send_buf: names::size(opts.so_sndbuf.into()),
            recv_buf: names::size(opts.so_rcvbuf.into()),
            ..socket
        })
    }
}

fn inet(sk: &proto::InetSkEntry) -> Socket {
    Socket {
        family: names::family(sk.family),
        protocol: names::inet_protocol(sk.proto),
        kind: names::socket_type(sk.r#type),
        state: names::socket_state(sk.state),
        src_addr: names::address(&sk.src_addr),
        src_port: sk.src_port,
        dest_addr: names::address(&sk.dst_addr),
        dest_port: sk.dst_port,
        ..Socket::default()
    }
}

fn unix(sk: &proto::UnixSkEntry) -> Socket {
    Socket {
        family: names::family(1),
        kind: names::socket_type(sk.r#type),
        state: names::socket_state(sk.state),
        src_addr: names::unix_name(&sk.name),
        dest_addr: if sk.peer == 0 { String::new() } else { format!("inode {}", sk.peer) },
        ..Socket::default()
    }
}

fn packet(sk: &proto::PacketSockEntry) -> Socket {
    Socket {
        family: names::family(17),
        kind: names::socket_type(sk.r#type),
        // As the network has it.
        protocol: format!("{:#06x}", u16::try_from(sk.protocol).unwrap_or(0).swap_bytes()),
        ..Socket::default()
    }
}

fn netlink(sk: &proto::NetlinkSkEntry) -> Socket {
    Socket {
        family: names::family(16),
        protocol: names::netlink_protocol(sk.protocol),
        state: names::socket_state(sk.state),
        src_port: sk.portid,
        dest_port: sk.dst_portid,
        ..Socket::default()
    }
}

impl fmt::Display for Socket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { fd, family, protocol, kind, state, src_addr, src_port, dest_addr, dest_port, .. } = self;
        write!(f, "{fd:>7}: {family}")?;
        for word in [kind, protocol, state].into_iter().filter(|word| !word.is_empty()) {
            write!(f, " {word}")?;
        }
        let end = |addr: &str, port: u32| match (addr.contains(':'), port) {
            (_, 0) => addr.to_owned(),
            _ if addr.is_empty() => port.to_string(),
            (true, port) => format!("[{addr}]:{port}"),
            (false, port) => format!("{addr}:{port}"),
        };
        if !src_addr.is_empty() || *src_port != 0 {
            write!(f, " {}", end(src_addr, *src_port))?;
        }
        let connected = *dest_port != 0 || (family == "UNIX" && !dest_addr.is_empty());
        if connected {
            write!(f, " -> {}", end(dest_addr, *dest_port))?;
        }
        write!(f, " (send {}, receive {})", self.send_buf, self.recv_buf)
    }
}

impl fmt::Display for SocketList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for task in &self.0 {
            writeln!(f, "{}", task.pid)?;
            task.sockets.iter().try_for_each(|socket| writeln!(f, "\t{socket}"))?;
        }
        Ok(())
    }
}
