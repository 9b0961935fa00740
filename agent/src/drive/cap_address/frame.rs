//! The frames that say and ask who has an address: ARP (RFC 826, RFC 5227) and neighbour discovery (RFC 4861), on
//! Ethernet. Bytes only; no socket.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A link-layer address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mac(pub [u8; 6]);

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Everybody on the segment.
const BROADCAST: Mac = Mac([0xff; 6]);
/// EtherType of ARP.
pub const ETHER_ARP: u16 = 0x0806;
/// EtherType of IPv6.
pub const ETHER_IPV6: u16 = 0x86dd;
/// Ethernet's header.
const ETHER_HEADER: usize = 14;
/// An ARP packet for IPv4 on Ethernet.
const ARP_LENGTH: usize = 28;
/// IPv6's header.
const IPV6_HEADER: usize = 40;
/// ICMPv6, as IPv6's next header.
const NEXT_ICMPV6: u8 = 58;
const NEIGHBOUR_SOLICITATION: u8 = 135;
const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
/// A node may only take a message of neighbour discovery that no router has passed on.
const HOP_LIMIT: u8 = 255;
/// "Take this instead of what you know."
const OVERRIDE: u32 = 0x2000_0000;

/// "I, `mac`, have `ip`": a gratuitous ARP request, which every host takes (replies were ignored by 40 of 60 hosts that
/// had just learned the address), or an unsolicited neighbour advertisement to all nodes.
pub fn announcement(mac: Mac, ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => arp_request(mac, ip, ip),
        IpAddr::V6(ip) => {
            let all_nodes = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
            let mut body = Vec::from([NEIGHBOUR_ADVERTISEMENT, 0, 0, 0]);
            body.extend_from_slice(&OVERRIDE.to_be_bytes());
            body.extend_from_slice(&ip.octets());
            // Option: the target's link-layer address, one unit of eight bytes.
            body.extend_from_slice(&[2, 1]);
            body.extend_from_slice(&mac.0);
            icmpv6(mac, ip, all_nodes, body)
        }
    }
}

/// "Who has `ip`?", asked by nobody in particular, so that nobody learns anything but who answers.
pub fn probe(mac: Mac, ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => arp_request(mac, Ipv4Addr::UNSPECIFIED, ip),
        IpAddr::V6(ip) => {
            let mut body = Vec::from([NEIGHBOUR_SOLICITATION, 0, 0, 0, 0, 0, 0, 0]);
            body.extend_from_slice(&ip.octets());
            icmpv6(mac, Ipv6Addr::UNSPECIFIED, solicited_node(ip), body)
        }
    }
}

/// Who says in this frame that it has `ip`; `None` where nobody does.
pub fn claimant(frame: &[u8], ip: IpAddr) -> Option<Mac> {
    let kind = u16::from_be_bytes(frame.get(12..14)?.try_into().ok()?);
    let body = &frame[ETHER_HEADER..];
    match ip {
        // Whatever ARP packet has the address as its sender's claims it.
        IpAddr::V4(ip) => {
            let right = kind == ETHER_ARP && body.len() >= ARP_LENGTH && body[..6] == [0, 1, 8, 0, 6, 4];
            let claims = right && body[14..18] == ip.octets();
            claims.then(|| mac(&body[8..14])).flatten()
        }
        IpAddr::V6(ip) => {
            let right = kind == ETHER_IPV6 && body.len() >= IPV6_HEADER + 24 && body[6] == NEXT_ICMPV6;
            let claims = right
                && body[7] == HOP_LIMIT
                && body[IPV6_HEADER] == NEIGHBOUR_ADVERTISEMENT
                && body[IPV6_HEADER + 8..IPV6_HEADER + 24] == ip.octets();
            claims.then(|| mac(&frame[6..12])).flatten()
        }
    }
}

fn mac(bytes: &[u8]) -> Option<Mac> {
    bytes.try_into().ok().map(Mac)
}

fn ether(to: Mac, from: Mac, kind: u16) -> Vec<u8> {
    let mut frame = Vec::with_capacity(ETHER_HEADER + IPV6_HEADER + 32);
    frame.extend_from_slice(&to.0);
    frame.extend_from_slice(&from.0);
    frame.extend_from_slice(&kind.to_be_bytes());
    frame
}

fn arp_request(from: Mac, sender: Ipv4Addr, target: Ipv4Addr) -> Vec<u8> {
    let mut frame = ether(BROADCAST, from, ETHER_ARP);
    // Ethernet, IPv4, their lengths, a request.
    frame.extend_from_slice(&[0, 1, 8, 0, 6, 4, 0, 1]);
    frame.extend_from_slice(&from.0);
    frame.extend_from_slice(&sender.octets());
    frame.extend_from_slice(&[0; 6]);
    frame.extend_from_slice(&target.octets());
    frame
}

