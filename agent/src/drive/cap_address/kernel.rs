//! Addresses of this machine's interfaces, asked and changed by rtnetlink. Every call is one request and its answer, done
//! when it returns: between the caller's look at the clock and the kernel nothing else comes.

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, OwnedFd};

use landfall_proto::id::InterfaceName;
use landfall_proto::model::HostAddress;
use netlink_packet_core::{
    DefaultNla, Emitable, ErrorBuffer, NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_REPLACE, NLM_F_REQUEST,
    NetlinkBuffer, NetlinkHeader, Parseable,
};
use netlink_packet_route::AddressFamily;
use netlink_packet_route::address::{
    AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage, AddressScope, CacheInfo,
};
use netlink_packet_route::link::{LinkFlags, LinkHeader};
use nix::libc;
use nix::sys::socket::{MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, send, socket};

use crate::decide::cap_address::{LIFETIME, Link};

/// Bytes of one answer that are read: the kernel's own limit for a part of a dump is half of it.
const ANSWER_MAX: usize = 64 * 1024;

/// Parts of one answer: a machine with a thousand addresses needs a few dozen.
const PARTS_MAX: usize = 4096;

/// An address of this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// The interface's number.
    pub index: u32,
    /// The address.
    pub ip: IpAddr,
    /// Bits of its mask.
    pub length: u8,
    /// Whether it stands for good: what the agent sends has an end.
    pub permanent: bool,
}

/// A socket to the kernel's routing tables, of the network namespace in which it was opened.
#[derive(Debug)]
pub struct Rtnetlink {
    socket: OwnedFd,
    sequence: u32,
}

