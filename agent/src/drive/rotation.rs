//! Rotating the cluster's CA: the owner makes the new one and hands its key to the other issuers; once it is committed every
//! node takes a certificate of it ([`renewal`]), peers are told ([`peers`]), and the owner retires the old one.
//!
//! Nothing is half done: a key that was handed out and whose CA was never committed counts for nothing.
//!
//! [`renewal`]: crate::drive::renewal
//! [`peers`]: crate::drive::peers

use std::time::Duration;

use futures_util::future::join_all;
use landfall_proto::alpn::Alpn;
use landfall_proto::authority::{Authority, ca_fingerprint};
use landfall_proto::certificate::NodeKey;
use landfall_proto::id::{Fingerprint, MemberId, NodeName, Position, Term};
use landfall_proto::message::control::{CaKey, ControlAnswer, ControlRequest};
use landfall_proto::model::{Command, Member, Succession};
use landfall_proto::{Class, Refusal, succession};
use landfall_store::State;

use crate::decide::rotation::{self as decided, Step};
use crate::drive::control::check_term;
use crate::drive::enrolment::Papers;
use crate::drive::events::Happening;
use crate::drive::members::{control_target, issuers};
use crate::drive::node::Node;
use crate::drive::propose::no_quorum;

/// How often the owner looks whether a rotation can end.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// How long another node may take to keep a key: a synced write.
const KEEP_DEADLINE: Duration = Duration::from_secs(5);

/// Begins a rotation, at the owner, or says which nodes would not get the new CA's key.
pub async fn begin(node: &Node, papers: &Papers, dry_run: bool) -> Result<(Vec<NodeName>, Position), Refusal> {
    // One at a time: of two keys at once a node would keep the wrong one.
    let _one = papers.rotating().lock().await;
    let term = node.owner.acting().ok_or_else(no_quorum)?;
    let state = node.state();
    if let Some(refusal) = state.rotation_under_way() {
        return Err(refusal);
    }
    let present = papers.authority(state.ca.line.newest())?.ok_or_else(|| {
        Refusal::new(Class::Refused, "no_authority", "the owner does not have the CA's key")
            .field("node")
            .remedy("give the CAP to another data node: `landfall broker move NODE`")
    })?;
    let issuers: Vec<Member> = issuers(&state, node.me).cloned().collect();
    if dry_run {
        let missed = ask_all(node, &state, &issuers, &ControlRequest::Probe).await;
        decided::check_issuers(issuers.len() + 1, &missed)?;
        return Ok((missed, state.applied));
    }
    let (outside, clock) = (&node.outside, node.trust.clock(node.outside.clock.clone()));
    let next = Authority::found(present.cap(), outside.random.as_ref(), &clock)?;
    let step = present.warrant(&next, state.applied, outside.random.as_ref(), &clock)?;
    let key = CaKey(next.pkcs8().to_vec());
    papers.promote_next(state.ca.line.present())?;
    papers.keep_next(&key)?;
    let request = ControlRequest::KeepCa { term, step: Box::new(step.clone()), key };
    let missed = ask_all(node, &state, &issuers, &request).await;
    decided::check_issuers(issuers.len() + 1, &missed)?;
    let (_, position) = node.proposer.commit(Command::RotateCa(Box::new(step))).await?;
    let told = format!("the CA {} begins to take the place of {}", next.fingerprint(), present.fingerprint());
    node.events.record(Happening::info("ca_rotation_begun", told).with("ca", &next.fingerprint()));
    Ok((missed, position))
}

/// That no rotation is under way which could be ended.
pub fn nothing_to_finish() -> Refusal {
    Refusal::new(Class::Refused, "no_rotation", "no rotation of the CA is under way")
        .field("finish")
        .remedy("`landfall cluster rotate-ca` without --finish begins one")
}

/// Asks all of `members` at once; which have not done it.
async fn ask_all(node: &Node, state: &State, members: &[Member], request: &ControlRequest) -> Vec<NodeName> {
    let asked = members.iter().map(|member| async {
        let target = control_target(state, member.id)?;
        match node.calls.call(&target, Alpn::Control, request, KEEP_DEADLINE).await {
            Ok(ControlAnswer::Done | ControlAnswer::Alive { .. }) => None,
            answer => {
                tracing::debug!(node = %member.node, ?answer, "no part in the rotation of the CA");
                Some(member.node.clone())
            }
        }
    });
    join_all(asked).await.into_iter().flatten().collect()
}

