//! Which test finds which bug.

use landfall_proto::planted::Bug::{self, *};

use super::suites::Suite::{self, *};

/// A bug and the test that finds it.
#[derive(Clone, Copy, Debug)]
pub struct Found {
    pub bug: Bug,
    /// The rule of ARCHITECTURE.md that it breaks.
    pub rule: &'static str,
    pub suite: Suite,
    /// The test's full name.
    pub test: &'static str,
    /// What the test says when it fails.
    pub says: &'static str,
    /// Of a simulation: the seeds that are run.
    pub seeds: Option<&'static str>,
}

impl Found {
    /// Where the test is, for people.
    pub fn shown(&self) -> String {
        format!("{:?}: {}", self.suite, self.test)
    }
}

const fn line(bug: Bug, rule: &'static str, suite: Suite, test: &'static str, says: &'static str) -> Found {
    Found { bug, rule, suite, test, says, seeds: None }
}

const fn seeded(seeds: &'static str, found: Found) -> Found {
    Found { seeds: Some(seeds), ..found }
}

/// All of them, in the order of [`Bug::ALL`].
pub fn table() -> Vec<Found> {
    [of_what_is_kept(), of_who_asks()].concat()
}

#[rustfmt::skip]
fn of_what_is_kept() -> Vec<Found> {
    vec![
        line(NoVoteHold, "R1", Store, "consensus::tests::a_returning_voter_never_wins_within_a_lease", "two lead within a lease"),
        seeded("1", line(LeaseNotChecked, "R1", Simulation, "cuts::an_owner_that_stood_still_acts_only_once_a_majority_has_confirmed_it", "it acts before it has asked anybody")),
        seeded("1", line(LeadNotConfirmed, "R1", Simulation, "cuts::an_owner_that_is_cut_off_stops_before_another_acts", "act at once")),
        line(CommitWithoutQuorum, "R2", Store, "consensus::tests::a_leader_that_is_cut_off_confirms_nothing_and_another_takes_over", "right: Err(NoQuorum)"),
        line(VoteNotStored, "R8", Store, "consensus::parallel_tests::a_voter_that_lost_its_power_does_not_vote_again_in_the_same_term", "two candidates of one term have its vote"),
        line(EntryNotSynced, "R8", Store, "consensus::parallel_tests::an_entry_counts_once_a_majority_has_it_on_disk", "counted while the leader alone has it on disk"),
        line(OwnCopyNotSynced, "R2", Store, "consensus::parallel_tests::an_entry_that_the_leader_has_not_synced_counts_once_it_has", "answered before the leader's own copy is on its disk"),
        line(LeadsOnAfterLoss, "R2", Store, "consensus::parallel_tests::a_leader_that_lost_entries_with_the_power_does_not_go_on_in_its_term", "it would give the lost entry's place to another one"),
        line(StoreSyncSkipped, "R8", Store, "durable_sled::tests::after_one_failed_sync_every_call_fails", "Err(KvError::Poisoned(_))"),
        line(StaleTermAccepted, "R1", Store, "consensus::tests::a_proposal_of_a_deposed_owner_is_refused_though_it_commits", "called `Result::unwrap_err()` on an `Ok` value"),
        line(WitnessClaims, "R1", Store, "state::tests::neither_a_witness_nor_a_stranger_claims_the_cap", "called `Result::unwrap_err()` on an `Ok` value"),
        line(LateYieldTaken, "R1", Store, "consensus::yielding_tests::a_late_word_of_a_lead_that_is_over_releases_nobody", "took a late word"),
        line(EpochNotCompared, "R3", Store, "state::replica_tests::every_decision_names_the_epoch_that_it_was_made_on", "called `Result::unwrap_err()` on an `Ok` value"),
        line(InSyncSetNotConsulted, "R13", Store, "state::replica_tests::a_new_holder_comes_out_of_the_in_sync_set", "called `Result::unwrap_err()` on an `Ok` value"),
        line(GivenUpNodeJoins, "R13", Store, "state::replica_tests::only_a_node_that_was_told_to_copy_joins_the_set_and_only_by_that_entry", "called `Result::unwrap_err()` on an `Ok` value"),
        line(SenderTakenFromLiveNode, "R3", Store, "state::tests::the_sender_changes_by_release_or_when_it_is_down", "running on two nodes"),
        line(TokenTakesSecondKey, "R11", Store, "state::tests::a_ticket_admits_one_key_until_it_expires", "called `Result::unwrap_err()` on an `Ok` value"),
        line(IdReused, "R11", Store, "state::tests::a_removed_node_does_not_come_back_with_its_old_ticket", "ids are never used again"),
        line(RequestRunsTwice, "R6", Store, "state::tests::the_same_request_is_applied_once_and_a_forgotten_one_is_refused", "carried out twice"),
        line(ForgottenRequestRuns, "R6", Store, "state::tests::the_same_request_is_applied_once_and_a_forgotten_one_is_refused", "called `Result::unwrap_err()` on an `Ok` value"),
        line(FeedSkipsChanges, "R5", Store, "feed::tests::a_watcher_begins_where_it_says_and_one_that_is_ahead_waits", "assertion `left == right` failed"),
        line(FeedHidesGap, "R5", Store, "feed::tests::a_slow_watcher_is_told_to_resync_and_goes_on_from_there", "Resync"),
        line(ExpectedRevisionIgnored, "R2", Store, "state::tests::settings_change_together_at_the_revision_that_was_seen", "called `Result::unwrap_err()` on an `Ok` value"),
        line(LaggardIsGivenLead, "R9", Store, "consensus::yielding_tests::a_node_that_lacks_an_entry_or_does_not_vote_is_given_nothing", "Ok(())"),
        line(HeirWaitsForNobody, "R1", Store, "consensus::yielding_tests::whoever_wins_another_term_than_it_was_to_stand_in_waits_for_the_lease_of_the_one_before", "it counts on its lease at once"),
        seeded("1", line(AlwaysVacant, "R1", Simulation, "cuts::an_owner_that_is_cut_off_stops_before_another_acts", "nobody knows what an owner that was lost still has")),
        seeded("1", line(NothingGivenBack, "R1", Simulation, "handovers::the_cap_is_given_at_once", "the old owner keeps what it holds")),
        seeded("1", line(HungDiskOwns, "R9", Simulation, "elections::an_owner_whose_disk_hangs_is_succeeded", "no owner whose disk works within")),
        seeded("1", line(StandsUnasked, "R9", Simulation, "cuts::a_node_that_was_cut_off_and_returns_leaves_the_owner_alone", "assertion `left == right` failed")),
        seeded("1", line(WaitNotDrawn, "R9", Simulation, "elections::two_nodes_that_stand_in_step_are_parted", "no owner of two that stand in step within")),
        seeded("1", line(LoneNodeActsAtOnce, "R1", Simulation, "rollback::a_node_whose_disk_is_of_the_time_before_the_others_acts_beside_nobody", "it acts after")),
        seeded("1", line(FlapperTrusted, "R9", Simulation, "flapping::a_node_that_comes_and_goes_is_left_alone_until_it_is_steady", "no quarantine within")),
        seeded("0..2", line(RollbackIgnored, "R2", Simulation, "rollback::a_node_whose_disk_was_put_back_takes_no_part_any_more", "no word of the loss within")),
        seeded("1", line(GateOpenUnasked, "R2", Simulation, "rollback::a_node_takes_no_part_before_the_others_have_answered", "it takes part before anybody has answered")),
        line(AddressTakenAtOnce, "R1", Agent, "decide::cap_address::tests::a_new_owner_adds_the_address_only_after_the_old_one_has_lost_it", "held until"),
        line(LateAddressKept, "R1", Agent, "drive::cap_address::keeper::tests::a_renewal_that_is_late_is_not_sent_and_one_that_became_late_is_taken_back", "assertion `left == right` failed"),
        line(CertificateRenewedLate, "R9", Agent, "decide::renewal::tests::a_certificate_is_renewed_at_half_of_its_life_and_one_from_the_future_at_once", "assertion failed: is_due(now, made(4))"),
        line(SuccessorUnsigned, "R12", Store, "state::ca_tests::a_successor_that_the_present_ca_has_not_signed_is_refused", "called `Result::unwrap_err()` on an `Ok` value"),
        line(RetiredCaCounts, "R11", Store, "state::ca_tests::a_rotation_ends_once_every_member_and_every_peer_has_followed", "assertion `left == right` failed"),
        line(WildClockBelieved, "R9", Agent, "decide::renewal::tests::a_board_that_begins_in_1970_knows_better_and_one_wild_clock_ends_nobodys_certificate", "assertion failed: !is_over(wild, made(1))"),
        line(CopyIsLeftOver, "R13", Agent, "decide::leftover::tests::only_what_another_holder_has_superseded_is_not_kept", "right: Some(InSync)"),
        line(PlacedOnDeadNode, "R9", Agent, "decide::placement::tests::each_reason_keeps_a_node_out_and_is_told", "would do, not drawn"),
        line(SuccessorBehind, "R9", Agent, "decide::succession::tests::whoever_cannot_own_it_is_told_why", "called `Result::unwrap_err()` on an `Ok` value"),
        line(RehomedToAnyNode, "R13", Agent, "decide::node_loss::tests::only_a_live_member_of_the_set_is_ever_assigned", "replica.in_sync.contains(&to)"),
        line(RehomedWithoutPatience, "R13", Agent, "decide::node_loss::tests::a_copy_takes_over_at_once_and_without_one_the_primary_is_not_asked_early", "right: None"),
        line(SilenceConvicts, "R7", Agent, "decide::node_loss::tests::a_node_that_was_never_asked_is_not_down_however_long_it_is_silent", "gossip alone convicts"),
        line(StandstillAccuses, "R7", Agent, "decide::node_loss::tests::an_owner_that_stood_still_accuses_no_one", "right: None"),
        line(PinIgnored, "R4", Agent, "drive::replica::chain_test::a_pinned_point_stays_and_what_is_newer_waits_with_it", "assertion"),
        line(WantedPointGoes, "R4", Agent, "drive::replica::head_test::a_point_that_somebody_will_read_stays_also_over_a_restart_and_goes_when_nobody_will", "right: [2, 4]"),
        line(RootNotVerified, "R4", Agent, "drive::replica::session_test::a_set_that_does_not_fit_is_refused_and_changes_nothing", "called `Result::unwrap_err()` on an `Ok` value"),
        line(BaseNotCompared, "R4", Agent, "drive::replica::session_test::a_set_that_does_not_fit_is_refused_and_changes_nothing", "called `Result::unwrap_err()` on an `Ok` value"),
        line(StagedNotSynced, "R13", Agent, "drive::replica::session_test::what_is_staged_whole_is_synced_with_its_name_before_that_is_answered", "answered before it is on disk"),
        line(AgreedSetDropped, "R13", Agent, "drive::replica::agreed_test::what_only_one_copy_has_staged_is_dropped_there_and_what_only_the_holder_has_is_passed_on_from_its_log", "assertion `left == right` failed"),
        line(JoinerNotWaitedFor, "R13", Agent, "drive::copies::tests::a_joiner_is_waited_for_from_before_it_is_proposed_until_its_own_answer", "whatever is in flight waits for it"),
        line(OldAssignmentTaken, "R3", Agent, "drive::replica::session_test::lower_epochs_are_refused_even_after_a_restart_and_a_newer_session_ends_an_older_one", "right: \"stale_epoch\""),
        line(OldSenderTaken, "R3", Agent, "drive::replica::session_test::lower_epochs_are_refused_even_after_a_restart_and_a_newer_session_ends_an_older_one", "called `Result::unwrap_err()` on an `Ok` value"),
        line(DeclinedIsTaken, "R3", Store, "state::promotion_tests::a_cancel_that_races_the_hand_over_leaves_the_vm_on_one_side", "Declined"),
        line(NoticeDropped, "R9", Agent, "drive::notices::tests::whoever_gives_a_notice_out_waits_for_no_peer_and_no_more_than_the_bound_are_under_way", "assertion failed: !notices.send"),
        line(RemovedStaysConnected, "R11", Wire, "network::a_removed_member_loses_its_open_connections_and_cannot_return", "it takes too long"),
        line(RemovedComesBack, "R11", Wire, "trust::name_key_and_id_must_all_agree_with_the_list", "Ok(Unlisted"),
        line(PeerListGoesBack, "R11", Store, "state::tests::a_member_list_never_goes_back", "called `Result::unwrap_err()` on an `Ok` value"),
        line(TableUnbounded, "R10", Store, "state::tests::every_table_has_a_bound", "called `Result::unwrap_err()` on an `Ok` value"),
        line(FrameLengthBelieved, "R10", Proto, "frame::tests::a_frame_that_claims_too_much_is_refused_before_its_content", "the stream ended within a frame"),
        line(LeftOverBytesTaken, "R12", Proto, "codec::tests::another_format_and_left_over_bytes_are_named", "left: Ok(7)"),
        seeded("1", line(AtLeastIgnored, "R2", Simulation, "histories::settings_places_and_locates_are_linearizable_whatever_fails", "not linearizable")),
    ]
}

#[rustfmt::skip]
fn of_who_asks() -> Vec<Found> {
    vec![
        line(VerbsForEverybody, "R12", Wire, "authority::every_verb_is_for_exactly_those_parties", "Gossip by Primary"),
        line(ProposalsTakenFromAnybody, "R12", Agent, "decide::proposing::tests::every_command_is_taken_from_exactly_those_whose_it_is", "Found by "),
        line(OldTermCarriedOut, "R1", Agent, "decide::proposing::tests::what_was_ordered_under_a_term_that_is_over_is_not_carried_out", "carried out under an older term"),
        line(TwinsUnheard, "R11", Agent, "decide::twins::tests::a_node_that_moves_or_comes_back_is_one_and_a_key_in_two_hands_is_two", "both go on"),
        line(OldFarewellKept, "R6", Store, "state::farewell::tests::the_other_cluster_is_to_be_told_until_it_was_or_the_vm_is_enabled_there_again", "an old wish would end what has begun anew"),
    ]
}
