//! Hostile bytes: whatever arrives is a value or an error, in bounded memory.

use std::fmt::Debug;
use std::process::Command;

use landfall_proto::codec::{self, CodecError, FORMAT};
use landfall_proto::frame;
use landfall_proto::id::{Fqdn, NodeName, PrimaryPattern, StorageName, VmName};
use landfall_proto::limits::{CONTROL_FRAME_MAX, MEMBERS_MAX};
use landfall_proto::message::broker::{BrokerAnswer, BrokerRequest};
use landfall_proto::message::control::{ControlAnswer, ControlRequest, News};
use landfall_proto::message::data::{CopyAnswer, CopyRequest, DataAnswer, DataRequest, Hello, Welcome};
use landfall_proto::message::join::{Invitation, JoinAnswer, JoinRequest};
use landfall_proto::model::{Answer, CaLine, Member, MemberList, Proposal, Succession};
use landfall_proto::succession::{CHAIN_MAX, SUCCESSION_CERTIFICATE};
use proptest::prelude::*;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Decodes `bytes` as `T`. What it takes, it must encode to the same again: there is one encoding of each value.
fn try_as<T: Serialize + DeserializeOwned + PartialEq + Debug>(bytes: &[u8]) {
    if let Ok(value) = codec::decode::<T>(bytes) {
        let again = codec::encode(&value).unwrap();
        assert_eq!(codec::decode::<T>(&again).unwrap(), value);
    }
}

fn try_all(bytes: &[u8]) {
    try_as::<BrokerRequest>(bytes);
    try_as::<BrokerAnswer>(bytes);
    try_as::<ControlRequest>(bytes);
    try_as::<ControlAnswer>(bytes);
    try_as::<Hello>(bytes);
    try_as::<Welcome>(bytes);
    try_as::<DataRequest>(bytes);
    try_as::<DataAnswer>(bytes);
    try_as::<CopyRequest>(bytes);
    try_as::<CopyAnswer>(bytes);
    try_as::<JoinRequest>(bytes);
    try_as::<JoinAnswer>(bytes);
    try_as::<Invitation>(bytes);
    try_as::<Proposal>(bytes);
    try_as::<Answer>(bytes);
    try_as::<MemberList>(bytes);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_bytes_are_a_value_or_an_error(mut bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        try_all(&bytes);
        if let Some(first) = bytes.first_mut() {
            *first = FORMAT;
        }
        try_all(&bytes);
    }

    #[test]
    fn left_over_and_missing_bytes_are_refused(extra in proptest::collection::vec(any::<u8>(), 1..20), text in ".{0,60}") {
        let whole = codec::encode(&text).unwrap();
        let longer = [whole.clone(), extra.clone()].concat();
        prop_assert_eq!(codec::decode::<String>(&longer), Err(CodecError::LeftOver(extra.len())));
        for cut in 0..whole.len() {
            prop_assert!(codec::decode::<String>(&whole[..cut]).is_err());
        }
    }

    #[test]
    fn names_from_the_wire_are_checked_like_names_from_a_person(text in "\\PC{0,80}") {
        let bytes = codec::encode(&text).unwrap();
        prop_assert_eq!(codec::decode::<Fqdn>(&bytes).ok(), text.parse::<Fqdn>().ok());
        prop_assert_eq!(codec::decode::<NodeName>(&bytes).ok(), text.parse::<NodeName>().ok());
        prop_assert_eq!(codec::decode::<VmName>(&bytes).ok(), text.parse::<VmName>().ok());
        prop_assert_eq!(codec::decode::<StorageName>(&bytes).ok(), text.parse::<StorageName>().ok());
        prop_assert_eq!(codec::decode::<PrimaryPattern>(&bytes).ok(), text.parse::<PrimaryPattern>().ok());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn one_changed_byte_of_a_real_message_is_a_value_or_an_error(at in 0_usize..10_000, to in any::<u8>()) {
        for (_, bytes) in crate::golden::all() {
            let mut bytes = bytes;
            let at = at % bytes.len();
            bytes[at] = to;
            try_all(&bytes);
        }
    }
}

#[test]
fn a_name_that_could_leave_its_folder_does_not_come_in_by_the_wire() {
    for bad in ["../x", "a/b", "a\0b", "", "..", ".hidden"] {
        let bytes = codec::encode(bad).unwrap();
        assert!(codec::decode::<StorageName>(&bytes).is_err(), "{bad:?}");
        assert!(codec::decode::<NodeName>(&bytes).is_err(), "{bad:?}");
    }
}

#[test]
fn the_largest_member_list_fits_a_control_frame() {
    let member = |at: usize| Member {
        id: landfall_proto::id::MemberId::from_number(u64::MAX - at as u64),
        node: format!("{at:0>63}").parse().unwrap(),
        fqdn: format!("{at:0>63}.{}.{}.{}", "b".repeat(63), "c".repeat(63), "d".repeat(61)).parse().unwrap(),
        key: landfall_proto::id::Fingerprint([0xff; 32]),
        control: "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535".parse().unwrap(),
        data: "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535".parse().unwrap(),
        witness: true,
    };
    let members: Vec<Member> = (0..MEMBERS_MAX).map(member).collect();
    let cap = members[0].fqdn.clone();
    let position = landfall_proto::id::Position::from_number(u64::MAX);
    let step = || Succession { ca: vec![0xff; SUCCESSION_CERTIFICATE], warrant: vec![0xff; SUCCESSION_CERTIFICATE] };
    let line = CaLine {
        first: vec![0xff; SUCCESSION_CERTIFICATE],
        after: (0..CHAIN_MAX).map(|_| step()).collect(),
        rotating: true,
        changed: position,
    };
    let list = MemberList { cap, position, members, cap_addresses: Vec::new() };
    let follows = landfall_proto::id::Fingerprint([0xff; 32]);
    let request = ControlRequest::Members(Box::new(News { list, line, follows }));
    let bytes = frame::encode(&request, CONTROL_FRAME_MAX).unwrap();
    assert!(bytes.len() > CONTROL_FRAME_MAX / 2, "{} bytes: the bound can be higher", bytes.len());
}

/// Runs in a child whose memory is limited, see below.
#[test]
#[ignore = "run by `hostile_lengths_allocate_next_to_nothing` in a process of its own"]
fn hostile_lengths() {
    for claim in [1_u64 << 16, 1 << 20, 1 << 26, 1 << 31, 1 << 40, u64::MAX] {
        for prefix in 0..40_usize {
            // Every offset of a length within the first forty bytes, behind every leading variant.
            for variant in 0..16_u8 {
                let mut bytes = vec![FORMAT, variant];
                bytes.resize(2 + prefix, 1);
                bytes.push(253);
                bytes.extend_from_slice(&claim.to_le_bytes());
                bytes.resize(100, 1);
                try_all(&bytes);
            }
        }
    }
    // Many containers that each claim what one may.
    let nested = [&[FORMAT][..], &[252, 0, 0, 1, 0].repeat(13_000)].concat();
    try_all(&nested);
    assert!(codec::decode::<Vec<Vec<String>>>(&nested).is_err());
}

#[test]
fn hostile_lengths_allocate_next_to_nothing() {
    let child = Command::new("sh")
        .args(["-c", "ulimit -v 262144 && exec \"$0\" --exact codec::hostile_lengths --ignored --test-threads 1"])
        .arg(std::env::current_exe().unwrap())
        .output()
        .unwrap();
    assert!(child.status.success(), "{}", String::from_utf8_lossy(&child.stdout));
    assert!(String::from_utf8_lossy(&child.stdout).contains("1 passed"));
}