/// Keeps the key of the CA that is about to follow, where `from` owns the CAP under a term that is not over.
pub fn keep_key(
    node: &Node,
    papers: &Papers,
    from: MemberId,
    term: Term,
    step: &Succession,
    key: &CaKey,
) -> ControlAnswer {
    let kept = || {
        check_term(node, term)?;
        let state = node.state();
        let owner = state.claim.is_none_or(|claim| claim.term < term || claim.member == from);
        if node.config.witness || !owner || state.ca.rotation.is_some() {
            let message = "this node does not take a CA's key from that one now";
            return Err(Refusal::new(Class::Refused, "not_owner", message).field("term"));
        }
        let cap = state.cap().ok_or_else(no_quorum)?;
        let now = node.trust.time(node.outside.clock.wall());
        succession::verify(state.ca.line.newest(), step, cap, now)
            .map_err(|unfit| Refusal::new(Class::Refused, "ca_not_followed", unfit.to_string()).field("ca"))?;
        Authority::from_parts(&key.0, &step.ca)?;
        papers.promote_next(state.ca.line.present())?;
        papers.keep_next(key)
    };
    kept().map_or_else(ControlAnswer::Refused, |()| ControlAnswer::Done)
}

/// Gives the key of a CA that counts to another node that hosts VMs.
pub fn give_key(node: &Node, papers: &Papers, ca: &Fingerprint) -> ControlAnswer {
    let state = node.state();
    let certificate = state.ca.line.trusted().into_iter().find(|one| ca_fingerprint(one) == *ca);
    let authority = certificate.map(|certificate| papers.authority(&certificate)).transpose().map(Option::flatten);
    match authority {
        Ok(Some(authority)) => ControlAnswer::CaKey(CaKey(authority.pkcs8().to_vec())),
        Ok(None) => {
            let message = "this node does not have the key of that CA";
            ControlAnswer::Refused(Refusal::new(Class::Refused, "no_authority", message).field("ca"))
        }
        Err(refusal) => ControlAnswer::Refused(refusal),
    }
}

/// Gets the key of the newest CA from another issuer, and keeps it; the CA, where one of them has it.
pub async fn fetch(node: &Node, papers: &Papers) -> Result<Option<Authority>, Refusal> {
    let (state, line) = (node.state(), node.cas());
    let request = ControlRequest::AskCa(ca_fingerprint(line.newest()));
    for member in issuers(&state, node.me) {
        let Some(target) = control_target(&state, member.id) else { continue };
        let answer = node.calls.call(&target, Alpn::Control, &request, KEEP_DEADLINE).await;
        if let Ok(ControlAnswer::CaKey(key)) = answer
            && NodeKey::from_pkcs8(&key.0).is_ok()
            && let Ok(authority) = Authority::from_parts(&key.0, line.newest())
        {
            papers.promote_next(line.present())?;
            papers.keep_next(&key)?;
            papers.promote_next(line.present())?;
            return Ok(Some(authority));
        }
    }
    Ok(None)
}

/// Ends a rotation once everybody has followed, or has had the time to. Only the owner does.
pub async fn keep(node: Node) {
    let mut look = node.rhythm(LOOK_INTERVAL);
    loop {
        look.tick().await;
        if node.owner.acting().is_none() {
            node.owning().await;
            continue;
        }
        let state = node.state();
        if decided::step(&state, node.outside.clock.wall()) != Step::Retire {
            continue;
        }
        if let Err(refusal) = retire(&node, &state, false).await {
            tracing::debug!(%refusal, "the old CA is not retired");
        }
    }
}

/// Retires the old CA; `give_up` also where not all have followed.
pub async fn retire(node: &Node, state: &State, give_up: bool) -> Result<Position, Refusal> {
    let (members, _) = state.waits_for().ok_or_else(nothing_to_finish)?;
    decided::check_voters(&node.consensus.status().voters, &members)?;
    let ca = ca_fingerprint(state.ca.line.newest());
    let (_, position) = node.proposer.commit(Command::RetireCa { ca, give_up }).await?;
    let names = state.names_waited_for();
    let happening = match names.is_empty() {
        true => Happening::info("ca_rotated", format!("the CA {ca} alone counts from now on")),
        false => {
            let told = format!("the CA {ca} alone counts from now on; {} have not followed", names.join(", "));
            Happening::warning("ca_rotated", told)
        }
    };
    node.events.record(happening.with("ca", &ca));
    Ok(position)
}
