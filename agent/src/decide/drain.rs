//! What is still to be moved away from a drained node, where to, and what has to stay.
//!
//! A replica that the node receives goes to a member of its in-sync set that could go on in its place, by one commit; else
//! another node copies it, chosen like the node of a new replica. A further copy that the node has is replaced by
//! [`super::copies`], which takes a drained node for one that cannot go on. VMs that run at the node stay.

use std::collections::BTreeSet;

use landfall_proto::id::MemberId;
use landfall_proto::model::Replica;

use super::copies::complaint;
use super::placement::{self, Candidate, Standing, Wish};

/// What a drained node has to do with a replica.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tie {
    /// Nothing.
    None,
    /// Another node is to receive it: at once where that one has it, else once it has copied it.
    Hold(MemberId),
    /// Another node is to be filled with it, since there is nothing yet that could be copied.
    Fill(MemberId),
    /// It is on its way.
    UnderWay,
    /// It stays, for this reason.
    Stays(String),
}

/// What is going on with a replica besides.
#[derive(Clone, Copy, Debug, Default)]
pub struct Use {
    /// It is failed over.
    pub promoted: bool,
    /// A test failover of it runs.
    pub tested: bool,
    /// The disks that the VM had at this node are being taken in.
    pub returning: bool,
}

/// What `member`, which is drained, has to do with `replica`. `down` are the members that are held for dead; `seed` decides
/// among those that will do.
pub fn tie(
    replica: &Replica,
    member: MemberId,
    candidates: &[Candidate],
    down: &BTreeSet<MemberId>,
    usage: Use,
    seed: [u8; 32],
) -> Tie {
    let receives = replica.receiver() == member;
    if !receives && !replica.in_sync.contains(&member) {
        return Tie::None;
    }
    if usage.promoted {
        let what =
            if receives { "it is failed over and runs there" } else { "it is failed over, and keeps its copies" };
        return Tie::Stays(what.to_owned());
    }
    let up = |candidate: &Candidate| candidate.standing == Standing::Up && !down.contains(&candidate.member);
    let fit = |candidate: &&Candidate| up(candidate) && complaint(candidate, &replica.storage).is_none();
    let others = || candidates.iter().filter(|candidate| candidate.member != member);
    if !receives {
        return match chosen(replica, others().filter(|one| !replica.in_sync.contains(&one.member)), down, seed) {
            _ if replica.joiner.is_some() => Tie::UnderWay,
            Ok(_) => Tie::UnderWay,
            Err(why) => Tie::Stays(format!("no other node can have this copy ({why})")),
        };
    }
    if usage.tested {
        return Tie::Stays("a test failover of it runs: end it first (`landfall failover test VM --stop`)".to_owned());
    }
    if usage.returning {
        return Tie::Stays("the disks that its VM had there are being taken in".to_owned());
    }
    if replica.handover.is_some() {
        return Tie::UnderWay;
    }
    let may_be_filled = replica.seeding == Some(member) || !replica.acknowledged;
    if let Some(heir) = others().find(|one| replica.in_sync.contains(&one.member) && fit(one))
        && replica.acknowledged
    {
        return Tie::Hold(heir.member);
    }
    let free = others().filter(|one| !replica.in_sync.contains(&one.member));
    match chosen(replica, free, down, seed) {
        Ok(to) if may_be_filled => Tie::Fill(to),
        Ok(to) => Tie::Hold(to),
        Err(why) => Tie::Stays(format!("no other node can take it ({why})")),
    }
}

/// One of `free` that can take the replica, or why none can.
fn chosen<'a>(
    replica: &Replica,
    free: impl Iterator<Item = &'a Candidate>,
    down: &BTreeSet<MemberId>,
    seed: [u8; 32],
) -> Result<MemberId, String> {
    let mut free: Vec<Candidate> = free.cloned().collect();
    for candidate in free.iter_mut().filter(|candidate| down.contains(&candidate.member)) {
        candidate.standing = Standing::Down;
    }
    let bytes = replica.vm.disks.iter().fold(0u64, |sum, disk| sum.saturating_add(disk.bytes));
    let wish = Wish { storage: replica.storage.clone(), bytes, except: None, even_quarantined: true };
    let (chosen, passed_over) = placement::choose(&free, &wish, seed);
    chosen.ok_or_else(|| match passed_over.is_empty() {
        true => "there is none".to_owned(),
        false => placement::told(&passed_over),
    })
}

