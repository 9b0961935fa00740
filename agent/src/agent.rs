//! One agent: its endpoints, the cluster it belongs to, and everything it does as a member.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use landfall_proto::alpn::Alpn;
use landfall_proto::authority::Authority;
use landfall_proto::calls::Calls;
use landfall_proto::certificate::NodeKey;
use landfall_proto::close::Close;
use landfall_proto::endpoint::{Endpoint, Role};
use landfall_proto::id::{ClusterName, Fqdn, InterfaceName};
use landfall_proto::invitation::{self, Purpose};
use landfall_proto::message::control::CaKey;
use landfall_proto::message::join::{Ask, JoinAnswer};
use landfall_proto::model::{CaLine, CapAddress, Found, HostAddress, Member, MemberList};
use landfall_proto::tls::Identity;
use landfall_proto::trust::{Trust, TrustView};
use landfall_proto::{Class, Refusal};
use landfall_store::State;
use landfall_store::consensus;
use landfall_store::files::Files;
use landfall_store::kv::Kv;
use landfall_store::state::Survivor;
use tokio::sync::{Mutex, watch};
use tokio::time::timeout;

use crate::config::NodeConfig;
use crate::drive::cap_address;
use crate::drive::enrolment::{Enrolment, Papers, STORE_FOLDER};
use crate::drive::events::Events;
use crate::drive::join;
use crate::drive::membership::{Ground, Membership};
use crate::drive::owner;
use crate::drive::vm_side::VmSide;
use crate::seams::Seams;
use crate::vm_service::VmService;

/// How long an agent that is told to stop tries to hand the CAP over: its first lease, and what a hand-over takes on a busy
/// machine. A process supervisor waits much longer before it kills.
const HAND_OVER_DEADLINE: Duration = Duration::from_secs(5);

/// A running agent. Dropping the last handle stops it.
#[derive(Clone)]
pub struct Agent {
    inner: Arc<Inner>,
}

struct Inner {
    config: Arc<NodeConfig>,
    seams: Seams,
    papers: Papers,
    key: ArcSwap<NodeKey>,
    trust: Trust,
    control: Endpoint,
    calls: Calls,
    vms: VmSide,
    events: Events,
    membership: watch::Sender<Option<Arc<Membership>>>,
    /// Held while the node becomes a member: one init or join at a time.
    enrolling: Mutex<()>,
}

impl Agent {
    /// Starts the agent of `config`. One that belongs to no cluster yet waits for [`Agent::found`] or [`Agent::join`].
    ///
    /// `service` is the node's VM service; a witness has none.
    pub async fn start(config: NodeConfig, seams: Seams, service: Option<Arc<dyn VmService>>) -> Result<Self, Refusal> {
        let files: Arc<dyn Files> = seams.storage.files(&config.data_dir)?;
        let papers = Papers::new(Arc::clone(&files));
        let key = Arc::new(papers.key(seams.outside.random.as_ref())?);
        let enrolment = papers.enrolment(&config.node)?;
        let identity = match &enrolment {
            Some(enrolment) => Identity::member(Arc::clone(&key), &enrolment.certificate, &enrolment.line.first)?
                .following(&enrolment.line),
            None => Identity::stranger(Arc::clone(&key)),
        };
        let trust = Trust::default();
        let outside = &seams.outside;
        let control = Endpoint::bind(outside, Role::Control, config.listen, trust.clone(), identity.clone())?;
        let data = Endpoint::bind(outside, Role::Data, config.data_listen, trust.clone(), identity)?;
        let calls = Calls::new(control.clone(), data);
        let clock = Arc::clone(&seams.outside.clock);
        let inner = Inner {
            config: Arc::new(config),
            vms: VmSide::new(service, Arc::clone(&clock)),
            events: Events::new(clock),
            seams,
            papers,
            key: ArcSwap::new(key),
            trust,
            control,
            calls,
            membership: watch::Sender::new(None),
            enrolling: Mutex::default(),
        };
        let agent = Self { inner: Arc::new(inner) };
        if let Some(enrolment) = enrolment {
            agent.take_up(enrolment, false).await?;
        }
        Ok(agent)
    }

