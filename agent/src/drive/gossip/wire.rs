//! chitchat's messages as bytes, taken apart before chitchat sees them.
//!
//! Its own decoder believes what it reads: it makes state for every node that a message names, and holds what several of
//! its assertions check to be true. So a message is read here, within bounds; the [`sieve`](super::sieve) decides what of
//! it counts; and only that is put together again and given to chitchat. The format is that of chitchat 0.11.2, whose
//! version is pinned for this reason.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// One life of a node.
pub use chitchat::ChitchatId;

use crate::drive::pack;

/// The most bytes of news in one message once it is unpacked: two kilobytes for each of the most members.
const NEWS_MAX_BYTES: usize = 256 * 1024;

/// The most bytes of one block of news: its length has two bytes.
const BLOCK_MAX_BYTES: usize = u16::MAX as usize;

/// What every message begins with, and the format's version.
const PREAMBLE: [u8; 3] = [0x53, 0xb0, 0];

/// The longest id of a node and of a cluster that is read: a number, a name.
const NAME_MAX_BYTES: usize = 255;

/// Which message of a round it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Begins a round: what its sender knows.
    Syn = 0,
    /// The answer: what the other one knows, and what is new to the sender.
    SynAck = 1,
    /// Ends a round: what is new to the other one.
    Ack = 2,
}

/// How much of one node its teller knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    /// The node, in one of its lives.
    pub id: ChitchatId,
    /// Its newest heartbeat.
    pub heartbeat: u64,
    /// Below this version nothing is told about what was deleted.
    pub collected: u64,
    /// The newest version.
    pub version: u64,
}

/// One value of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Value {
    /// Its name.
    pub key: String,
    /// The value.
    pub text: String,
    /// Its version.
    pub version: u64,
    /// Whether it stays: anything but zero is on its way out.
    pub status: u8,
}

/// News of one node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct News {
    /// The node, in one of its lives.
    pub id: ChitchatId,
    /// As in [`Known`].
    pub collected: u64,
    /// Everything that is newer than this is told.
    pub from: u64,
    /// What is new.
    pub values: Vec<Value>,
}

/// A message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Which one.
    pub step: Step,
    /// What its sender knows; nothing in the last message of a round.
    pub digest: Vec<Known>,
    /// What is new; nothing in the first message of a round.
    pub news: Vec<News>,
    /// The cluster, in the first message of a round.
    pub cluster: String,
}

impl Message {
    /// Reads a message; `None` where the bytes are no such message or go beyond a bound. What names a version without a
    /// value, which our nodes never say, is left out.
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let mut bytes = Bytes(bytes.strip_prefix(&PREAMBLE)?);
        let step = match bytes.byte()? {
            0 => Step::Syn,
            1 => Step::SynAck,
            2 => Step::Ack,
            _ => return None,
        };
        let digest = if step == Step::Ack { Vec::new() } else { bytes.digest()? };
        let news = if step == Step::Syn { Vec::new() } else { news(&bytes.unpacked()?)? };
        let cluster = if step == Step::Syn { bytes.text(NAME_MAX_BYTES)? } else { String::new() };
        bytes.0.is_empty().then_some(Self { step, digest, news, cluster })
    }

    /// The message as bytes.
    pub fn write(&self) -> Vec<u8> {
        let mut out = PREAMBLE.to_vec();
        out.push(self.step as u8);
        if self.step != Step::Ack {
            // Lists, texts and blocks have two bytes for their lengths, which what was read above keeps.
            out.extend((self.digest.len() as u16).to_le_bytes());
            for known in &self.digest {
                put_id(&mut out, &known.id);
                [known.heartbeat, known.collected, known.version].iter().for_each(|n| out.extend(n.to_le_bytes()));
            }
        }
        if self.step == Step::Syn {
            put_text(&mut out, &self.cluster);
        } else {
            put_news(&mut out, &self.news);
        }
        out
    }
}

fn put_news(out: &mut Vec<u8>, news: &[News]) {
    let mut plain = Vec::new();
    for news in news {
        plain.push(0);
        put_id(&mut plain, &news.id);
        [news.collected, news.from].iter().for_each(|n| plain.extend(n.to_le_bytes()));
        for value in &news.values {
            plain.push(1);
            put_text(&mut plain, &value.key);
            put_text(&mut plain, &value.text);
            plain.extend(value.version.to_le_bytes());
            plain.push(value.status);
        }
    }
    for block in plain.chunks(BLOCK_MAX_BYTES) {
        out.push(2);
        out.extend((block.len() as u16).to_le_bytes());
        out.extend(block);
    }
    out.push(0);
}

fn put_id(out: &mut Vec<u8>, id: &ChitchatId) {
    put_text(out, &id.node_id);
    out.extend(id.generation_id.to_le_bytes());
    match id.gossip_advertise_addr.ip() {
        IpAddr::V4(ip) => {
            out.push(4);
            out.extend(ip.octets());
        }
        IpAddr::V6(ip) => {
            out.push(6);
            out.extend(ip.octets());
        }
    }
    out.extend(id.gossip_advertise_addr.port().to_le_bytes());
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u16).to_le_bytes());
    out.extend(text.as_bytes());
}

