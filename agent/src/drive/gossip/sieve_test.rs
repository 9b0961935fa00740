//! A bad member's messages, and what is left of them.

use std::net::SocketAddr;

use super::*;

const ME: u64 = 1;
const BAD: u64 = 2;
const OTHER: u64 = 3;

fn address(member: u64) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, member as u8], 7443))
}

fn id(member: u64, life: u64) -> ChitchatId {
    ChitchatId::new(member.to_string(), life, address(member))
}

fn known(id: ChitchatId, heartbeat: u64) -> Known {
    Known { id, heartbeat, collected: 0, version: 4 }
}

fn news(id: ChitchatId, version: u64, text: &str) -> News {
    let value = Value { key: FACTS_KEY.into(), text: text.into(), version, status: 0 };
    News { id, collected: 0, from: 0, values: vec![value] }
}

fn message(digest: Vec<Known>, news: Vec<News>) -> Message {
    Message { step: Step::SynAck, digest, news, cluster: String::new() }
}

/// A sieve that has heard both others, a virtual clock beside it.
struct Stand {
    sieve: Sieve,
    now: Time,
}

impl Stand {
    fn new() -> Self {
        let mut sieve = Sieve::default();
        sieve.begin(id(ME, 100), "r.test".into());
        let mut stand = Self { sieve, now: Time(Duration::from_secs(1000)) };
        for member in [BAD, OTHER] {
            stand.hear(member, &message(vec![known(id(member, 50), 7)], Vec::new())).unwrap();
        }
        stand
    }

    fn hear(&mut self, from: u64, message: &Message) -> Result<Message, Unfit> {
        self.now = self.now.after(Duration::from_millis(100));
        let member = MemberId::from_number(from);
        let sifted = self.sieve.sift(member, address(from), &message.write(), self.now)?;
        Ok(Message::read(&sifted.expect("the node takes part")).expect("what is left is a message"))
    }

    fn life(&self, member: u64) -> Option<u64> {
        self.sieve.life(MemberId::from_number(member)).map(|id| id.generation_id)
    }
}

#[test]
fn a_sender_speaks_for_itself_only() {
    let mut stand = Stand::new();
    let own = known(id(BAD, 50), 8);
    // The heartbeat that would silence the other for good, a later life of it, one at another address, nodes that do not
    // exist, and an earlier life of this node.
    let forged = vec![
        own.clone(),
        known(id(OTHER, 50), u64::MAX),
        known(id(OTHER, 51), u64::MAX),
        known(ChitchatId::new("3", 50, address(BAD)), 9),
        known(id(77, 1), 9),
        known(ChitchatId::new("nobody", 1, address(BAD)), 9),
        known(id(ME, 99), 9),
        known(id(ME, 100), u64::MAX),
    ];
    // What this node, the other one and nobody say of themselves.
    let words = vec![
        news(id(ME, 100), u64::MAX, "forged"),
        news(id(OTHER, 50), 5, "forged"),
        news(id(77, 1), 5, "forged"),
        news(id(BAD, 50), 5, "own"),
    ];
    let left = stand.hear(BAD, &message(forged, words)).unwrap();
    assert_eq!(left.digest, [known(id(ME, 100), 0), own, known(id(OTHER, 50), 0)]);
    assert_eq!(left.news, [news(id(BAD, 50), 5, "own")]);
    assert_eq!((stand.life(BAD), stand.life(OTHER), stand.life(77)), (Some(50), Some(50), None));
}

#[test]
fn a_sender_is_bounded_in_what_it_says_of_itself() {
    let mut stand = Stand::new();
    let me = || known(id(BAD, 50), 8);
    let beyond = [
        message(vec![known(id(BAD, 50), u64::MAX)], Vec::new()),
        message(vec![Known { version: u64::MAX, ..me() }], Vec::new()),
        message(vec![Known { collected: 1, ..me() }], Vec::new()),
        message(vec![me()], vec![news(id(BAD, 50), u64::MAX, "x")]),
        message(vec![me()], vec![news(id(BAD, 50), 0, "x")]),
        message(vec![me()], vec![News { collected: 9, ..news(id(BAD, 50), 5, "x") }]),
        message(vec![me()], vec![news(id(BAD, 50), 5, &"x".repeat(FACTS_MAX_BYTES + 1))]),
    ];
    for message in beyond {
        assert_eq!(stand.hear(BAD, &message), Err(Unfit::Beyond), "{message:?}");
    }
    // Keys that nobody reads and values on their way out are left away; of two versions the newer one stays.
    let mut words = news(id(BAD, 50), 5, "older");
    for n in 0..1000 {
        words.values.push(Value { key: format!("key-{n}"), text: "x".into(), version: 6 + n, status: 0 });
    }
    words.values.push(Value { key: FACTS_KEY.into(), text: "gone".into(), version: 2000, status: 1 });
    words.values.push(Value { key: FACTS_KEY.into(), text: "newer".into(), version: 1500, status: 0 });
    let left = stand.hear(BAD, &message(vec![me()], vec![words])).unwrap();
    assert_eq!(left.news, [news(id(BAD, 50), 1500, "newer")]);
}

#[test]
fn lives_and_messages_are_counted() {
    let mut stand = Stand::new();
    let refused = (51..1051).filter(|life| stand.hear(BAD, &message(vec![known(id(BAD, *life), 1)], vec![])).is_err());
    // 100 s passed: ten more than at once, and the first one was used.
    assert!((970..=980).contains(&refused.count()));
    let mut flood = (0..1000).filter(|_| {
        let member = MemberId::from_number(OTHER);
        stand.sieve.sift(member, address(OTHER), b"no message", stand.now) == Err(Unfit::TooMany)
    });
    assert!(flood.next().is_some() && flood.count() > 900);
    stand.now = stand.now.after(Duration::from_secs(5));
    assert!(stand.hear(OTHER, &message(vec![known(id(OTHER, 50), 9)], Vec::new())).is_ok());
}

#[test]
fn a_node_that_starts_again_is_heard_in_its_new_life_even_where_its_clock_went_back() {
    let mut stand = Stand::new();
    let says = |life| message(vec![known(id(BAD, life), 3)], vec![news(id(BAD, life), 1, "new")]);
    assert_eq!(stand.hear(BAD, &says(60)).unwrap().news.len(), 1);
    assert_eq!(stand.life(BAD), Some(60));
    // A late word of the life before.
    let late = stand.hear(BAD, &says(50)).unwrap();
    assert!(late.news.is_empty() && late.digest.is_empty() && stand.life(BAD) == Some(60));
    stand.now = stand.now.after(LIFE_OVER_AFTER);
    assert_eq!(stand.hear(BAD, &says(4)).unwrap().news.len(), 1);
    assert_eq!(stand.life(BAD), Some(4));
}

#[test]
fn another_cluster_and_garbage_are_refused() {
    let mut stand = Stand::new();
    let syn = |cluster: &str| Message {
        step: Step::Syn,
        digest: vec![known(id(BAD, 50), 9)],
        news: Vec::new(),
        cluster: cluster.into(),
    };
    assert_eq!(stand.hear(BAD, &syn("p.test")), Err(Unfit::OtherCluster));
    assert!(stand.hear(BAD, &syn("r.test")).is_ok());
    let member = MemberId::from_number(BAD);
    assert_eq!(stand.sieve.sift(member, address(BAD), &[0x53, 0xb0, 0, 3], stand.now), Err(Unfit::Malformed));
}
