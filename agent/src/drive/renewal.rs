//! Renewing this node's certificate, in time and without a dropped session.
//!
//! A node that has the CA's key issues its own; a witness asks one that has. The certificate counts for new connections,
//! open ones stay. While the CA is rotated each node takes a certificate of the new one at once, and says so by a commit. One
//! that ended while the node slept is replaced by its own key as well, where it has the CA's; a witness has to be told to
//! join again, which an operator allows with a token.

use std::sync::Arc;
use std::time::Duration;

use landfall_proto::alpn::Alpn;
use landfall_proto::authority::{Authority, ca_fingerprint};
use landfall_proto::certificate;
use landfall_proto::id::{Fqdn, MemberId, Position, UnixMillis};
use landfall_proto::message::control::{ControlAnswer, ControlRequest};
use landfall_proto::message::join::Welcome;
use landfall_proto::model::{CaLine, Command, Member};
use landfall_proto::tls::Identity;
use landfall_proto::{Class, Refusal, trust};
use landfall_store::State;
use tokio::sync::watch;
use tokio::time::sleep;

use crate::decide::renewal;
use crate::drive::enrolment::{Enrolment, Papers};
use crate::drive::events::Happening;
use crate::drive::members::{control_target, issuers};
use crate::drive::node::Node;
use crate::drive::rotation;

/// How often a node looks at its certificate, and tries again.
const LOOK_INTERVAL: Duration = Duration::from_secs(60);

/// How soon a node tries again what a rotation of the CA waits for.
const ROTATION_RETRY: Duration = Duration::from_secs(1);

/// Within how long nodes begin to take a certificate of a new CA, each at a moment of its own.
const ROTATION_SPREAD_MS: u128 = 500;

/// How long one agent may take to issue a certificate.
const ISSUE_DEADLINE: Duration = Duration::from_secs(5);

/// Renews the certificate of this node whenever that is due, until the task is dropped.
pub async fn run(node: Node, papers: Papers) {
    let mut look = node.rhythm(LOOK_INTERVAL);
    let mut states = node.consensus.watch_state();
    let (mut failing, mut settled) = (false, true);
    loop {
        let seen = node.known.load().changed;
        tokio::select! {
            _ = look.tick() => {}
            // A consensus that has ended says nothing more.
            () = another_line(&mut states, seen) => sleep(spread(&node)).await,
            () = sleep(ROTATION_RETRY), if !settled => {}
        }
        let line = node.state().ca.line.clone();
        if let Err(refusal) = follow(&node, &papers, &line) {
            tracing::warn!(%refusal, "the CAs are not remembered");
        }
        if is_due(&node) {
            match renew(&node, &papers).await {
                Ok(until) => {
                    failing = false;
                    let told = "this node's certificate is renewed; open connections go on".to_owned();
                    let happening = Happening::info("certificate_renewed", told).with("good_until_ms", &until.0);
                    node.events.record(happening.node(&node.name));
                }
                Err(refusal) if failing => tracing::debug!(%refusal, "the certificate is still not renewed"),
                Err(refusal) => {
                    failing = true;
                    let told = format!("this node's certificate is not renewed: {refusal}");
                    node.events.record(Happening::warning("certificate_not_renewed", told).node(&node.name));
                }
            }
        }
        settled = say_so(&node, &papers).await;
    }
}

/// Done once the committed CAs are others than those of `seen`.
async fn another_line(states: &mut watch::Receiver<Arc<State>>, seen: Position) {
    if states.wait_for(|state| state.ca.line.changed > seen).await.is_err() {
        std::future::pending::<()>().await;
    }
}

fn spread(node: &Node) -> Duration {
    let pause = node.outside.random.u128().checked_rem(ROTATION_SPREAD_MS).unwrap_or_default();
    Duration::from_millis(u64::try_from(pause).unwrap_or_default())
}

