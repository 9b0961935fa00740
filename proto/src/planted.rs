//! Known mistakes that can be planted, so that a test shows that the tests would notice them.
//!
//! Each [`Bug`] stands at one place of the product, as `planted::is(Bug::...)` beside what it spoils; what each breaks and
//! which test finds it is the table of `tests/planted`. A process has the one that the environment variable
//! `LANDFALL_PLANTED` names, all its life.
//!
//! The feature `planted` turns the switch on, and only the workspace's tests ask for it (a development dependency of the
//! root package): in every other build [`is`] is the constant `false`, which leaves nothing of a bug in the binary.
//! `tests/planted` looks at cargo's graph of features to see that it stays so.

macro_rules! bugs {
    ($($(#[$doc:meta])* $bug:ident,)*) => {
        /// A mistake. Its name is the value of `LANDFALL_PLANTED`.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Bug {
            $($(#[$doc])* $bug,)*
        }

        impl Bug {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$bug),*];

            /// Its name.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$bug => stringify!($bug),)*
                }
            }
        }
    };
}

bugs! {
    /// An owner does not refuse its vote while it counts on its lease.
    NoVoteHold,
    /// What acts for the owner does not look at the clock.
    LeaseNotChecked,
    /// A leader confirms that it leads without asking anybody.
    LeadNotConfirmed,
    /// A follower that cannot be reached counts as one that has taken the entries.
    CommitWithoutQuorum,
    /// A vote is given that is not on disk.
    VoteNotStored,
    /// A follower answers before the entries are on its disk.
    EntryNotSynced,
    /// A leader's own copy counts before it is on its disk.
    OwnCopyNotSynced,
    /// A leader that may have lost entries goes on in its term.
    LeadsOnAfterLoss,
    /// The store's log is flushed, but not synced.
    StoreSyncSkipped,
    /// What a deposed owner proposed is carried out.
    StaleTermAccepted,
    /// A witness may own the CAP.
    WitnessClaims,
    /// A lead that is over still releases the voters.
    LateYieldTaken,
    /// The epoch that a decision was made on is not compared with the present one.
    EpochNotCompared,
    /// Any node can become the holder of a replica.
    InSyncSetNotConsulted,
    /// A node that was given up joins the in-sync set all the same.
    GivenUpNodeJoins,
    /// A node that is alive loses the role of the sender.
    SenderTakenFromLiveNode,
    /// A join token admits a second key.
    TokenTakesSecondKey,
    /// A node that joins gets the lowest id that is free.
    IdReused,
    /// A request that comes again is carried out again.
    RequestRunsTwice,
    /// A request whose answer is forgotten is carried out again.
    ForgottenRequestRuns,
    /// A watcher of settings is told of the newest change only.
    FeedSkipsChanges,
    /// A watcher that is too slow is not told what it has missed.
    FeedHidesGap,
    /// Settings are changed though they are not as they were seen.
    ExpectedRevisionIgnored,
    /// A node that lacks entries is given the lead.
    LaggardIsGivenLead,
    /// A leader that won another term than the one it was asked to stand in does not wait for the lease of the one before.
    HeirWaitsForNobody,
    /// An owner that dies is said to have given everything back.
    AlwaysVacant,
    /// An owner that stops acting keeps what it holds.
    NothingGivenBack,
    /// An owner whose disk hangs goes on.
    HungDiskOwns,
    /// A node stands for election without asking whether others hear a leader.
    StandsUnasked,
    /// Every candidate waits equally long, each time.
    WaitNotDrawn,
    /// A node that knows of no other member acts as soon as it is started.
    LoneNodeActsAtOnce,
    /// A node that comes and goes is given new replicas as any other.
    FlapperTrusted,
    /// A node that others remember more of goes on voting.
    RollbackIgnored,
    /// A node takes part before the others have said what they remember of it.
    GateOpenUnasked,
    /// A new owner takes the CAP's address at once.
    AddressTakenAtOnce,
    /// An address that was sent too late is not taken back.
    LateAddressKept,
    /// A certificate is renewed only once it has ended.
    CertificateRenewedLate,
    /// Whether the CA before has signed that another one follows it is not looked at.
    SuccessorUnsigned,
    /// A CA that was retired still counts.
    RetiredCaCounts,
    /// One clock that is years ahead ends everybody's certificates.
    WildClockBelieved,
    /// The files of a member of the in-sync set count as left over.
    CopyIsLeftOver,
    /// A replica is placed on a node that is down.
    PlacedOnDeadNode,
    /// A node that has not heard the newest entries may be the next owner.
    SuccessorBehind,
    /// A replica goes to any node that is up.
    RehomedToAnyNode,
    /// Where there is no other copy, a new one is begun at once.
    RehomedWithoutPatience,
    /// A node that gossip is silent of is down, whether it was asked or not.
    SilenceConvicts,
    /// An owner that stood still goes by what it saw before.
    StandstillAccuses,
    /// A point that is read is removed.
    PinIgnored,
    /// A point that somebody has announced to read is removed.
    WantedPointGoes,
    /// Whether a change set gives the root that it names is not looked at.
    RootNotVerified,
    /// A change set is applied whatever it is based on.
    BaseNotCompared,
    /// A change set is acknowledged before its log is synced.
    StagedNotSynced,
    /// A copy drops what it has staged although its holder has it, too.
    AgreedSetDropped,
    /// The holder does not wait for a node that is about to join the set.
    JoinerNotWaitedFor,
    /// A holder takes data of an assignment that is over.
    OldAssignmentTaken,
    /// A holder takes data of a sender that is none any more.
    OldSenderTaken,
    /// A hand-over that was declined can still be taken.
    DeclinedIsTaken,
    /// The notice that a replica has moved is not sent.
    NoticeDropped,
    /// Open connections are not looked at when a member list changes.
    RemovedStaysConnected,
    /// A member that was removed counts as one that the list does not have yet.
    RemovedComesBack,
    /// A peer's member list goes back to an older one.
    PeerListGoesBack,
    /// A table of the committed state has no bound.
    TableUnbounded,
    /// A frame is as long as it says.
    FrameLengthBelieved,
    /// Bytes that follow a message are passed over.
    LeftOverBytesTaken,
    /// A question is answered by what is applied here, however far the asker has seen.
    AtLeastIgnored,
    /// Who asks is not looked up in the table of verbs.
    VerbsForEverybody,
    /// The owner has a command committed whoever's it is.
    ProposalsTakenFromAnybody,
    /// The node that carries something out does not look whether the owner that asks for it is one still.
    OldTermCarriedOut,
    /// A key that is heard at two addresses is taken for one node.
    TwinsUnheard,
    /// The wish to end a replica outlives that its VM is enabled again.
    OldFarewellKept,
}

/// Whether this process has `bug`.
#[cfg(not(feature = "planted"))]
#[inline(always)]
pub const fn is(_bug: Bug) -> bool {
    false
}

/// Whether this process has `bug`. A name that no bug has ends the process: a test that plants nothing proves nothing.
#[cfg(feature = "planted")]
pub fn is(bug: Bug) -> bool {
    static PLANTED: std::sync::OnceLock<Option<Bug>> = std::sync::OnceLock::new();
    *PLANTED.get_or_init(chosen) == Some(bug)
}

#[cfg(feature = "planted")]
fn chosen() -> Option<Bug> {
    let name = std::env::var(VARIABLE).ok()?;
    let Some(bug) = Bug::ALL.iter().copied().find(|bug| bug.name() == name) else {
        eprintln!("{VARIABLE}={name}: there is no such bug");
        std::process::abort();
    };
    eprintln!("{VARIABLE}={name}: this process does wrong on purpose");
    Some(bug)
}

/// The variable that names the bug.
pub const VARIABLE: &str = "LANDFALL_PLANTED";