#[cfg(test)]
mod tests {
    use landfall_proto::id::{Position, UnixMillis};
    use landfall_proto::model::{Handover, Joiner};

    use super::*;

    fn id(number: u64) -> MemberId {
        MemberId::from_number(number)
    }

    fn candidate(number: u64) -> Candidate {
        Candidate { drained: number == 1, ..placement::candidate(number) }
    }

    fn replica(holder: u64, in_sync: &[u64]) -> Replica {
        Replica {
            holder: id(holder),
            in_sync: in_sync.iter().map(|number| id(*number)).collect(),
            acknowledged: true,
            storage: "default".parse().unwrap(),
            ..crate::decide::copies::sample()
        }
    }

    fn tied(replica: &Replica, candidates: &[Candidate], usage: Use) -> Tie {
        tie(replica, id(1), candidates, &BTreeSet::new(), usage, [7; 32])
    }

    #[test]
    fn a_member_of_the_set_takes_over_before_anybody_copies() {
        let all = [candidate(1), candidate(2), candidate(3)];
        assert_eq!(tied(&replica(1, &[1, 3]), &all, Use::default()), Tie::Hold(id(3)));
        assert_eq!(tied(&replica(2, &[2, 3]), &all, Use::default()), Tie::None);
        // It cannot: somebody copies.
        let ill = [candidate(1), candidate(2), Candidate { drained: true, ..candidate(3) }];
        assert_eq!(tied(&replica(1, &[1, 3]), &ill, Use::default()), Tie::Hold(id(2)));
        let down = BTreeSet::from([id(3)]);
        assert_eq!(tie(&replica(1, &[1, 3]), id(1), &all, &down, Use::default(), [7; 32]), Tie::Hold(id(2)));
    }

    #[test]
    fn what_has_no_point_yet_is_begun_elsewhere() {
        let all = [candidate(1), candidate(2)];
        let begun = Replica { acknowledged: false, ..replica(1, &[1]) };
        assert_eq!(tied(&begun, &all, Use::default()), Tie::Fill(id(2)));
        let filling = Replica { seeding: Some(id(1)), ..replica(9, &[9]) };
        assert_eq!(tied(&filling, &all, Use::default()), Tie::Fill(id(2)));
    }

    #[test]
    fn what_cannot_go_stays_with_its_reason() {
        let all = [candidate(1), candidate(2)];
        let alone = [candidate(1), Candidate { witness: true, ..candidate(9) }];
        let usages = [
            (Use { promoted: true, ..Use::default() }, "failed over"),
            (Use { tested: true, ..Use::default() }, "test failover"),
            (Use { returning: true, ..Use::default() }, "taken in"),
        ];
        for (usage, word) in usages {
            let Tie::Stays(why) = tied(&replica(1, &[1, 2]), &all, usage) else { panic!("{word}") };
            assert!(why.contains(word), "{why}");
        }
        let Tie::Stays(why) = tied(&replica(1, &[1]), &alone, Use::default()) else { panic!() };
        assert!(why.contains("r9: ") && why.contains("witness"), "{why}");
        let Tie::Stays(why) = tied(&replica(1, &[1]), &all[..1], Use::default()) else { panic!() };
        assert!(why.contains("there is none"), "{why}");
        let Tie::Stays(why) = tied(&replica(2, &[1, 2]), &all, Use::default()) else { panic!() };
        assert!(why.contains("this copy"), "{why}");
    }

    #[test]
    fn what_is_on_its_way_is_waited_for() {
        let all = [candidate(1), candidate(2), candidate(3)];
        let handover = Some(Handover { to: id(3), since: UnixMillis(0), begun: Position::default() });
        assert_eq!(tied(&Replica { handover, ..replica(1, &[1]) }, &all, Use::default()), Tie::UnderWay);
        let joiner = Some(Joiner { member: id(3), begun: Position::default() });
        assert_eq!(tied(&Replica { joiner, ..replica(2, &[1, 2]) }, &all[..2], Use::default()), Tie::UnderWay);
        assert_eq!(tied(&replica(2, &[1, 2]), &all, Use::default()), Tie::UnderWay);
    }
}
