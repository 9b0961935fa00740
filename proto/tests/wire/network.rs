//! Good callers are let in as who they are; connections follow the lists; the pool behaves.

use std::io::IoSliceMut;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use landfall_proto::alpn::Alpn;
use landfall_proto::calls::CallError;
use landfall_proto::close::Close;
use landfall_proto::endpoint::{DialError, Direction, Endpoint, Gone, Role};
use landfall_proto::machine::MachineNet;
use landfall_proto::seam::{Net, Outside};
use landfall_proto::tls::Identity;
use landfall_proto::trust::{Caller, Distrust};

use crate::cast::{Agent, Cluster, label, outside, serve, soon, until};

#[tokio::test]
async fn members_and_peers_are_let_in_as_who_they_are_and_only_where_they_belong() {
    let (mut r, mut p) = (Cluster::found("r", 1), Cluster::found("p", 2));
    let (r1, r2, p1) = (r.member("r1", 1), r.member("r2", 5), p.member("p1", 1));
    for (cluster, agent, peer) in [(&r, &r1, &p), (&r, &r2, &p), (&p, &p1, &r)] {
        cluster.tell(agent, &[peer]);
    }
    r1.serve();
    for alpn in [Alpn::Gossip, Alpn::Raft, Alpn::Control, Alpn::Data] {
        assert_eq!(r2.who_am_i(&r1, &r.cap, alpn).await.as_deref(), Ok("member r2"), "{alpn}");
    }
    for alpn in [Alpn::Broker, Alpn::Control, Alpn::Data] {
        let known = p1.who_am_i(&r1, &r.cap, alpn).await;
        assert_eq!(known.as_deref(), Ok("peer p1 of p-broker-cap.contoso.com"), "{alpn}");
    }
    for alpn in [Alpn::Gossip, Alpn::Raft] {
        let refused = p1.who_am_i(&r1, &r.cap, alpn).await.unwrap_err();
        assert!(refused.contains("refuse") || refused.contains("not on the member list"), "{alpn}: {refused}");
    }
    let served: Vec<Alpn> = r1.control.links().iter().chain(&r1.data.links()).map(|link| link.alpn()).collect();
    assert!(!served.contains(&Alpn::Join) && served.len() == 7, "{served:?}");
}

#[tokio::test]
async fn a_node_is_dialled_by_its_key_and_another_one_at_its_address_is_not_it() {
    let mut r = Cluster::found("r", 3);
    let (r1, r2) = (r.member("r1", 1), r.member("r2", 5));
    r.tell(&r1, &[]);
    r.tell(&r2, &[]);
    let mut target = r1.target(&r.cap, Alpn::Control);
    target.key = Some(r2.member().key);
    let error = soon(r2.control.dial(&target, Alpn::Control)).await.unwrap_err();
    assert!(matches!(error, DialError::Untrusted { distrust: Distrust::OtherNode, .. }), "{error}");
    assert!(r1.control.links().is_empty());
}

#[tokio::test]
async fn a_newer_member_is_let_in_before_the_list_has_it_and_is_listed_without_a_new_connection() {
    let mut r = Cluster::found("r", 4);
    let r1 = r.member("r1", 1);
    let r9 = r.unlisted("r9", 9);
    r.tell(&r1, &[]);
    let link = soon(r9.control.dial(&r1.target(&r.cap, Alpn::Raft), Alpn::Raft)).await.unwrap();
    let seen = soon(r1.control.accept()).await.unwrap();
    assert_eq!(label(&seen.caller()), "unlisted r9.contoso.com");
    r.list.members.push(r9.member().clone());
    r.list.position = r9.member().id.0;
    r.tell(&r1, &[]);
    until("it is listed", || label(&seen.caller()) == "member r9").await;
    assert!(!link.is_closed());
}