    /// The membership, once there is one.
    pub fn membership(&self) -> Option<Arc<Membership>> {
        self.inner.membership.borrow().clone()
    }

    /// The membership, or why there is none.
    pub fn member(&self) -> Result<Arc<Membership>, Refusal> {
        self.membership().ok_or_else(|| {
            Refusal::new(
                Class::Refused,
                "no_cluster",
                format!("node {} belongs to no cluster yet", self.inner.config.node),
            )
            .remedy("found one (landfall cluster init) or join one (landfall cluster join TOKEN)")
        })
    }

    /// The node's VM service, as it reports to this agent.
    pub fn vms(&self) -> &VmSide {
        &self.inner.vms
    }

    /// What happened lately.
    pub fn events(&self) -> &Events {
        &self.inner.events
    }

    /// Why this agent cannot go on, once that is so: its store has failed. The program should end then.
    pub async fn broken(&self) -> Refusal {
        let mut membership = self.inner.membership.subscribe();
        loop {
            let present = membership.borrow_and_update().clone();
            tokio::select! {
                refusal = async {
                    match present {
                        Some(membership) => membership.broken().await,
                        None => std::future::pending().await,
                    }
                } => return refusal,
                changed = membership.changed() => if changed.is_err() { std::future::pending::<()>().await },
            }
        }
    }

    /// Founds a cluster with this node as its only member. The CAP has an address of its own where `address` has one, on
    /// the interface that comes with it.
    pub async fn found(
        &self,
        cluster: ClusterName,
        cap: Fqdn,
        address: Option<(Vec<HostAddress>, InterfaceName)>,
    ) -> Result<(), Refusal> {
        let inner = &self.inner;
        let _enrolling = inner.enrolling.lock().await;
        self.must_be_free()?;
        self.clear()?;
        let config = &inner.config;
        if config.witness {
            return Err(Refusal::new(
                Class::Refused,
                "witness",
                "a witness cannot found a cluster: it may not issue certificates",
            )
            .field("witness")
            .remedy("found it at a node that hosts VMs, and join this one with a --witness token"));
        }
        let cap_address = match address {
            Some((addresses, interface)) => {
                Some(self.checked(CapAddress::new(addresses, interface, config.listen.port())?)?)
            }
            None => None,
        };
        let outside = &inner.seams.outside;
        let authority = Authority::found(&cap, outside.random.as_ref(), outside.clock.as_ref())?;
        let fqdn = join::fqdn_of(&cap, config.fqdn.as_ref(), &config.node);
        let (id, key) = (Found::FOUNDER, inner.key.load_full());
        let certificate =
            authority.issue(&fqdn, id, key.public_key(), outside.random.as_ref(), outside.clock.as_ref())?;
        let founder = Member {
            id,
            node: config.node.clone(),
            fqdn: fqdn.clone(),
            key: key.fingerprint(),
            control: config.advertise,
            data: config.data_advertise,
            witness: false,
        };
        let found = Found {
            cluster,
            cap: cap.clone(),
            cluster_id: outside.random.u128(),
            ca: authority.certificate().to_vec(),
            timing: config.testing.timing(),
            cap_address,
            founder: founder.clone(),
        };
        let cap_addresses = found.cap_address.iter().flat_map(CapAddress::sockets).collect();
        let members = MemberList { cap, position: id.0, members: vec![founder], cap_addresses };
        let line = CaLine::of(found.ca.clone());
        let enrolment = Enrolment { node: config.node.clone(), fqdn, member: id, certificate, found, members, line };
        inner.papers.enrol(&enrolment, &[CaKey(authority.pkcs8().to_vec())])?;
        self.take_up(enrolment, true).await
    }