fn news(plain: &[u8]) -> Option<Vec<News>> {
    let mut bytes = Bytes(plain);
    let mut all: Vec<News> = Vec::new();
    while !bytes.0.is_empty() {
        match bytes.byte()? {
            0 => all.push(News {
                id: bytes.id()?,
                collected: bytes.number()?,
                from: bytes.number()?,
                values: Vec::new(),
            }),
            1 => {
                let (key, text) = (bytes.text(BLOCK_MAX_BYTES)?, bytes.text(BLOCK_MAX_BYTES)?);
                let (version, status) = (bytes.number()?, bytes.byte()?);
                all.last_mut()?.values.push(Value { key, text, version, status });
            }
            2 => drop(bytes.number()?),
            _ => return None,
        }
    }
    Some(all)
}

/// What is left to read.
struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    fn byte(&mut self) -> Option<u8> {
        self.array().map(|[byte]| byte)
    }

    fn short(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    fn number(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    fn text(&mut self, most: usize) -> Option<String> {
        let length = usize::from(self.short()?);
        let text = std::str::from_utf8(self.take(length)?).ok()?;
        (length <= most).then(|| text.to_owned())
    }

    fn id(&mut self) -> Option<ChitchatId> {
        let (node, life) = (self.text(NAME_MAX_BYTES)?, self.number()?);
        let ip = match self.byte()? {
            4 => IpAddr::V4(Ipv4Addr::from(self.array::<4>()?)),
            6 => IpAddr::V6(Ipv6Addr::from(self.array::<16>()?)),
            _ => return None,
        };
        Some(ChitchatId::new(node, life, SocketAddr::new(ip, self.short()?)))
    }

    fn digest(&mut self) -> Option<Vec<Known>> {
        let count = self.short()?;
        let mut known = Vec::new();
        for _ in 0..count {
            let id = self.id()?;
            let (heartbeat, collected, version) = (self.number()?, self.number()?, self.number()?);
            known.push(Known { id, heartbeat, collected, version });
        }
        Some(known)
    }

    /// The blocks of a message's news, unpacked.
    fn unpacked(&mut self) -> Option<Vec<u8>> {
        let mut plain = Vec::new();
        loop {
            match self.byte()? {
                0 => return Some(plain),
                kind @ (1 | 2) => {
                    let length = usize::from(self.short()?);
                    let block = self.take(length)?;
                    if kind == 2 {
                        plain.extend_from_slice(block);
                    } else {
                        plain.extend(pack::unpack_block(block, BLOCK_MAX_BYTES)?);
                    }
                }
                _ => return None,
            }
            if plain.len() > NEWS_MAX_BYTES {
                return None;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use chitchat::{ChitchatMessage, Deserializable, Serializable};

    use super::*;

    fn id(node: &str) -> ChitchatId {
        ChitchatId::new(node, 7, "[fd00::1]:7443".parse().unwrap())
    }

    fn messages() -> Vec<Message> {
        let value = |version, text: &str| Value { key: "facts".into(), text: text.into(), version, status: 0 };
        let news = |node| News { id: id(node), collected: 0, from: 0, values: vec![value(1, "{}"), value(9, "a")] };
        let known = |node| Known { id: id(node), heartbeat: 3, collected: 0, version: 9 };
        let digest = vec![known("1"), known("200")];
        vec![
            Message { step: Step::Syn, digest: digest.clone(), news: Vec::new(), cluster: "r.test".into() },
            Message { step: Step::SynAck, digest, news: vec![news("1"), news("2")], cluster: String::new() },
            Message { step: Step::Ack, digest: Vec::new(), news: vec![news("3")], cluster: String::new() },
        ]
    }

    /// What chitchat reads of our bytes, and writes anew, is the same message: packed where that is shorter.
    #[test]
    fn chitchat_and_this_file_understand_each_other() {
        for message in messages() {
            let ours = message.write();
            assert_eq!(Message::read(&ours), Some(message.clone()));
            let theirs = ChitchatMessage::deserialize(&mut &ours[..]).expect("chitchat reads it");
            if message.step == Step::Syn {
                assert_eq!(theirs.serialize_to_vec(), ours);
            }
        }
        // A packed block, as chitchat writes them.
        let mut message = messages().remove(2);
        let text = "the same again, ".repeat(900);
        message.news[0].values.truncate(1);
        message.news[0].values[0].text = text;
        let plain = message.write();
        let mut packed = PREAMBLE.to_vec();
        let block = zstd_of(&plain[7..plain.len() - 1]);
        packed.extend([2, 1]);
        packed.extend((block.len() as u16).to_le_bytes());
        packed.extend(&block);
        packed.push(0);
        assert!(packed.len() < plain.len() / 4);
        assert_eq!(Message::read(&packed), Some(message));
        assert!(ChitchatMessage::deserialize(&mut &packed[..]).is_ok());
    }

    fn zstd_of(plain: &[u8]) -> Vec<u8> {
        pack::pack_block(plain)
    }

    #[test]
    fn bytes_that_are_no_message_or_too_much_of_one_are_not_read() {
        for message in messages() {
            let good = message.write();
            (0..good.len()).for_each(|end| assert_eq!(Message::read(&good[..end]), None, "{end} of {}", good.len()));
            assert_eq!(Message::read(&[&good[..], &[0]].concat()), None, "more than a message");
        }
        // Sixty kilobytes that would unpack to sixteen times what is allowed.
        let block = zstd_of(&vec![0; BLOCK_MAX_BYTES]);
        let mut bomb = [&PREAMBLE[..], &[2]].concat();
        for _ in 0..64 {
            bomb.push(1);
            bomb.extend((block.len() as u16).to_le_bytes());
            bomb.extend(&block);
        }
        bomb.push(0);
        assert_eq!(Message::read(&bomb), None);
    }
}
