//! A founded cluster to try commands on.

use std::collections::BTreeMap;

use landfall_proto::id::{
    Epoch, Fingerprint, Fqdn, MemberId, NodeName, Position, RequestId, SenderEpoch, UnixMillis, VmId,
};
use landfall_proto::model::{
    Answer, AuthorizationEntry, CaLine, Command, DiskSpec, Found, Frequency, Member, MemberList, Outcome, Peer,
    Proposal, Replica, Ticket, TicketKind, Timing, VmSpec,
};
use uuid::Uuid;

use super::{State, Survivor};

pub(super) const R1: MemberId = Found::FOUNDER;
pub(super) const HOUR: u64 = 3_600_000;

pub(super) fn name<T: std::str::FromStr<Err: std::fmt::Debug>>(text: &str) -> T {
    text.parse().unwrap()
}

pub(super) fn cap(letter: char) -> Fqdn {
    name(&format!("{letter}-broker-cap.contoso.com"))
}

pub(super) fn vm(number: u128) -> VmSpec {
    VmSpec {
        id: VmId(Uuid::from_u128(number)),
        name: name(&format!("VM {number}")),
        disks: vec![DiskSpec { target: name("vda"), bytes: 1 << 30 }],
        adapters: Vec::new(),
        launch: Default::default(),
    }
}

pub(super) fn member(id: MemberId, node: &str, key: u8) -> Member {
    Member {
        id,
        node: name(node),
        fqdn: name(&format!("{node}.contoso.com")),
        key: Fingerprint([key; 32]),
        control: format!("10.0.0.{key}:7443").parse().unwrap(),
        data: format!("10.0.0.{key}:7444").parse().unwrap(),
        witness: false,
    }
}

pub(super) fn peer(letter: char, position: u64) -> Peer {
    let members = vec![member(MemberId::from_number(1), &format!("{letter}1"), 200)];
    Peer {
        cluster: name(&format!("Cluster-{letter}")),
        ca: vec![letter as u8; 300],
        line: CaLine::of(vec![letter as u8; 300]),
        list: MemberList { cap: cap(letter), position: Position::new(0, position), members, cap_addresses: Vec::new() },
        confirmed_at: UnixMillis(0),
    }
}

pub(super) fn entry(pattern: &str, group: &str) -> AuthorizationEntry {
    AuthorizationEntry { primary: name(pattern), storage: name("default"), trust_group: name(group) }
}

/// What `cluster init` recorded.
pub(crate) fn founding() -> Found {
    Found {
        cluster: name("Cluster-R"),
        cap: cap('r'),
        cluster_id: 9,
        ca: vec![b'r'; 300],
        timing: Timing::STANDARD,
        cap_address: None,
        founder: member(R1, "r1", 1),
    }
}

/// A state, its clock and its log.
#[derive(Clone, Debug)]
pub(super) struct Bench {
    pub(super) state: State,
    pub(super) log: Vec<(Position, Proposal)>,
    pub(super) at: u64,
    index: u64,
}

impl Bench {
    /// A cluster of r1 alone, which owns the CAP.
    pub(super) fn founded() -> Self {
        Self::founded_as(founding())
    }

    /// The same, whose CA has this certificate.
    pub(super) fn founded_with(ca: &[u8]) -> Self {
        Self::founded_as(Found { ca: ca.to_vec(), ..founding() })
    }

    /// The same, founded with `found`.
    pub(super) fn founded_as(found: Found) -> Self {
        let mut bench = Self { state: State::default(), log: Vec::new(), at: 1_000_000, index: 1 };
        bench.ok(Command::Found(Box::new(found)));
        bench.ok(Command::Claim(R1));
        bench
    }

    /// r1, r2 and r3; paired with p, which is authorized; replication enabled.
    pub(super) fn ready() -> (Self, [MemberId; 3]) {
        let mut bench = Self::founded();
        let (r2, r3) = (bench.join("r2", 2), bench.join("r3", 3));
        bench.ok(Command::Pair { peer: Box::new(peer('p', 5)), ticket: None });
        bench.set(&[("replication_enabled", "true")]);
        bench.ok(Command::Authorize(entry("p-broker-cap.contoso.com", "T1")));
        (bench, [R1, r2, r3])
    }

    pub(super) fn propose(&mut self, request: Option<RequestId>, command: Command) -> Answer {
        let proposal = Proposal { request, at: UnixMillis(self.at), term: self.state.term(), command };
        self.apply(proposal)
    }

    pub(super) fn apply(&mut self, proposal: Proposal) -> Answer {
        self.index += 1;
        let position = Position::new(self.state.incarnation, self.index);
        let before = self.state.clone();
        let answer = self.state.apply(position, &proposal);
        if answer.is_err() && proposal.request.is_none() {
            let untouched = State { applied: position, ..before };
            assert_eq!(self.state, untouched, "a refused command changes nothing: {proposal:?}");
        }
        self.log.push((position, proposal));
        answer
    }