    /// Joins the cluster that made `token`. A member whose certificate has ended gets a new one that way.
    pub async fn join(&self, token: &str) -> Result<(), Refusal> {
        let inner = &self.inner;
        let _enrolling = inner.enrolling.lock().await;
        let lapsed = self.membership().filter(|membership| membership.has_lapsed());
        if lapsed.is_none() {
            self.must_be_free()?;
            self.clear()?;
        }
        let config = &inner.config;
        let invitation = invitation::from_text(Purpose::Join, token)?;
        let ask = Ask::Member {
            node: config.node.clone(),
            fqdn: config.fqdn.clone(),
            public_key: inner.key.load().public_key().to_vec(),
            control: config.advertise,
            data: config.data_advertise,
            witness: config.witness,
        };
        let JoinAnswer::Member(welcome) = join::ask(&inner.control, &invitation, &ask).await? else {
            return Err(Refusal::new(Class::Failed, "protocol", "joining gave an answer of another kind"));
        };
        if let Some(membership) = lapsed {
            return membership.come_back(&inner.papers, *welcome);
        }
        let fqdn = join::fqdn_of(&welcome.found.cap, config.fqdn.as_ref(), &config.node);
        let ca_keys = welcome.ca_keys.clone();
        let enrolment = Enrolment::of(config.node.clone(), fqdn, *welcome);
        inner.papers.enrol(&enrolment, &ca_keys)?;
        self.take_up(enrolment, true).await
    }

    fn clear(&self) -> Result<(), Refusal> {
        let inner = &self.inner;
        let aside = format!("left-unfinished-{}", inner.seams.outside.clock.wall().0);
        Papers::clear(&*inner.seams.storage, &inner.config.data_dir, &aside)
    }

    /// The address, provided that this node could have it: whoever founds a cluster is told at once what is wrong.
    fn checked(&self, cap: CapAddress) -> Result<CapAddress, Refusal> {
        let config = &self.inner.config;
        for (field, own) in [("advertise", config.advertise), ("data_advertise", config.data_advertise)] {
            if cap.has(&own.ip()) {
                let remedy = format!("that is this node's own ({field}): give one that no machine has");
                return Err(Refusal::invalid("cap_address", &own.ip().to_string(), &remedy));
            }
        }
        let interface = config.cap_interface.as_ref().unwrap_or(cap.interface());
        cap_address::check(&*self.inner.seams.hosts, interface, &cap)?;
        Ok(cap)
    }

    fn must_be_free(&self) -> Result<(), Refusal> {
        match self.membership() {
            None => Ok(()),
            Some(membership) => {
                let cluster = &membership.enrolment.found.cluster;
                let message = format!("node {} belongs to cluster {cluster} already", self.inner.config.node);
                Err(Refusal::new(Class::Refused, "already_member", message)
                    .remedy("a node belongs to one cluster; to start over, stop the agent and set its data_dir aside"))
            }
        }
    }

    /// Starts to act as the member that `enrolment` makes this node; `new` where it has just become that.
    async fn take_up(&self, enrolment: Enrolment, new: bool) -> Result<(), Refusal> {
        let inner = &self.inner;
        let kv = inner.seams.storage.store(&inner.config.data_dir.join(STORE_FOLDER), &inner.config.node)?;
        self.take_up_on(kv, enrolment, new).await
    }

    async fn take_up_on(&self, kv: Arc<dyn Kv>, enrolment: Enrolment, new: bool) -> Result<(), Refusal> {
        let inner = &self.inner;
        let line = &enrolment.line;
        let identity = Identity::member(inner.key.load_full(), &enrolment.certificate, &line.first)?.following(line);
        for alpn in [Alpn::Control, Alpn::Data] {
            inner.calls.endpoint(alpn).set_identity(identity.clone())?;
        }
        let ground = Ground {
            config: Arc::clone(&inner.config),
            outside: inner.seams.outside.clone(),
            papers: inner.papers.clone(),
            calls: inner.calls.clone(),
            trust: inner.trust.clone(),
            vms: inner.vms.clone(),
            events: inner.events.clone(),
            kv,
            hosts: Arc::clone(&inner.seams.hosts),
            new,
        };
        let membership = Membership::take_up(ground, enrolment).await?;
        inner.membership.send_replace(Some(Arc::new(membership)));
        Ok(())
    }

