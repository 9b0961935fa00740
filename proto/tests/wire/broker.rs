//! The broker client against agents that follow a script.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use landfall_proto::alpn::Alpn;
use landfall_proto::client::{BrokerClient, Wish};
use landfall_proto::frame;
use landfall_proto::id::{Epoch, MemberId, Position, RequestId, VmId};
use landfall_proto::message::broker::{BrokerAnswer, BrokerRequest, Location};
use landfall_proto::model::{Frequency, VmSpec};
use landfall_proto::refusal::{Class, Refusal};

use crate::cast::{Agent, Cluster, soon};

type Heard = Arc<Mutex<Vec<(usize, BrokerRequest)>>>;

/// What an agent does with one request.
enum Act {
    Answer(BrokerAnswer),
    /// Carries it out, perhaps, and says nothing.
    Hang,
    /// Drops the connection.
    Cut,
}

/// Agent number `who` acts by `script`, then as the last act of it for ever.
fn play(agent: &Agent, who: usize, heard: &Heard, script: Vec<Act>) {
    let (endpoint, heard) = (agent.control.clone(), Arc::clone(heard));
    let script = Arc::new(Mutex::new(VecDeque::from(script)));
    tokio::spawn(async move {
        while let Ok(link) = endpoint.accept().await {
            let (heard, script) = (Arc::clone(&heard), Arc::clone(&script));
            tokio::spawn(async move {
                let mut hanging = Vec::new();
                while let Ok((mut send, mut receive)) = link.connection().accept_bi().await {
                    let max = Alpn::Broker.frame_max();
                    let request: BrokerRequest = frame::receive(&mut receive, max).await.unwrap();
                    heard.lock().unwrap().push((who, request));
                    let act = {
                        let mut script = script.lock().unwrap();
                        let act = script.pop_front().unwrap_or(Act::Hang);
                        if let (true, Act::Answer(answer)) = (script.is_empty(), &act) {
                            script.push_back(Act::Answer(answer.clone()));
                        }
                        act
                    };
                    match act {
                        Act::Answer(answer) => {
                            frame::send(&mut send, &answer, max).await.unwrap();
                            send.finish().unwrap();
                        }
                        Act::Hang => hanging.push((send, receive)),
                        Act::Cut => return,
                    }
                }
            });
        }
    });
}

struct Scene {
    agents: Vec<Agent>,
    addresses: Vec<SocketAddr>,
    primary: Agent,
    client: Arc<BrokerClient>,
    heard: Heard,
}

fn scene(seed: u64, agents: usize) -> Scene {
    let (mut r, mut p) = (Cluster::found("r", seed), Cluster::found("p", seed + 1));
    let agents: Vec<Agent> = (0..agents).map(|at| r.member(&format!("r{at}"), at as u64 + 1)).collect();
    let primary = p.member("p1", 1);
    for agent in &agents {
        r.tell(agent, &[&p]);
    }
    p.tell(&primary, &[&r]);
    let addresses: Vec<SocketAddr> = agents.iter().map(|agent| agent.member().control).collect();
    let client = Arc::new(BrokerClient::new(primary.calls.clone(), r.cap.clone(), addresses.clone()));
    Scene { agents, addresses, primary, client, heard: Heard::default() }
}

fn vm() -> VmId {
    "6f1c2a52-0b0f-4c6e-9f2e-3a51d0a1c001".parse().unwrap()
}

fn wish() -> Wish {
    let vm = VmSpec {
        id: vm(),
        name: "VirtualMachine_Workload".parse().unwrap(),
        disks: vec![],
        adapters: vec![],
        launch: Default::default(),
    };
    Wish { vm, frequency: Frequency::HalfMinute, recovery_points: 4, instead_of: None, lineage: None }
}

fn location(epoch: u64, position: u64) -> Location {
    Location {
        node: "r1".parse().unwrap(),
        member: MemberId::from_number(2),
        data: "127.0.0.1:7444".parse().unwrap(),
        epoch: Epoch::from_number(epoch),
        position: Position::from_number(position),
    }
}