/// The group in which the holder of `ip` listens for questions (RFC 4291, 2.7.1).
fn solicited_node(ip: Ipv6Addr) -> Ipv6Addr {
    let [.., a, b, c] = ip.octets();
    Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | u16::from(a), u16::from_be_bytes([b, c]))
}

/// A message of ICMPv6 to a group, its checksum filled in.
fn icmpv6(mac: Mac, from: Ipv6Addr, group: Ipv6Addr, mut body: Vec<u8>) -> Vec<u8> {
    let length = u16::try_from(body.len()).unwrap_or(u16::MAX);
    let mut sum: u32 = 0;
    let pseudo = [0, 0, length.to_be_bytes()[0], length.to_be_bytes()[1], 0, 0, 0, NEXT_ICMPV6];
    for part in [&from.octets()[..], &group.octets()[..], &pseudo[..], &body[..]] {
        sum +=
            part.chunks(2).map(|pair| u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |b| u32::from(*b))).sum::<u32>();
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    let checksum = !u16::try_from(sum).unwrap_or(0);
    body[2..4].copy_from_slice(&checksum.to_be_bytes());
    let [.., a, b, c, d] = group.octets();
    let mut frame = ether(Mac([0x33, 0x33, a, b, c, d]), mac, ETHER_IPV6);
    frame.extend_from_slice(&[0x60, 0, 0, 0]);
    frame.extend_from_slice(&length.to_be_bytes());
    frame.extend_from_slice(&[NEXT_ICMPV6, HOP_LIMIT]);
    frame.extend_from_slice(&from.octets());
    frame.extend_from_slice(&group.octets());
    frame.extend_from_slice(&body);
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    const ME: Mac = Mac([0x52, 0x54, 0, 0xaa, 0xbb, 1]);

    fn hex(bytes: &[u8]) -> String {
        data_encoding::HEXLOWER.encode(bytes)
    }

    #[test]
    fn a_gratuitous_request_has_the_address_as_sender_and_target() {
        let frame = announcement(ME, "10.0.0.50".parse().unwrap());
        let expected = "ffffffffffff525400aabb01080600010800060400015254\
                        00aabb010a0000320000000000000a000032";
        assert_eq!(hex(&frame), expected);
        assert_eq!(claimant(&frame, "10.0.0.50".parse().unwrap()), Some(ME));
        assert_eq!(claimant(&frame, "10.0.0.51".parse().unwrap()), None);
    }

    #[test]
    fn an_advertisement_goes_to_all_nodes_with_override_and_a_right_checksum() {
        let ip = "fd00::50".parse().unwrap();
        let frame = announcement(ME, ip);
        assert_eq!(hex(&frame[..14]), "333300000001525400aabb0186dd");
        assert_eq!((frame[14 + 6], frame[14 + 7], frame[54], frame[58]), (58, 255, 136, 0x20));
        assert_eq!(claimant(&frame, ip), Some(ME));
        // What carries its own checksum sums up to all ones.
        let body = &frame[54..];
        let pseudo = [&frame[22..54], &[0, 0, 0, 32, 0, 0, 0, 58], body].concat();
        let mut sum: u32 = pseudo.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum();
        sum = (sum & 0xffff) + (sum >> 16);
        assert_eq!((sum & 0xffff) + (sum >> 16), 0xffff);
    }

    #[test]
    fn a_probe_claims_nothing_and_asks_the_holder_alone() {
        for ip in ["10.0.0.50", "fd00::12:3456"] {
            let ip = ip.parse().unwrap();
            assert_eq!(claimant(&probe(ME, ip), ip), None, "{ip}");
        }
        let frame = probe(ME, "fd00::12:3456".parse().unwrap());
        assert_eq!(hex(&frame[..6]), "3333ff123456");
        assert_eq!(hex(&frame[38..54]), "ff0200000000000000000001ff123456");
    }

    #[test]
    fn no_frame_makes_the_reader_panic() {
        for ip in ["10.0.0.50", "fd00::50"] {
            let ip = ip.parse().unwrap();
            let frame = announcement(ME, ip);
            for end in 0..frame.len() {
                assert_eq!(claimant(&frame[..end], ip).is_some(), ip.is_ipv6() && end >= 78, "{end} bytes of {ip}");
            }
        }
    }
}