#[tokio::test]
async fn a_removed_member_loses_its_open_connections_and_cannot_return() {
    let mut r = Cluster::found("r", 5);
    let (r1, r2) = (r.member("r1", 1), r.member("r2", 5));
    r.tell(&r1, &[]);
    r.tell(&r2, &[]);
    let target = r1.target(&r.cap, Alpn::Control);
    let inbound = soon(r2.control.dial(&target, Alpn::Control)).await.unwrap();
    let accepted = soon(r1.control.accept()).await.unwrap();
    let outbound = soon(r1.control.dial(&r2.target(&r.cap, Alpn::Raft), Alpn::Raft)).await.unwrap();
    r.remove(5, 12);
    let told = Instant::now();
    r.tell(&r1, &[]);
    let end = soon(inbound.connection().closed()).await;
    assert!(told.elapsed() < Duration::from_secs(1), "R11: {:?}", told.elapsed());
    let (close, reason) = Close::of(&end).expect("closed with a reason");
    assert_eq!(close, Close::Removed);
    assert!(reason.contains("r2.contoso.com") && reason.contains("removed"), "{reason}");
    soon(outbound.connection().closed()).await;
    drop(accepted);
    for _ in 0..20 {
        let again = soon(r2.control.dial(&target, Alpn::Control)).await;
        let end = match again {
            Ok(link) => soon(link.connection().closed()).await,
            Err(DialError::Refused { close, .. }) => {
                assert_eq!(close, Close::Removed);
                continue;
            }
            Err(error) => panic!("{error}"),
        };
        assert_eq!(Close::of(&end).map(|(close, _)| close), Some(Close::Removed), "{end}");
    }
    assert!(r1.control.links().is_empty());
    let error = soon(r1.control.dial(&r2.target(&r.cap, Alpn::Raft), Alpn::Raft)).await.unwrap_err();
    assert!(matches!(error, DialError::Untrusted { distrust: Distrust::Removed { .. }, .. }), "{error}");
}

#[tokio::test]
async fn an_unpaired_cluster_is_out_at_once() {
    let (mut r, mut p) = (Cluster::found("r", 6), Cluster::found("p", 7));
    let (r1, p1) = (r.member("r1", 1), p.member("p1", 1));
    r.tell(&r1, &[&p]);
    p.tell(&p1, &[&r]);
    let link = soon(p1.data.dial(&r1.target(&r.cap, Alpn::Data), Alpn::Data)).await.unwrap();
    let _accepted = soon(r1.data.accept()).await.unwrap();
    r.tell(&r1, &[]);
    let end = soon(link.connection().closed()).await;
    assert_eq!(Close::of(&end).map(|(close, _)| close), Some(Close::Removed), "{end}");
}

#[tokio::test]
async fn close_picks_by_caller_and_nobody_else() {
    let mut r = Cluster::found("r", 8);
    let (r1, r2, r3) = (r.member("r1", 1), r.member("r2", 5), r.member("r3", 6));
    for agent in [&r1, &r2, &r3] {
        r.tell(agent, &[]);
    }
    r1.serve();
    let stays = soon(r2.calls.link(&r1.target(&r.cap, Alpn::Control), Alpn::Control)).await.unwrap();
    let goes = soon(r3.calls.link(&r1.target(&r.cap, Alpn::Control), Alpn::Control)).await.unwrap();
    until("both are in", || r1.control.links().len() == 2).await;
    let key = r3.member().key;
    assert_eq!(r1.control.close(|caller| caller.key() == key, Close::Removed, "gone"), 1);
    soon(goes.connection().closed()).await;
    assert!(!stays.is_closed());
}

#[tokio::test]
async fn gossip_keeps_the_newest_connection_of_a_node_and_others_a_few() {
    let mut r = Cluster::found("r", 9);
    let (r1, r2) = (r.member("r1", 1), r.member("r2", 5));
    r.tell(&r1, &[]);
    r.tell(&r2, &[]);
    let target = r1.target(&r.cap, Alpn::Gossip);
    let (mut dialled, mut accepted) = (Vec::new(), Vec::new());
    for alpn in [Alpn::Gossip, Alpn::Gossip, Alpn::Raft, Alpn::Raft, Alpn::Raft, Alpn::Raft, Alpn::Raft] {
        dialled.push(soon(r2.control.dial(&target, alpn)).await.unwrap());
        accepted.push(soon(r1.control.accept()).await.unwrap());
    }
    for replaced in [0, 2] {
        let end = soon(dialled[replaced].connection().closed()).await;
        assert_eq!(Close::of(&end).map(|(close, _)| close), Some(Close::Replaced), "{end}");
    }
    assert_eq!(dialled.iter().filter(|link| !link.is_closed()).count(), 5);
}

#[tokio::test]
async fn an_agent_begins_to_listen_when_it_gets_its_certificate() {
    let mut r = Cluster::found("r", 10);
    let r1 = r.member("r1", 1);
    r.tell(&r1, &[]);
    let key = Arc::clone(r1.control.identity().key());
    let fresh = Agent::start(r1.outside.clone(), r1.clock.clone(), r1.trust.clone(), Identity::stranger(key.clone()));
    let mut target = r1.target(&r.cap, Alpn::Control);
    target.address = fresh.control.local_address().unwrap();
    let unable = soon(fresh.control.dial(&target, Alpn::Control)).await.unwrap_err();
    assert!(matches!(unable, DialError::Unable(_)), "{unable}");
    assert!(soon(r1.control.dial(&target, Alpn::Control)).await.is_err(), "a stranger must not listen");
    let identity = Identity::member(key, &r1.leaf, r.authority.certificate()).unwrap();
    fresh.control.set_identity(identity).unwrap();
    fresh.serve();
    soon(r1.control.dial(&target, Alpn::Control)).await.unwrap();
}