fn placed(epoch: u64) -> Act {
    Act::Answer(BrokerAnswer::Placed { at: location(epoch, epoch), passed_over: vec![] })
}

fn request_of(request: &BrokerRequest) -> Option<RequestId> {
    match request {
        BrokerRequest::Place(place) => Some(place.request),
        BrokerRequest::Remove { request, .. } | BrokerRequest::Respecify { request, .. } => Some(*request),
        BrokerRequest::Probe | BrokerRequest::Locate { .. } => None,
    }
}

const LONG: Duration = Duration::from_secs(9);

#[tokio::test]
async fn the_owner_is_followed_and_asked_first_from_then_on() {
    let scene = scene(80, 3);
    let owner = scene.addresses[2];
    for at in 0..2 {
        play(&scene.agents[at], at, &scene.heard, vec![Act::Answer(BrokerAnswer::Owner { control: owner })]);
    }
    play(&scene.agents[2], 2, &scene.heard, vec![placed(7)]);
    let (at, _) = soon(scene.client.place(wish(), LONG)).await.unwrap();
    assert_eq!((at.epoch.number(), scene.client.epoch(vm())), (7, Some(Epoch::from_number(7))));
    scene.heard.lock().unwrap().clear();
    soon(scene.client.place(wish(), LONG)).await.unwrap();
    let heard = scene.heard.lock().unwrap();
    assert_eq!(heard.iter().map(|(who, _)| *who).collect::<Vec<_>>(), [2]);
    drop(heard);
    assert!(!scene.primary.control.links().is_empty());
}

#[tokio::test]
async fn one_wish_keeps_its_request_id_however_often_it_is_sent_and_the_next_has_a_higher_one() {
    let scene = scene(82, 1);
    let busy = Refusal::new(Class::Unreachable, "no_quorum", "no quorum just now");
    let script = vec![Act::Answer(BrokerAnswer::Refused(busy)), Act::Cut, Act::Cut, placed(9)];
    play(&scene.agents[0], 0, &scene.heard, script);
    soon(scene.client.place(wish(), LONG)).await.unwrap();
    let first: Vec<RequestId> =
        scene.heard.lock().unwrap().drain(..).filter_map(|(_, request)| request_of(&request)).collect();
    assert!(first.len() >= 4, "{first:?}");
    assert!(first.iter().all(|id| *id == first[0]), "{first:?}");
    soon(scene.client.place(wish(), LONG)).await.unwrap();
    let next = request_of(&scene.heard.lock().unwrap()[0].1).unwrap();
    assert_eq!(next, RequestId { session: first[0].session, sequence: first[0].sequence + 1 });
}

#[tokio::test]
async fn a_session_that_was_forgotten_is_replaced_where_nothing_can_have_been_applied() {
    let too_old = || Act::Answer(BrokerAnswer::Refused(Refusal::new(Class::Refused, Refusal::TOO_OLD, "forgotten")));
    let first = scene(97, 1);
    play(&first.agents[0], 0, &first.heard, vec![placed(3), too_old(), placed(4)]);
    for epoch in [3, 4] {
        let (at, _) = soon(first.client.place(wish(), LONG)).await.unwrap();
        assert_eq!(at.epoch, Epoch::from_number(epoch));
    }
    let sent: Vec<RequestId> = first.heard.lock().unwrap().iter().filter_map(|(_, it)| request_of(it)).collect();
    assert_eq!(sent[1], RequestId { sequence: 2, ..sent[0] });
    assert_eq!((sent[2].sequence, sent[2].session == sent[0].session), (1, false), "{sent:?}");

    // Sent more than once, an earlier try may have been carried out: the caller must look.
    let second = scene(99, 1);
    play(&second.agents[0], 0, &second.heard, vec![Act::Cut, too_old(), placed(4)]);
    assert_eq!(soon(second.client.place(wish(), LONG)).await.unwrap_err().code, Refusal::TOO_OLD);
}