    /// Goes on with `state`, which may lack what was committed last, as the next life of `member`, which has a point of each
    /// of `points`. Somebody owns the CAP then.
    pub(super) fn recover(&mut self, state: State, member: MemberId, points: &[VmId]) {
        self.state = state;
        self.index += 1;
        let survivor = Survivor { member, points: points.iter().copied().collect(), at: UnixMillis(self.at) };
        self.state.begin_next_life(self.index, &survivor).unwrap();
        self.ok(Command::Claim(member));
    }

    pub(super) fn run(&mut self, command: Command) -> Answer {
        self.propose(None, command)
    }

    pub(super) fn ok(&mut self, command: Command) -> Outcome {
        self.run(command).unwrap()
    }

    /// Runs a command that must be refused, and returns its code.
    pub(super) fn refused(&mut self, command: Command) -> String {
        self.run(command).unwrap_err().code
    }

    pub(super) fn set(&mut self, pairs: &[(&str, &str)]) -> Outcome {
        let changes: BTreeMap<_, _> =
            pairs.iter().map(|(key, value)| ((*key).to_owned(), Some((*value).to_owned()))).collect();
        self.ok(Command::Set { changes, expect: None, by: "root".into() })
    }

    pub(super) fn ticket(&mut self, id: u64, kind: TicketKind) -> Outcome {
        let expires_at = UnixMillis(self.at + HOUR);
        self.ok(Command::AddTicket(Ticket { id, secret: [7; 32], kind, expires_at, used_by: None }))
    }

    pub(super) fn asks_to_join(&self, ticket: u64, node: &str, key: u8) -> Command {
        let member = member(R1, node, key);
        let Member { node, fqdn, key, control, data, .. } = member;
        Command::Join { ticket, key, node, fqdn, control, data }
    }

    pub(super) fn join(&mut self, node: &str, key: u8) -> MemberId {
        self.ticket(key.into(), TicketKind::Join { witness: false, replaces: None });
        match self.ok(self.asks_to_join(key.into(), node, key)) {
            Outcome::Joined(id) => id,
            other => panic!("{other:?}"),
        }
    }

    pub(super) fn witness(&mut self, node: &str, key: u8) -> MemberId {
        self.ticket(key.into(), TicketKind::Join { witness: true, replaces: None });
        match self.ok(self.asks_to_join(key.into(), node, key)) {
            Outcome::Joined(id) => id,
            other => panic!("{other:?}"),
        }
    }

    pub(super) fn asks_to_place(&self, number: u128, primary: char, holder: MemberId) -> Command {
        Command::Place {
            vm: Box::new(vm(number)),
            primary: cap(primary),
            holder,
            frequency: Frequency::FiveMinutes,
            recovery_points: 4,
            instead_of: None,
            lineage: None,
        }
    }

    /// Places VM `number` of p at `holder` and returns its epoch.
    pub(super) fn place(&mut self, number: u128, holder: MemberId) -> Epoch {
        match self.ok(self.asks_to_place(number, 'p', holder)) {
            Outcome::Placed { replica, created: true } => replica.epoch,
            other => panic!("{other:?}"),
        }
    }

    /// As [`Bench::place`], with a first point that `also` have, too.
    pub(super) fn acknowledged(&mut self, number: u128, holder: MemberId, also: &[MemberId]) -> Epoch {
        let epoch = self.place(number, holder);
        self.ok(Command::Acknowledged { vm: vm(number).id, epoch });
        also.iter().for_each(|member| self.copied(number, *member));
        epoch
    }

    /// Has `member` copy VM `number`, and admits it.
    pub(super) fn copied(&mut self, number: u128, member: MemberId) {
        let (vm, epoch) = (vm(number).id, self.replica(number).epoch);
        self.ok(Command::Copy { vm, epoch, to: Some(member) });
        let begun = self.replica(number).copying_since(member).unwrap();
        self.ok(Command::Admit { vm, epoch, member, begun });
    }

    pub(super) fn replica(&self, number: u128) -> &Replica {
        self.state.replicas.get(&vm(number).id).unwrap()
    }

    /// Enables VM `number` towards p and lets `sender` claim it.
    pub(super) fn enable(&mut self, number: u128) {
        self.ok(Command::Enable {
            vm: Box::new(vm(number)),
            to: cap('p'),
            frequency: Frequency::HalfMinute,
            recovery_points: 0,
            starts_at: None,
            limit: None,
            excluded: Vec::new(),
        });
    }

    pub(super) fn claims(&self, number: u128, member: MemberId, epoch: SenderEpoch, down: bool) -> Command {
        Command::ClaimSender { vm: vm(number).id, member, epoch, down }
    }
}

pub(super) fn node(text: &str) -> NodeName {
    name(text)
}