#[tokio::test]
async fn many_calls_share_one_connection() {
    let mut r = Cluster::found("r", 11);
    let (r1, r2) = (r.member("r1", 1), r.member("r2", 5));
    r.tell(&r1, &[]);
    r.tell(&r2, &[]);
    r1.serve();
    let calls: Vec<_> = (0..20).map(|_| r2.who_am_i(&r1, &r.cap, Alpn::Control)).collect();
    for answer in soon(futures_util::future::join_all(calls)).await {
        assert_eq!(answer.as_deref(), Ok("member r2"));
    }
    assert_eq!(r1.control.links().iter().filter(|link| link.direction() == Direction::Inbound).count(), 1);
    // A connection that the other side has closed in peace is replaced without the caller's noticing.
    assert_eq!(r1.control.close(|_| true, Close::Done, "restart"), 1);
    assert_eq!(r2.who_am_i(&r1, &r.cap, Alpn::Control).await.as_deref(), Ok("member r2"));
}

#[tokio::test]
async fn an_agent_that_was_killed_and_started_again_is_found_long_before_its_connections_time_out() {
    let mut r = Cluster::found("r", 15);
    // The one to be killed lives in a runtime of its own.
    let first_life = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let entered = first_life.enter();
    let r1 = r.member("r1", 1);
    r.tell(&r1, &[]);
    r1.serve();
    drop(entered);
    let r2 = r.member("r2", 5);
    r.tell(&r1, &[]);
    r.tell(&r2, &[]);
    assert_eq!(r2.who_am_i(&r1, &r.cap, Alpn::Control).await.as_deref(), Ok("member r2"));

    let target = r1.target(&r.cap, Alpn::Control);
    let (identity, trust, outside) = ((*r1.control.identity()).clone(), r1.trust.clone(), r1.outside.clone());
    first_life.shutdown_background();
    drop(r1);
    let mut again = None;
    until("the port is free", || {
        again = Endpoint::bind(&outside, Role::Control, target.address, trust.clone(), identity.clone()).ok();
        again.is_some()
    })
    .await;
    assert!(r2.calls.open_link(&target, Alpn::Control).is_some(), "it must have died without a word");
    serve(again.unwrap());
    let deadline = Duration::from_secs(4);
    let answer: Result<String, CallError> = r2.calls.call(&target, Alpn::Control, &"who am I", deadline).await;
    assert_eq!(answer.unwrap(), "member r2");
}

#[tokio::test]
async fn a_call_ends_at_its_deadline_and_a_full_request_never_leaves() {
    let mut r = Cluster::found("r", 12);
    let (r1, r2) = (r.member("r1", 1), r.member("r2", 5));
    r.tell(&r1, &[]);
    r.tell(&r2, &[]);
    // r1 accepts the connection and nobody answers on it.
    let deadline = Duration::from_millis(300);
    let target = r1.target(&r.cap, Alpn::Control);
    let answer: Result<String, _> = r2.calls.call(&target, Alpn::Control, &"who am I", deadline).await;
    assert!(matches!(answer, Err(CallError::Late(_))), "{answer:?}");
    let long = "x".repeat(Alpn::Control.frame_max());
    let answer: Result<String, _> = r2.calls.call(&target, Alpn::Control, &long, deadline).await;
    assert!(matches!(answer, Err(CallError::Protocol(_))), "{answer:?}");
    let silent = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let mut nobody = target;
    nobody.address = silent.local_addr().unwrap();
    let answer: Result<String, _> = r2.calls.call(&nobody, Alpn::Control, &"who am I", deadline).await;
    assert!(matches!(answer, Err(CallError::Late(_))), "{answer:?}");
}

/// Real sockets, one of which can be made to break its reader.
#[derive(Debug, Default)]
struct Fragile(Arc<Breakage>);

#[derive(Debug, Default)]
struct Breakage {
    fails: AtomicBool,
}

impl Net for Fragile {
    fn bind(&self, address: SocketAddr) -> std::io::Result<Arc<dyn quinn::AsyncUdpSocket>> {
        Ok(Arc::new(FragileSocket(MachineNet.bind(address)?, Arc::clone(&self.0))))
    }