#[tokio::test]
async fn an_agent_that_is_down_or_silent_costs_a_try_and_no_more() {
    let mut scene = scene(84, 3);
    drop(scene.agents.remove(0));
    play(&scene.agents[1], 2, &scene.heard, vec![placed(3)]);
    // Agent 1 accepts connections and never reads them.
    soon(scene.client.place(wish(), Duration::from_secs(3))).await.unwrap();
}

#[tokio::test]
async fn a_lasting_refusal_ends_the_call_and_a_passing_one_is_told_at_the_deadline() {
    let scene = scene(86, 1);
    let refusal = Refusal::new(Class::Refused, "not_authorized", "p-broker-cap.contoso.com is not authorized");
    play(&scene.agents[0], 0, &scene.heard, vec![Act::Answer(BrokerAnswer::Refused(refusal.clone()))]);
    assert_eq!(soon(scene.client.place(wish(), LONG)).await.unwrap_err(), refusal);
    assert_eq!(scene.heard.lock().unwrap().len(), 1);

    let scene = self::scene(88, 1);
    let passing = Refusal::new(Class::Unreachable, "no_quorum", "no quorum just now");
    play(&scene.agents[0], 0, &scene.heard, vec![Act::Answer(BrokerAnswer::Refused(passing))]);
    let refusal = soon(scene.client.remove(vm(), Duration::from_millis(300))).await.unwrap_err();
    assert_eq!((refusal.class, refusal.code.as_str()), (Class::Unreachable, "broker_unreachable"));
    assert!(refusal.message.contains("no quorum just now"), "{refusal}");
    assert!(scene.heard.lock().unwrap().len() >= 2);
}

#[tokio::test]
async fn an_older_epoch_or_position_is_not_taken() {
    let scene = scene(90, 2);
    let old = Act::Answer(BrokerAnswer::Located(location(5, 20)));
    play(&scene.agents[0], 0, &scene.heard, vec![old]);
    play(&scene.agents[1], 1, &scene.heard, vec![Act::Answer(BrokerAnswer::Located(location(12, 30)))]);
    scene.client.saw(vm(), &location(12, 25));
    for _ in 0..5 {
        let at = soon(scene.client.locate(vm(), Position::from_number(22), LONG)).await.unwrap();
        assert_eq!(at.epoch, Epoch::from_number(12));
    }
    assert_eq!(scene.client.position(), Position::from_number(30));
    for (_, request) in scene.heard.lock().unwrap().iter() {
        assert!(matches!(request, BrokerRequest::Locate { at_least, .. } if at_least.number() >= 25), "{request:?}");
    }
}

#[tokio::test]
async fn the_newest_of_all_answers_is_taken_whoever_is_silent() {
    let scene = scene(95, 3);
    let located = |epoch| vec![Act::Answer(BrokerAnswer::Located(location(epoch, 1)))];
    for (who, script) in [located(5), vec![Act::Hang], located(9)].into_iter().enumerate() {
        play(&scene.agents[who], who, &scene.heard, script);
    }
    let at = scene.client.locate_newest(vm(), Duration::from_millis(800)).await.unwrap();
    assert_eq!(at.epoch, location(9, 1).epoch);
    assert_eq!(scene.client.epoch(vm()), Some(at.epoch));
}

#[tokio::test]
async fn a_probe_refreshes_the_agents_and_keeps_the_first_ones() {
    let scene = scene(92, 1);
    let fresh: SocketAddr = "10.9.8.7:7443".parse().unwrap();
    let ready = BrokerAnswer::Ready { cap: scene.client.cap().clone(), agents: vec![fresh], authorized: Ok(()) };
    play(&scene.agents[0], 0, &scene.heard, vec![Act::Answer(ready)]);
    let probed = soon(scene.client.probe(LONG)).await.unwrap();
    assert_eq!((probed.agents, probed.authorized), (vec![fresh], Ok(())));
    assert_eq!(scene.client.agents(), [fresh, scene.addresses[0]]);
}
