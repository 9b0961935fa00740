//! Who may ask what, written down a second time and compared cell by cell.

use std::collections::BTreeSet;

use landfall_proto::alpn::Alpn;
use landfall_proto::codec;
use landfall_proto::message::broker::BrokerRequest;
use landfall_proto::message::control::ControlRequest;
use landfall_proto::message::data::Hello;
use landfall_proto::verb::{Party, Verb};
use serde::de::DeserializeOwned;

use crate::golden;

/// Member, witness, the VM's primary cluster, its keeper, a paired cluster without part in it, one of another VM's,
/// newcomer, stranger, removed. Whoever changes a right changes it here as well.
const TABLE: &str = "
    Gossip           M W . . . . . . .
    Consensus        M W . . . . N . .
    Join             M W P K A O N S .
    Probe            M W . . . . . . .
    ProbeFor         M W . . . . . . .
    Hears            M W . . . . . . .
    Recall           M W . . . . . . .
    Confirm          M W . . . . . . .
    Propose          M W . . . . . . .
    ForwardPlace     M W . . . . . . .
    HandOver         M W . . . . . . .
    CouldHoldAddress M W . . . . . . .
    AwaitRegistered  M . . . . . . . .
    AwaitSettings    M W . . . . . . .
    Vms              M W . . . . . . .
    Figures          M W . . . . . . .
    ResetStatistics  M W . . . . . . .
    Run              M W . . . . . . .
    Export           M W . . . . . . .
    Seed             M W . . . . . . .
    Prove            M W . . . . . . .
    Difference       M W . . . . . . .
    DropBranch       M W . . . . . . .
    Renew            M W . . . . . . .
    RotateCa         M W . . . . . . .
    KeepCa           M . . . . . . . .
    AskCa            M . . . . . . . .
    Clock            M W P K A O . . .
    ReachBack        M W P K A O . . .
    Members          . . P K A O . . .
    Moved            . . . K A . . . .
    Resumed          . . . K A . . . .
    HandOff          . . P K A . . . .
    Runs             . . P K A . . . .
    Return           . . P K A . . . .
    Branch           . . P K A . . . .
    Branches         . . P K A . . . .
    Abandon          . . P K A . . . .
    GiveUp           . . P K A . . . .
    Rights           . . P K A . . . .
    AskReady         . . P K A O . . .
    Place            . . P K A O . . .
    Locate           . . P K A O . . .
    Remove           . . P K A O . . .
    Respecify        . . P K A O . . .
    Send             . . P K A O . . .
    Copy             M . . . . . . . .
    Pass             M . . . . . . . .
    Leaves           M . . . . . . . .
";

#[test]
fn every_verb_is_for_exactly_those_parties() {
    let rows: Vec<Vec<&str>> =
        TABLE.lines().map(|line| line.split_whitespace().collect()).filter(|row: &Vec<_>| !row.is_empty()).collect();
    let named: Vec<&str> = rows.iter().map(|row| row[0]).collect();
    let verbs: Vec<String> = Verb::ALL.iter().map(|verb| format!("{verb:?}")).collect();
    assert_eq!(named, verbs, "the table has every verb, in order");
    for (row, verb) in rows.iter().zip(Verb::ALL) {
        for (cell, party) in row[1..].iter().zip(Party::ALL) {
            assert_eq!(verb.is_allowed(&[party]), *cell != ".", "{verb:?} by {party:?}");
        }
        assert!(!verb.is_allowed(&[]), "nobody in particular may do nothing");
        assert!(!verb.parties().contains(&Party::Removed));
    }
}

fn verbs<T: DeserializeOwned>(name: &str, of: impl Fn(&T) -> Verb) -> BTreeSet<Verb> {
    let samples = golden::all().into_iter().filter(|(file, _)| file == name);
    samples.map(|(_, bytes)| of(&codec::decode(&bytes).expect("golden bytes"))).collect()
}

/// The golden bytes have every variant of every message.
#[test]
fn every_message_has_a_verb_of_its_own_protocol() {
    let of = |alpn| Verb::ALL.iter().copied().filter(|verb| verb.alpn() == alpn).collect::<BTreeSet<_>>();
    assert_eq!(verbs("control_request", Verb::of_control as fn(&ControlRequest) -> Verb), of(Alpn::Control));
    assert_eq!(verbs("broker_request", Verb::of_broker as fn(&BrokerRequest) -> Verb), of(Alpn::Broker));
    assert_eq!(verbs("data_hello", Verb::of_session as fn(&Hello) -> Verb), of(Alpn::Data));
}