impl Rtnetlink {
    /// Opens one.
    pub fn open() -> io::Result<Self> {
        let protocol = SockProtocol::NetlinkRoute;
        let socket = socket(nix::sys::socket::AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol)?;
        bind(socket.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
        Ok(Self { socket, sequence: 0 })
    }

    /// The interface of that name, where there is one.
    pub fn link(&mut self, interface: &InterfaceName) -> io::Result<Option<Link>> {
        let mut found = None;
        let asked = self.ask(libc::RTM_GETLINK, NLM_F_REQUEST, &ByName(interface), |kind, payload| {
            if kind == libc::RTM_NEWLINK {
                found = LinkHeader::parse(payload).ok();
            }
        });
        match asked {
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => return Ok(None),
            asked => asked?,
        }
        Ok(found.map(|header| Link {
            index: header.index,
            up: header.flags.contains(LinkFlags::Up),
            running: header.flags.contains(LinkFlags::Running),
        }))
    }

    /// Every address of the machine.
    pub fn addresses(&mut self) -> io::Result<Vec<Standing>> {
        let mut found = Vec::new();
        let all = AddressMessage::default();
        self.ask(libc::RTM_GETADDR, NLM_F_REQUEST | NLM_F_DUMP, &all, |kind, payload| {
            if kind == libc::RTM_NEWADDR
                && let Ok(message) = AddressMessage::parse(payload)
            {
                found.extend(standing(&message));
            }
        })?;
        Ok(found)
    }

    /// Adds `address` for [`LIFETIME`], or begins that anew where it stands. Without a route for its subnet, where `routed`
    /// says that there is one (in IPv6 that one would get the address's end).
    pub fn put(&mut self, index: u32, address: &HostAddress, routed: bool) -> io::Result<()> {
        let flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE;
        let mut message = message(index, address);
        let seconds = u32::try_from(LIFETIME.as_secs()).unwrap_or(1);
        let mut life = CacheInfo::default();
        (life.ifa_valid, life.ifa_preferred) = (seconds, seconds);
        let mut wanted = AddressFlags::empty();
        if address.ip().is_ipv6() {
            // Looking for duplicates would take a second, in which it is not answered, and give it up for good.
            wanted |= AddressFlags::Nodad;
            message.header.flags = AddressHeaderFlags::Nodad;
            if routed {
                wanted |= AddressFlags::Noprefixroute;
            }
        }
        message.attributes.extend([AddressAttribute::CacheInfo(life), AddressAttribute::Flags(wanted)]);
        self.ask(libc::RTM_NEWADDR, flags, &message, |_, _| {})
    }

    /// Takes `address` away; whether it was there.
    pub fn delete(&mut self, index: u32, address: &HostAddress) -> io::Result<bool> {
        let message = message(index, address);
        match self.ask(libc::RTM_DELADDR, NLM_F_REQUEST | NLM_F_ACK, &message, |_, _| {}) {
            Ok(()) => Ok(true),
            Err(error) if matches!(error.raw_os_error(), Some(libc::EADDRNOTAVAIL | libc::ENODEV)) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Sends one request and gives each part of its answer to `take`.
    fn ask(&mut self, kind: u16, flags: u16, body: &impl Emitable, mut take: impl FnMut(u16, &[u8])) -> io::Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        let length = header.buffer_len() + body.buffer_len();
        header.length = u32::try_from(length).unwrap_or(u32::MAX);
        (header.message_type, header.flags, header.sequence_number) = (kind, flags, self.sequence);
        let mut bytes = vec![0; length];
        header.emit(&mut bytes);
        body.emit(&mut bytes[header.buffer_len()..]);
        let socket = self.socket.as_raw_fd();
        send(socket, &bytes, MsgFlags::empty())?;
        let mut answer = vec![0; ANSWER_MAX];
        for _ in 0..PARTS_MAX {
            let length = recv(socket, &mut answer, MsgFlags::empty())?;
            if self.part(&answer[..length], flags, &mut take)? {
                return Ok(());
            }
        }
        Err(io::Error::other("the kernel's answer has no end"))
    }

    /// Takes one datagram of an answer apart; whether it was the last.
    fn part(&self, mut rest: &[u8], flags: u16, take: &mut impl FnMut(u16, &[u8])) -> io::Result<bool> {
        let malformed = |error: &dyn std::fmt::Display| io::Error::new(io::ErrorKind::InvalidData, error.to_string());
        while !rest.is_empty() {
            let message = NetlinkBuffer::new_checked(rest).map_err(|error| malformed(&error))?;
            let length = usize::try_from(message.length()).unwrap_or(usize::MAX).next_multiple_of(4).min(rest.len());
            rest = &rest[length..];
            // An answer to a request that was given up.
            if message.sequence_number() != self.sequence {
                continue;
            }
            match i32::from(message.message_type()) {
                libc::NLMSG_ERROR => {
                    let error = ErrorBuffer::new_checked(message.payload()).map_err(|error| malformed(&error))?;
                    let code = error.code().map_or(0, |code| code.get());
                    return if code == 0 { Ok(true) } else { Err(io::Error::from_raw_os_error(code.saturating_abs())) };
                }
                libc::NLMSG_DONE => return Ok(true),
                _ => take(message.message_type(), message.payload()),
            }
            if flags & (NLM_F_DUMP | NLM_F_ACK) == 0 {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// A request for the interface of a name: the fixed header, and the name.
struct ByName<'a>(&'a InterfaceName);

impl ByName<'_> {
    fn name(&self) -> DefaultNla {
        DefaultNla::new(libc::IFLA_IFNAME, self.0.as_str().bytes().chain([0]).collect())
    }
}

impl Emitable for ByName<'_> {
    fn buffer_len(&self) -> usize {
        LinkHeader::default().buffer_len() + self.name().buffer_len()
    }

    fn emit(&self, buffer: &mut [u8]) {
        let header = LinkHeader::default();
        header.emit(buffer);
        self.name().emit(&mut buffer[header.buffer_len()..]);
    }
}

fn message(index: u32, address: &HostAddress) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = if address.ip().is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    message.header.prefix_len = address.length();
    message.header.scope = AddressScope::Universe;
    message.header.index = index;
    message.attributes.push(AddressAttribute::Address(address.ip()));
    message.attributes.push(AddressAttribute::Local(address.ip()));
    message
}

/// What a message of a dump says. On a point-to-point interface `Address` is the other end, `Local` this one.
fn standing(message: &AddressMessage) -> Option<Standing> {
    let mut permanent = message.header.flags.contains(AddressHeaderFlags::Permanent);
    let (mut local, mut far) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(ip) => local = Some(*ip),
            AddressAttribute::Address(ip) => far = Some(*ip),
            AddressAttribute::Flags(flags) => permanent = flags.contains(AddressFlags::Permanent),
            _ => {}
        }
    }
    let ip = local.or(far)?;
    Some(Standing { index: message.header.index, ip, length: message.header.prefix_len, permanent })
}
