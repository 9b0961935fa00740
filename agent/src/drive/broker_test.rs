//! Which primary a replica takes data from, by what is committed.

use std::collections::BTreeMap;

use landfall_proto::id::UnixMillis;
use landfall_proto::model::{
    AuthorizationEntry, CaLine, DiskSpec, Found, Frequency, Member, MemberList, Peer, Proposal, Timing, VmSpec,
};
use landfall_store::State;

use super::*;

const VM: VmId = VmId(uuid::Uuid::from_u128(77));

struct Site {
    state: State,
    index: u64,
}

impl Site {
    /// A replica's cluster of one node, which accepts replicas.
    fn new() -> Self {
        let mut site = Self { state: State::default(), index: 1 };
        let found = Found {
            cluster: "R".parse().unwrap(),
            cap: "r.contoso.com".parse().unwrap(),
            cluster_id: 1,
            ca: vec![1; 300],
            timing: Timing::STANDARD,
            cap_address: None,
            founder: member(1),
        };
        site.run(Command::Found(Box::new(found)));
        site.run(Command::Claim(Found::FOUNDER));
        let changes = BTreeMap::from([("replication_enabled".to_owned(), Some("true".to_owned()))]);
        site.run(Command::Set { changes, expect: None, by: "root".to_owned() });
        site
    }

    fn run(&mut self, command: Command) {
        self.index += 1;
        let proposal = Proposal { request: None, at: UnixMillis(1), term: self.state.term(), command };
        self.state.apply(Position::new(0, self.index), &proposal).unwrap();
    }

    /// Pairs with the cluster that `ca` stands for, and authorizes it.
    fn pair(&mut self, cap: &str, ca: u8) {
        let list = MemberList {
            cap: cap.parse().unwrap(),
            position: Position::new(0, 9),
            members: vec![member(ca)],
            cap_addresses: vec![],
        };
        let peer = Peer {
            cluster: "P".parse().unwrap(),
            ca: vec![ca; 300],
            line: CaLine::of(vec![ca; 300]),
            list,
            confirmed_at: UnixMillis(0),
        };
        self.run(Command::Pair { peer: Box::new(peer), ticket: None });
        let storage = "default".parse().unwrap();
        let trust_group = "T".parse().unwrap();
        self.run(Command::Authorize(AuthorizationEntry { primary: cap.parse().unwrap(), storage, trust_group }));
    }

    fn place(&mut self, cap: &str) {
        let disks = vec![DiskSpec { target: "vda".parse().unwrap(), bytes: 1 << 20 }];
        let vm =
            VmSpec { id: VM, name: "Work".parse().unwrap(), disks, adapters: Vec::new(), launch: Default::default() };
        self.run(Command::Place {
            vm: Box::new(vm),
            primary: cap.parse().unwrap(),
            holder: Found::FOUNDER,
            frequency: Frequency::HalfMinute,
            recovery_points: 4,
            instead_of: None,
            lineage: None,
        });
    }

    fn sent_by(&self, cap: &str) -> Result<(), String> {
        replica_sent_by(&self.state, &cap.parse().unwrap(), VM).map(drop).map_err(|refusal| refusal.code)
    }

    fn cluster(&self, cap: &str, key: u8) -> Option<Fingerprint> {
        cluster_of(&self.state, &cap.parse().unwrap(), &member(key).key)
    }
}

fn member(key: u8) -> Member {
    Member {
        id: Found::FOUNDER,
        node: format!("n{key}").parse().unwrap(),
        fqdn: format!("n{key}.contoso.com").parse().unwrap(),
        key: Fingerprint([key; 32]),
        control: format!("10.0.0.{key}:7443").parse().unwrap(),
        data: format!("10.0.0.{key}:7444").parse().unwrap(),
        witness: false,
    }
}

#[test]
fn when_another_cluster_becomes_the_primary_the_one_before_is_refused() {
    let (p, q) = ("p.contoso.com", "q.contoso.com");
    let mut site = Site::new();
    site.pair(p, 2);
    site.pair(q, 3);
    site.place(p);
    assert_eq!(site.sent_by(p), Ok(()));
    let found = replica_of(&site.state, &q.parse().unwrap(), VM);
    assert!(found.is_ok(), "one of its trust group may ask where it is");
    assert_eq!(site.sent_by(q), Err("other_primary".to_owned()), "and sends nothing until it has placed it");
    site.place(q);
    assert_eq!((site.sent_by(q), site.sent_by(p)), (Ok(()), Err("other_primary".to_owned())));
    site.run(Command::Deauthorize(p.parse().unwrap()));
    assert_eq!(site.sent_by(p), Err("no_replica".to_owned()));
}

#[test]
fn a_cluster_made_anew_under_its_name_is_another_one() {
    let p = "p.contoso.com";
    let mut site = Site::new();
    site.pair(p, 2);
    site.place(p);
    let before = site.cluster(p, 2).unwrap();
    assert_eq!(site.cluster(p, 3), None, "a key that is not on the list");
    site.run(Command::Unpair(p.parse().unwrap()));
    assert_eq!(site.cluster(p, 2), None);
    site.pair(p, 4);
    assert_eq!(site.cluster(p, 2), None, "nobody of the cluster before, whatever session is open still");
    assert_ne!(site.cluster(p, 4), Some(before));
    assert_eq!(site.sent_by(p), Ok(()), "the new cluster sends, by its own epochs");
}