/// Whether a new certificate is due: by the half of its life, or since another CA issues now.
fn is_due(node: &Node) -> bool {
    let now = node.trust.time(node.outside.clock.wall());
    let end = own(node).and_then(|certificate| trust::expires_at(&certificate, node.cas().newest()));
    end.is_none_or(|end| renewal::is_due(now, end))
}

/// The certificate that this node shows.
fn own(node: &Node) -> Option<Vec<u8>> {
    node.calls.endpoint(Alpn::Control).identity().certificate().map(<[u8]>::to_vec)
}

/// Keeps how the cluster's CAs follow each other: in the papers, for the next start, and in what this node shows. A key that
/// was kept for the next CA becomes the CA's key once that alone counts.
fn follow(node: &Node, papers: &Papers, line: &CaLine) -> Result<(), Refusal> {
    let Some(enrolment) = papers.enrolment(&node.name)? else { return Ok(()) };
    if line.changed <= enrolment.line.changed {
        return Ok(());
    }
    papers.promote_next(line.present())?;
    papers.enrol(&Enrolment { line: line.clone(), ..enrolment.clone() }, &[])?;
    node.know(line.clone());
    let identity = node.calls.endpoint(Alpn::Control).identity();
    show(node, &identity.as_ref().clone().following(line))
}

fn show(node: &Node, identity: &Identity) -> Result<(), Refusal> {
    [Alpn::Control, Alpn::Data]
        .into_iter()
        .try_for_each(|alpn| node.calls.endpoint(alpn).set_identity(identity.clone()))
}

/// Has it committed that this node has a certificate of the new CA, and its key where it may issue. Whether there is nothing
/// left to do for a rotation.
async fn say_so(node: &Node, papers: &Papers) -> bool {
    let state = node.state();
    // One that has just joined has not applied what it was told of yet.
    let Some(rotation) = &state.ca.rotation else { return !node.cas().rotating };
    if rotation.renewed.contains(&node.me) {
        return true;
    }
    let newest = state.ca.line.newest();
    let issued = own(node).is_some_and(|certificate| trust::expires_at(&certificate, newest).is_some());
    let has_key = node.config.witness || papers.authority(newest).is_ok_and(|authority| authority.is_some());
    if !issued || !has_key {
        return false;
    }
    let command = Command::Renewed { member: node.me, ca: ca_fingerprint(newest) };
    match node.proposer.commit(command).await {
        Ok(_) => true,
        Err(refusal) => {
            tracing::debug!(%refusal, "the new certificate is not noted");
            false
        }
    }
}

/// Until when the certificate that this node shows is good.
pub fn ends_at(node: &Node) -> Option<UnixMillis> {
    own(node).and_then(|certificate| node.cas().trusted().iter().find_map(|ca| trust::expires_at(&certificate, ca)))
}

/// Whether the certificate that this node shows has ended, or is of a CA that counts no longer.
pub fn has_lapsed(node: &Node) -> bool {
    let now = node.trust.time(node.outside.clock.wall());
    ends_at(node).is_none_or(|end| renewal::is_over(now, end))
}

/// Tells this node, which begins, what time it cannot be before.
pub fn know_the_time(node: &Node) {
    if let Some(end) = ends_at(node) {
        node.trust.not_before(renewal::floor(node.consensus.last_time(), end));
    }
}

async fn renew(node: &Node, papers: &Papers) -> Result<UnixMillis, Refusal> {
    let identity = node.calls.endpoint(Alpn::Control).identity();
    let public_key = identity.key().public_key().to_vec();
    let line = node.cas();
    let mut authority = papers.authority(line.newest())?;
    if authority.is_none() && !node.config.witness {
        authority = rotation::fetch(node, papers).await?;
    }
    let certificate = match (authority, identity.leaf()) {
        (Some(authority), Some(leaf)) => issue(node, &authority, &leaf.fqdn, node.me, &public_key)?,
        _ => ask(node, &public_key).await?,
    };
    adopt(node, papers, &line, certificate)
}

