//! Frames on the interface itself: announcing the address, asking who else has it, hearing who says so.
//!
//! Packet sockets need CAP_NET_RAW. Without it the address is held all the same, and clients find it as they find any that
//! has moved: after 5 to 40 s.

use std::io;
use std::net::IpAddr;
use std::os::fd::AsRawFd;

use landfall_proto::id::InterfaceName;
use landfall_proto::model::CapAddress;
use nix::ifaddrs::getifaddrs;
use nix::libc;
use nix::sys::socket::{LinkAddr, MsgFlags, bind, recv};
use socket2::{Domain, Protocol, SockFilter, Socket, Type};

use super::frame::{self, ETHER_ARP, ETHER_IPV6, Mac};

/// Frames that one look takes: past it the rest waits for the next, and the kernel drops what its buffer cannot hold.
const FRAMES_MAX: usize = 64;

/// Bytes of a frame that are read: what says who has an address comes within the first hundred.
const FRAME_MAX: usize = 256;

/// One interface, listened at and spoken on.
#[derive(Debug)]
pub struct Wire {
    mac: Mac,
    ports: Vec<Port>,
}

/// The frames of one family. A socket that took all frames would cost the kernel a look at every packet of a hypervisor's
/// uplink, and a copy of each that leaves.
#[derive(Debug)]
struct Port {
    ip: IpAddr,
    socket: Socket,
}

impl Wire {
    /// Opens the interface called `interface` for the addresses of `cap`; `None` where it is no Ethernet.
    pub fn open(interface: &InterfaceName, cap: &CapAddress) -> io::Result<Option<Self>> {
        let Some(link) = link_address(interface)? else { return Ok(None) };
        let Some(mac) = link.addr().filter(|_| link.hatype() == libc::ARPHRD_ETHER).map(Mac) else { return Ok(None) };
        let ports = cap.addresses().iter().map(|address| Port::open(address.ip(), &link)).collect::<io::Result<_>>()?;
        let wire = Self { mac, ports };
        // Between its making and its binding a socket hears other interfaces.
        wire.claimants();
        Ok(Some(wire))
    }

    /// Tells everybody on the segment that this interface has the addresses.
    pub fn announce(&self) -> io::Result<()> {
        self.ports.iter().try_for_each(|port| port.send(&frame::announcement(self.mac, port.ip)))
    }

    /// Asks who has the addresses: nobody answers but another holder.
    pub fn probe(&self) -> io::Result<()> {
        self.ports.iter().try_for_each(|port| port.send(&frame::probe(self.mac, port.ip)))
    }

    /// Who else has said since the last look that it has one of the addresses.
    pub fn claimants(&self) -> Vec<Mac> {
        let mut found: Vec<Mac> = self.ports.iter().flat_map(Port::claimants).filter(|who| *who != self.mac).collect();
        found.sort();
        found.dedup();
        found
    }
}

impl Port {
    fn open(ip: IpAddr, link: &LinkAddr) -> io::Result<Self> {
        let kind = if ip.is_ipv4() { ETHER_ARP } else { ETHER_IPV6 };
        let socket = Socket::new(Domain::PACKET, Type::RAW, Some(Protocol::from(i32::from(kind.to_be()))))?;
        if ip.is_ipv6() {
            socket.attach_filter(&ADVERTISEMENTS)?;
        }
        bind(socket.as_raw_fd(), link)?;
        Ok(Self { ip, socket })
    }

    fn send(&self, frame: &[u8]) -> io::Result<()> {
        self.socket.send(frame).map(drop)
    }

    fn claimants(&self) -> Vec<Mac> {
        let mut bytes = [0; FRAME_MAX];
        let mut next = || {
            recv(self.socket.as_raw_fd(), &mut bytes, MsgFlags::MSG_DONTWAIT)
                .ok()
                .map(|length| frame::claimant(&bytes[..length.min(FRAME_MAX)], self.ip))
        };
        (0..FRAMES_MAX).map_while(|_| next()).flatten().collect()
    }
}

/// The interface as a packet socket names it.
fn link_address(interface: &InterfaceName) -> io::Result<Option<LinkAddr>> {
    let of = |found: nix::ifaddrs::InterfaceAddress| {
        (found.interface_name == interface.as_str()).then_some(found.address).flatten()?.as_link_addr().copied()
    };
    Ok(getifaddrs()?.find_map(of))
}

/// Classic BPF: load a byte.
const LOAD: u16 = 0x30;
/// Classic BPF: jump where it is equal, else elsewhere.
const JUMP: u16 = 0x15;
/// Classic BPF: take so many bytes of the packet.
const RETURN: u16 = 0x06;

/// Lets neighbour advertisements through, and no other IPv6: byte 20 is the next header, byte 54 the type of ICMPv6.
/// Jumps count from the next instruction.
const ADVERTISEMENTS: [SockFilter; 6] = [
    SockFilter::new(LOAD, 0, 0, 20),
    SockFilter::new(JUMP, 0, 2, 58),
    SockFilter::new(LOAD, 0, 0, 54),
    SockFilter::new(JUMP, 1, 0, 136),
    SockFilter::new(RETURN, 0, 0, 0),
    SockFilter::new(RETURN, 0, 0, FRAME_MAX as u32),
];
