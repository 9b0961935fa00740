//! Renewing this node's certificate, in time and without a dropped session.
//!
//! A node that has the CA's key issues its own; a witness asks one that has. The certificate counts for new connections,
//! open ones stay. One that ended while the node slept is replaced by its own key as well, where it has the CA's; a witness
//! has to be told to join again, which an operator allows with a token.

use std::sync::Arc;
use std::time::Duration;

use landfall_proto::alpn::Alpn;
use landfall_proto::authority::Authority;
use landfall_proto::certificate;
use landfall_proto::id::{Fqdn, MemberId, UnixMillis};
use landfall_proto::message::control::{ControlAnswer, ControlRequest};
use landfall_proto::model::Member;
use landfall_proto::tls::Identity;
use landfall_proto::{Class, Refusal, trust};

use crate::decide::renewal;
use crate::drive::enrolment::{Enrolment, Papers};
use crate::drive::events::Happening;
use crate::drive::members::control_target;
use crate::drive::node::Node;

/// How often a node looks at its certificate, and tries again.
const LOOK_INTERVAL: Duration = Duration::from_secs(60);

/// How long one agent may take to issue a certificate.
const ISSUE_DEADLINE: Duration = Duration::from_secs(5);

/// Renews the certificate of this node whenever that is due, until the task is dropped.
pub async fn run(node: Node, papers: Papers, enrolment: Enrolment) {
    let mut look = node.rhythm(LOOK_INTERVAL);
    let mut failing = false;
    loop {
        look.tick().await;
        let now = node.trust.time(node.outside.clock.wall());
        if !ends_at(&node, &enrolment).is_some_and(|end| renewal::is_due(now, end)) {
            continue;
        }
        match renew(&node, &papers, &enrolment).await {
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
}

/// Until when the certificate that this node shows is good.
pub fn ends_at(node: &Node, enrolment: &Enrolment) -> Option<UnixMillis> {
    let identity = node.calls.endpoint(Alpn::Control).identity();
    trust::expires_at(identity.certificate()?, &enrolment.found.ca)
}

/// Whether the certificate that this node shows has ended.
pub fn has_lapsed(node: &Node, enrolment: &Enrolment) -> bool {
    let now = node.trust.time(node.outside.clock.wall());
    ends_at(node, enrolment).is_some_and(|end| renewal::is_over(now, end))
}

/// Tells this node, which begins, what time it cannot be before.
pub fn know_the_time(node: &Node, enrolment: &Enrolment) {
    if let Some(end) = ends_at(node, enrolment) {
        node.trust.not_before(renewal::floor(node.consensus.last_time(), end));
    }
}

async fn renew(node: &Node, papers: &Papers, enrolment: &Enrolment) -> Result<UnixMillis, Refusal> {
    let identity = node.calls.endpoint(Alpn::Control).identity();
    let public_key = identity.key().public_key().to_vec();
    let certificate = match papers.authority(&enrolment.found)? {
        Some(authority) => issue(node, &authority, &enrolment.fqdn, node.me, &public_key)?,
        None => ask(node, &public_key).await?,
    };
    adopt(node, papers, enrolment, certificate)
}

/// Keeps `certificate` and shows it from now on; returns until when it is good. Refused where it is not for this member.
pub fn adopt(node: &Node, papers: &Papers, enrolment: &Enrolment, certificate: Vec<u8>) -> Result<UnixMillis, Refusal> {
    let wrong = |why: &str| Refusal::new(Class::Failed, "bad_certificate", format!("the new certificate {why}"));
    let before = node.calls.endpoint(Alpn::Control).identity();
    let ca = &enrolment.found.ca;
    let identity = Identity::member(Arc::clone(before.key()), &certificate, ca)?;
    if identity.leaf() != before.leaf() {
        return Err(wrong("names another node than the one before"));
    }
    let until = trust::expires_at(&certificate, ca).ok_or_else(|| wrong("is not signed by this cluster's CA"))?;
    papers.enrol(&Enrolment { certificate, ..enrolment.clone() }, None)?;
    for alpn in [Alpn::Control, Alpn::Data] {
        node.calls.endpoint(alpn).set_identity(identity.clone())?;
    }
    Ok(until)
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
    for member in state.members.values().filter(|member| !member.witness) {
        let Some(target) = control_target(&state, member.id) else { continue };
        let request = ControlRequest::Renew { public_key: public_key.to_vec() };
        match node.calls.call(&target, Alpn::Control, &request, ISSUE_DEADLINE).await {
            Ok(ControlAnswer::Renewed(certificate)) => return Ok(certificate),
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
        let state = node.state();
        let authority = state.found.as_ref().map(|found| papers.authority(found)).transpose()?.flatten();
        let authority = authority
            .ok_or_else(|| Refusal::new(Class::Refused, "no_authority", "this node does not have the CA's key"))?;
        issue(node, &authority, &member.fqdn, member.id, public_key)
    };
    issued().map_or_else(ControlAnswer::Refused, ControlAnswer::Renewed)
}