/// Keeps `certificate` and shows it from now on; returns until when it is good. Refused where it is not for this member, or
/// not of the newest CA of `line`.
fn adopt(node: &Node, papers: &Papers, line: &CaLine, certificate: Vec<u8>) -> Result<UnixMillis, Refusal> {
    let wrong = |why: &str| Refusal::new(Class::Failed, "bad_certificate", format!("the new certificate {why}"));
    let before = node.calls.endpoint(Alpn::Control).identity();
    let identity = Identity::member(Arc::clone(before.key()), &certificate, &line.first)?.following(line);
    if identity.leaf() != before.leaf() {
        return Err(wrong("names another node than the one before"));
    }
    let until = trust::expires_at(&certificate, line.newest());
    let until = until.ok_or_else(|| wrong("is not signed by this cluster's newest CA"))?;
    let enrolment = papers.enrolment(&node.name)?.ok_or_else(|| wrong("is for a node that has left"))?;
    papers.enrol(&Enrolment { certificate, line: line.clone(), ..enrolment }, &[])?;
    show(node, &identity)?;
    Ok(until)
}

/// Goes on with what `welcome` brings to a member whose own certificate counts no longer.
pub fn come_back(node: &Node, papers: &Papers, welcome: Welcome) -> Result<(), Refusal> {
    let Welcome { certificate, line, ca_keys, .. } = welcome;
    papers.take_keys(&ca_keys)?;
    adopt(node, papers, &line, certificate)?;
    node.know(line);
    Ok(())
}

/// Issues a certificate, DER, by the time that certificates are judged by here.
pub fn issue(
    node: &Node,
    authority: &Authority,
    fqdn: &Fqdn,
    member: MemberId,
    public_key: &[u8],
) -> Result<Vec<u8>, Refusal> {
    let clock = node.trust.clock(Arc::clone(&node.outside.clock));
    authority.issue(fqdn, member, public_key, node.outside.random.as_ref(), &clock)
}

/// Asks the members that may have the CA's key, one after the other.
async fn ask(node: &Node, public_key: &[u8]) -> Result<Vec<u8>, Refusal> {
    let state = node.state();
    let mut last = Refusal::new(Class::Unreachable, "nobody_issues", "no member with the CA's key answers")
        .remedy("see `landfall node list`; the certificate is asked for again by itself");
    for member in issuers(&state, node.me) {
        let Some(target) = control_target(&state, member.id) else { continue };
        let request = ControlRequest::Renew { public_key: public_key.to_vec() };
        match node.calls.call(&target, Alpn::Control, &request, ISSUE_DEADLINE).await {
            // One that has not heard of the new CA yet issues by the old one.
            Ok(ControlAnswer::Renewed(certificate))
                if trust::expires_at(&certificate, node.cas().newest()).is_some() =>
            {
                return Ok(certificate);
            }
            Ok(ControlAnswer::Renewed(_)) => {
                last.message = format!("{} has not heard of the newest CA yet", member.node);
            }
            Ok(ControlAnswer::Refused(refusal)) => last = refusal,
            Ok(_) => last = Refusal::new(Class::Failed, "protocol", "the issuer gave an answer of another kind"),
            Err(error) => last.message = format!("{}: {error}", member.node),
        }
    }
    Err(last)
}

/// Issues a certificate for `member`, which asks over a connection that its old one has proven.
pub fn answer(node: &Node, papers: &Papers, member: &Member, public_key: &[u8]) -> ControlAnswer {
    let issued = || {
        if certificate::fingerprint(public_key) != member.key {
            return Err(Refusal::new(Class::Refused, "other_key", "this is not the key that the member joined with")
                .field("public_key"));
        }
        let authority = papers.authority(node.state().ca.line.newest())?;
        let authority = authority
            .ok_or_else(|| Refusal::new(Class::Refused, "no_authority", "this node does not have the CA's key"))?;
        issue(node, &authority, &member.fqdn, member.id, public_key)
    };
    issued().map_or_else(ControlAnswer::Refused, ControlAnswer::Renewed)
}