    fn runtime(&self) -> Arc<dyn quinn::Runtime> {
        MachineNet.runtime()
    }
}

#[derive(Debug)]
struct FragileSocket(Arc<dyn quinn::AsyncUdpSocket>, Arc<Breakage>);

impl quinn::AsyncUdpSocket for FragileSocket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn quinn::UdpPoller>> {
        Arc::clone(&self.0).create_io_poller()
    }

    fn try_send(&self, transmit: &quinn::udp::Transmit<'_>) -> std::io::Result<()> {
        self.0.try_send(transmit)
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [quinn::udp::RecvMeta],
    ) -> Poll<std::io::Result<usize>> {
        let polled = self.0.poll_recv(cx, bufs, meta);
        match polled.is_ready() && self.1.fails.swap(false, Ordering::Relaxed) {
            true => Poll::Ready(Err(std::io::Error::other("the interface is gone (part of a test)"))),
            false => polled,
        }
    }

    fn local_addr(&self) -> std::io::Result<SocketAddr> {
        self.0.local_addr()
    }
}

#[tokio::test]
async fn a_dead_endpoint_task_is_seen_and_replaced_on_the_same_address() {
    let mut r = Cluster::found("r", 13);
    let r2 = r.member("r2", 5);
    r.tell(&r2, &[]);
    let breakage = Arc::new(Breakage::default());
    let (machine, _) = outside(77);
    let fragile = Outside { net: Arc::new(Fragile(Arc::clone(&breakage))), ..machine };
    let identity = (*r2.control.identity()).clone();
    let any = "127.0.0.1:0".parse().unwrap();
    let endpoint = Endpoint::bind(&fragile, Role::Control, any, r2.trust.clone(), identity).unwrap();
    let address = endpoint.local_address().unwrap();
    let mut target = r2.target(&r.cap, Alpn::Control);
    target.address = address;
    for _ in 0..3 {
        let link = soon(r2.control.dial(&target, Alpn::Control)).await.unwrap();
        let accepted = soon(endpoint.accept()).await.unwrap();
        breakage.fails.store(true, Ordering::Relaxed);
        link.connection().open_uni().await.unwrap().write_all(b"wake").await.unwrap();
        assert_eq!(soon(endpoint.accept()).await.err(), Some(Gone::Lost));
        assert!(endpoint.is_lost());
        assert_eq!(soon(endpoint.dial(&target, Alpn::Control)).await.err(), Some(DialError::Lost));
        endpoint.restart().unwrap();
        assert_eq!(endpoint.local_address().unwrap(), address);
        drop(accepted);
    }
    soon(r2.control.dial(&target, Alpn::Control)).await.unwrap();
    assert!(matches!(&*soon(endpoint.accept()).await.unwrap().caller(), Caller::Member { .. }));
}

#[tokio::test]
async fn an_endpoint_that_is_dropped_or_shut_down_tells_the_other_side_and_frees_its_port() {
    let mut r = Cluster::found("r", 14);
    let (r1, r2) = (r.member("r1", 1), r.member("r2", 5));
    r.tell(&r1, &[]);
    r.tell(&r2, &[]);
    let link = soon(r2.control.dial(&r1.target(&r.cap, Alpn::Raft), Alpn::Raft)).await.unwrap();
    let address = r1.control.local_address().unwrap();
    let accepted = soon(r1.control.accept()).await.unwrap();
    drop(r1);
    let end = soon(link.connection().closed()).await;
    assert_eq!(Close::of(&end).map(|(close, _)| close), Some(Close::Done), "{end}");
    drop(accepted);
    until("the port is free", || std::net::UdpSocket::bind(address).is_ok()).await;

    let r3 = r.member("r3", 6);
    r.tell(&r3, &[]);
    r.tell(&r2, &[]);
    let link = soon(r2.control.dial(&r3.target(&r.cap, Alpn::Raft), Alpn::Raft)).await.unwrap();
    let endpoint = r3.control.clone();
    let accepted = soon(endpoint.accept()).await.unwrap();
    let accepting = tokio::spawn(async move { endpoint.accept().await.err() });
    soon(r3.control.shut_down()).await;
    assert_eq!(soon(accepting).await.unwrap(), Some(Gone::ShutDown));
    assert!(accepted.is_closed());
    let end = soon(link.connection().closed()).await;
    assert_eq!(Close::of(&end).map(|(close, _)| close), Some(Close::Done), "{end}");
}