    /// Makes ready to stop: takes the CAP over from nobody any more, and hands it to another node where this one owns it.
    /// Returns after `HAND_OVER_DEADLINE` at the latest, whatever came of it.
    pub async fn retire(&self) {
        let Some(membership) = self.membership() else { return };
        let node = &membership.control.node;
        node.consensus.set_succeeds(false);
        if node.owner.acting().is_none() {
            return;
        }
        match timeout(HAND_OVER_DEADLINE, owner::order(node, None)).await {
            Ok(Ok(_)) => {}
            Ok(Err(refusal)) => tracing::info!(%refusal, "the CAP is not handed over before this agent stops"),
            Err(_) => tracing::warn!("the CAP was not handed over in time: its next owner is elected"),
        }
    }

    /// Begins the cluster's next life with this node alone, which is `survivor`: ends what it does as a member, rewrites its
    /// state, and goes on. The state that the new life begins with. Where that fails the node goes on in the old one.
    pub async fn begin_next_life(&self, survivor: Survivor) -> Result<Arc<State>, Refusal> {
        let inner = &self.inner;
        let _enrolling = inner.enrolling.lock().await;
        let membership = inner.membership.send_replace(None).ok_or_else(|| {
            Refusal::new(Class::Refused, "no_cluster", format!("node {} belongs to no cluster", inner.config.node))
        })?;
        membership.stop().await;
        let (kv, enrolment) = (membership.store(), membership.enrolment.clone());
        drop(membership);
        for alpn in [Alpn::Control, Alpn::Data] {
            let links = inner.calls.endpoint(alpn).links();
            links.iter().for_each(|link| link.close(Close::Done, "this node's cluster is being recovered"));
        }
        let begun = consensus::recover(Arc::clone(&kv), &survivor).await;
        if let Ok(state) = &begun
            && let Some(list) = state.member_list()
        {
            inner.papers.remember(&list)?;
        }
        // A certificate that was renewed since is in the papers.
        let mut enrolment = inner.papers.enrolment(&inner.config.node)?.unwrap_or(enrolment);
        if let Ok(state) = &begun {
            enrolment.line = state.ca.line.clone();
            inner.papers.enrol(&enrolment, &[])?;
        }
        self.take_up_on(kv, enrolment, false).await?;
        begun.map_err(|error| Refusal::new(Class::Failed, "consensus", error.to_string()).field("data_dir"))
    }

    /// Belongs to no cluster any more: sets aside what this node has as a member, and waits for [`Agent::found`] or
    /// [`Agent::join`] with a new key. Returns the folder into which everything was moved.
    pub async fn forget(&self) -> Result<PathBuf, Refusal> {
        let inner = &self.inner;
        let _enrolling = inner.enrolling.lock().await;
        let membership = inner.membership.send_replace(None);
        let cluster = membership.as_ref().map_or(String::new(), |member| member.enrolment.found.cluster.to_string());
        if let Some(membership) = membership {
            membership.stop().await;
        }
        inner.trust.set(TrustView::default());
        let aside = format!("left-{cluster}-{}", inner.seams.outside.clock.wall().0);
        let set_aside = Papers::set_aside(&*inner.seams.storage, &inner.config.data_dir, &aside)?;
        let key = Arc::new(inner.papers.key(inner.seams.outside.random.as_ref())?);
        inner.key.store(Arc::clone(&key));
        for alpn in [Alpn::Control, Alpn::Data] {
            let endpoint = inner.calls.endpoint(alpn);
            endpoint.set_identity(Identity::stranger(Arc::clone(&key)))?;
            endpoint.links().iter().for_each(|link| link.close(Close::Done, "this node has left its cluster"));
        }
        Ok(set_aside)
    }

    /// Stops the agent in good order. Its VM service and its VMs go on.
    pub async fn stop(&self) {
        let membership = self.inner.membership.send_replace(None);
        if let Some(membership) = membership {
            membership.stop().await;
        }
    }

    /// The node's file.
    pub fn config(&self) -> &NodeConfig {
        &self.inner.config
    }
}
