//! What is wrong with a node, its cluster and its peers, judged from facts that were gathered before.
//!
//! Warning means that it works, and will not for long or not after the next loss; critical that something does not work.

use std::time::Duration;

use landfall_proto::id::{Fqdn, NodeName, StorageName, UnixMillis};
use landfall_proto::model::Family;

use crate::decide::cap_address_findings::{self, CapAddressFact};
use crate::decide::farewell;
use crate::decide::flapping::{self, Quarantined};
use crate::decide::health_rules::skewed;
use crate::decide::peer_list::LIST_LIFETIME;
use crate::decide::placement::RESERVE_BYTES;
use crate::decide::rollback::{self, Loss};
use crate::decide::rotation_findings::{self, RotationFact};
use crate::decide::twins::{self, Twin};
use crate::surface::doctor::{Finding, Level};
use crate::surface::vm::{Health, HealthDetail};

/// A certificate with less life left should have been renewed half a day ago.
const CERTIFICATE_SOON: Duration = Duration::from_secs(3 * 24 * 3600);
/// A certificate with less life left is an emergency.
const CERTIFICATE_NOW: Duration = Duration::from_secs(24 * 3600);
/// A peer's list that is older was missed twice: lists are exchanged hourly.
const LIST_LATE: Duration = Duration::from_secs(2 * 3600 + 60);
/// Room that replicas need beside what they have, in hundredths of their disks: for logs, change sets and points.
const ROOM_PERCENT: u128 = 10;
/// A path on which packets stay smaller costs throughput: plain Ethernet carries 1452 bytes of QUIC, common tunnels 1350.
const MTU_LEAST: u16 = 1300;

/// Everything that is judged.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// The time.
    pub now: UnixMillis,
    /// The cluster.
    pub cluster: ClusterFact,
    /// Its members.
    pub nodes: Vec<NodeFact>,
    /// Ways between nodes that were tried.
    pub lines: Vec<LineFact>,
    /// Certificates: whose, and until when.
    pub certificates: Vec<(String, UnixMillis)>,
    /// Other nodes' clocks: whose, and how many milliseconds ahead.
    pub clocks: Vec<(String, i64)>,
    /// Peers: whose list, and when it was confirmed.
    pub peers: Vec<(Fqdn, UnixMillis)>,
    /// VMs: name, and why each is not well.
    pub vms: Vec<(String, Vec<HealthDetail>)>,
    /// Adapters with static addresses and none for a failover: VM, adapter, family.
    pub left_static: Vec<(String, String, Family)>,
    /// The rotation of the CA that is under way.
    pub rotation: Option<RotationFact>,
    /// The CAP's own address, where it has one.
    pub cap_address: Option<CapAddressFact>,
    /// Keys that are heard in two places, each with the node that hears it.
    pub twins: Vec<(String, Twin)>,
    /// Nodes that come and go.
    pub quarantined: Vec<(NodeName, Quarantined)>,
    /// Nodes whose logs have lost something.
    pub rolled_back: Vec<(NodeName, Loss)>,
    /// VMs that are replicated no more, and the cluster that is still to be told so.
    pub farewells: Vec<(String, Fqdn)>,
    /// What gave no answer in time.
    pub unfinished: Vec<String>,
}

/// The cluster as a whole.
#[derive(Clone, Debug, Default)]
pub struct ClusterFact {
    /// Its CAP.
    pub cap: String,
    /// Whether somebody owns the CAP.
    pub owned: bool,
    /// Whether a majority of voters answers.
    pub quorate: bool,
    /// Voters.
    pub voters: usize,
    /// Voters that answer.
    pub live_voters: usize,
}

/// A member.
#[derive(Clone, Debug)]
pub struct NodeFact {
    /// Its name.
    pub node: NodeName,
    /// Whether it answers.
    pub live: bool,
    /// Why its VM service does not work, or what part of it, where that is so; and whether it works at all.
    pub vm_service: Option<(Level, String)>,
    /// Whether its VM service lacks settings that are committed.
    pub settings_behind: bool,
    /// Its storage locations.
    pub rooms: Vec<RoomFact>,
}

/// A storage location.
#[derive(Clone, Debug)]
pub struct RoomFact {
    /// Its name.
    pub name: StorageName,
    /// Bytes free.
    pub free: u64,
    /// Bytes that replicas on their way there may still need.
    pub promised: u64,
    /// Bytes of the disks of the replicas there.
    pub held: u64,
    /// Why nothing can be stored there.
    pub fault: Option<String>,
}

/// One way between two nodes.
#[derive(Clone, Debug)]
pub struct LineFact {
    /// From which node.
    pub from: String,
    /// To which node.
    pub to: String,
    /// `control` or `data`.
    pub port: &'static str,
    /// The address, where it is known.
    pub address: String,
    /// The size of its packets, where one was measured; or why there is no way.
    pub outcome: Result<Option<u16>, String>,
}

impl Facts {
    /// How many things were looked at.
    pub fn checks(&self) -> u32 {
        let rooms: usize = self.nodes.iter().map(|node| node.rooms.len()).sum();
        let count = 3
            + 3 * self.nodes.len()
            + rooms
            + self.lines.len()
            + self.certificates.len()
            + self.clocks.len()
            + self.peers.len()
            + self.cap_address.as_ref().map_or(0, CapAddressFact::checks)
            + usize::from(self.rotation.is_some())
            + self.vms.len()
            + self.left_static.len()
            + self.twins.len()
            + self.rolled_back.len()
            + self.quarantined.len()
            + self.farewells.len()
            + self.unfinished.len();
        u32::try_from(count).unwrap_or(u32::MAX)
    }
}

/// Findings, being collected.
#[derive(Default)]
struct Findings(Vec<Finding>);

impl Findings {
    fn add(&mut self, level: Level, code: &str, about: &str, message: String, remedy: impl Into<String>) {
        let (code, about, remedy) = (code.to_owned(), about.to_owned(), remedy.into());
        self.0.push(Finding { level, code, about, message, remedy });
    }
}

/// What is wrong, the worst first, then by what and about whom.
pub fn findings(facts: &Facts) -> Vec<Finding> {
    let mut found = Findings::default();
    of_cluster(&facts.cluster, &mut found);
    for node in &facts.nodes {
        of_node(node, &mut found);
    }
    found.0.extend(facts.cap_address.iter().flat_map(cap_address_findings::findings));
    found.0.extend(facts.rotation.iter().flat_map(|fact| rotation_findings::findings(fact, facts.now)));
    found.0.extend(twins::findings(&facts.twins));
    found.0.extend(rollback::findings(&facts.rolled_back));
    found.0.extend(flapping::findings(&facts.quarantined));
    found.0.extend(farewell::findings(&facts.farewells));
    of_lines(&facts.lines, &mut found);
    for (whose, until) in &facts.certificates {
        of_certificate(whose, *until, facts.now, &mut found);
    }
    for (whose, ahead) in &facts.clocks {
        if let Some(ahead) = skewed(*ahead) {
            let (seconds, word) = (ahead.unsigned_abs() / 1000, if ahead < 0 { "behind" } else { "ahead of" });
            let message = format!("its clock is {seconds} s {word} this node's: times and ages of points mislead");
            found.add(Level::Warning, "clock_skew", whose, message, "set both clocks by NTP: timedatectl status");
        }
    }
    for (cap, confirmed) in &facts.peers {
        of_peer(cap, *confirmed, facts.now, &mut found);
    }
    for (name, details) in &facts.vms {
        for detail in details {
            let level = if detail.severity == Health::Critical { Level::Critical } else { Level::Warning };
            let remedy = format!("try first: {}", detail.command);
            found.add(level, &detail.code, name, detail.message.clone(), remedy);
        }
    }
    for (vm, adapter, family) in &facts.left_static {
        let message = format!("adapter '{adapter}' has a static {family} address at the primary, none for a failover");
        let remedy =
            format!("landfall network set '{vm}' --adapter '{adapter}' --{family} ADDRESS/BITS, or `network map`");
        found.add(Level::Warning, "static_adapter", vm, message, remedy);
    }
    for what in &facts.unfinished {
        let message = "it was not looked at: there was no answer in time".to_owned();
        found.add(Level::Warning, "no_answer", what, message, "give more time: landfall doctor --timeout 30s");
    }
    found.0.sort_by(|a, b| (std::cmp::Reverse(a.level), a).cmp(&(std::cmp::Reverse(b.level), b)));
    found.0
}

fn of_cluster(cluster: &ClusterFact, found: &mut Findings) {
    let ClusterFact { cap, owned, quorate, voters, live_voters } = cluster;
    if !quorate {
        let message = format!("{live_voters} of {voters} voters answer, which is no majority: nothing can be changed");
        let remedy = "start the agents that are down: `landfall node list` names them";
        found.add(Level::Critical, "no_quorum", cap, message, remedy);
    } else if !owned {
        let message = "nobody owns the CAP: primaries get no answer".to_owned();
        let remedy = "wait for an election of some seconds, then see `landfall broker status` and the agents' logs";
        found.add(Level::Critical, "no_owner", cap, message, remedy);
    } else if *live_voters < *voters && (live_voters - 1) * 2 <= *voters {
        let message = format!("{live_voters} of {voters} voters answer: the next loss ends the majority");
        let remedy = "start the agents that are down: `landfall node list` names them";
        found.add(Level::Warning, "quorum_at_risk", cap, message, remedy);
    }
    if *voters == 2 {
        let message = "two voters: no loss of either can be survived".to_owned();
        let remedy = "add a witness: landfall token create --witness";
        found.add(Level::Warning, "no_loss_survivable", cap, message, remedy);
    }
}

fn of_node(node: &NodeFact, found: &mut Findings) {
    let name = node.node.as_str();
    if !node.live {
        let message = "it does not answer the other nodes".to_owned();
        let remedy =
            format!("look at the machine, its agent and its network; gone for good: landfall node remove {name}");
        return found.add(Level::Critical, "node_down", name, message, remedy);
    }
    if let Some((level, why)) = &node.vm_service {
        let remedy = "start `landfall vm-service --config FILE` there, or look at its log and disks";
        found.add(*level, "vm_service", name, format!("its VM service {why}"), remedy);
    } else if node.settings_behind {
        let message = "its VM service has not applied the newest settings".to_owned();
        let remedy = "look at the log of its VM service; `landfall node list` shows the revision";
        found.add(Level::Warning, "settings_behind", name, message, remedy);
    }
    for RoomFact { name: storage, free, promised, held, fault } in &node.rooms {
        let about = format!("{name}:{storage}");
        if let Some(fault) = fault {
            let remedy = "look at the disk, and whether it is mounted";
            found.add(
                Level::Critical,
                "storage_fault",
                &about,
                format!("nothing can be stored there: {fault}"),
                remedy,
            );
            continue;
        }
        let left = free.saturating_sub(*promised);
        let wanted = u128::from(*held) * ROOM_PERCENT / 100;
        if *free < promised.saturating_add(RESERVE_BYTES) {
            let message = format!("{free} bytes are free, and replicas on their way may need {promised}");
            let remedy = "make room, or move replicas: landfall vm move VM --to NODE";
            found.add(Level::Critical, "storage_full", &about, message, remedy);
        } else if u128::from(left) < wanted {
            let message =
                format!("{left} bytes are left beside what is promised, for points of replicas of {held} bytes");
            let remedy = "make room, keep fewer points, or move replicas: landfall vm move VM --to NODE";
            found.add(Level::Warning, "storage_low", &about, message, remedy);
        }
    }
}

fn of_lines(lines: &[LineFact], found: &mut Findings) {
    for LineFact { from, to, port, address, outcome } in lines {
        let about = format!("{from} -> {to}");
        match outcome {
            Err(why) => {
                let message = format!("{from} does not reach the {port} port of {to} at {address}: {why}");
                let remedy = format!(
                    "open UDP to {address} in firewalls and NAT both ways; what {to} announces is `advertise` in its file"
                );
                found.add(Level::Critical, &format!("unreachable_{port}"), &about, message, remedy);
            }
            Ok(Some(mtu)) if *mtu < MTU_LEAST => {
                let message = format!("packets to the {port} port of {to} stay at {mtu} bytes: transfers are slower");
                let remedy =
                    "let the path carry packets of 1500 bytes, or ICMP \"packet too big\" through its firewalls";
                found.add(Level::Warning, "small_mtu", &about, message, remedy);
            }
            Ok(_) => {}
        }
    }
}

fn of_certificate(whose: &str, until: UnixMillis, now: UnixMillis, found: &mut Findings) {
    let left = Duration::from_millis(until.0.saturating_sub(now.0));
    let level = match left {
        left if left < CERTIFICATE_NOW => Level::Critical,
        left if left < CERTIFICATE_SOON => Level::Warning,
        _ => return,
    };
    let message = format!(
        "its certificate is good for {} h more and was not renewed: then nobody talks to it",
        left.as_secs() / 3600
    );
    let remedy = "`landfall event tail` at that node says why; once it is over: `landfall token create` at another node \
                  (--witness for a witness), and `landfall cluster join TOKEN` at that one";
    found.add(level, "certificate_expires", whose, message, remedy);
}

fn of_peer(cap: &Fqdn, confirmed: UnixMillis, now: UnixMillis, found: &mut Findings) {
    let age = Duration::from_millis(now.0.saturating_sub(confirmed.0));
    let level = match age {
        age if age > LIST_LIFETIME => Level::Critical,
        age if age > LIST_LATE => Level::Warning,
        _ => return,
    };
    let message = format!(
        "its member list was last confirmed {} h ago; after 24 h its nodes are not served",
        age.as_secs() / 3600
    );
    let remedy = "see that the agents of both clusters reach each other's control addresses: `landfall peer list`";
    found.add(level, "peer_list_old", cap.as_str(), message, remedy);
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: u64 = 24 * 3_600_000;
    const NOW: UnixMillis = UnixMillis(1000 * DAY);

    fn node(name: &str) -> NodeFact {
        let room =
            RoomFact { name: "default".parse().unwrap(), free: 1 << 40, promised: 0, held: 1 << 40, fault: None };
        NodeFact {
            node: name.parse().unwrap(),
            live: true,
            vm_service: None,
            settings_behind: false,
            rooms: vec![room],
        }
    }

    fn line(outcome: Result<Option<u16>, String>) -> LineFact {
        LineFact { from: "p1".into(), to: "r1".into(), port: "data", address: "10.0.0.11:7444".into(), outcome }
    }

    fn well() -> Facts {
        Facts {
            now: NOW,
            cluster: ClusterFact { cap: "r.contoso.com".into(), owned: true, quorate: true, voters: 3, live_voters: 3 },
            nodes: vec![node("r1"), node("r2")],
            lines: vec![line(Ok(Some(1452))), line(Ok(None))],
            certificates: vec![("r1".into(), UnixMillis(NOW.0 + 4 * DAY))],
            clocks: vec![("r2".into(), 9_000), ("r3".into(), -9_000)],
            peers: vec![("p.contoso.com".parse().unwrap(), UnixMillis(NOW.0 - DAY / 12))],
            vms: vec![("web".into(), Vec::new())],
            left_static: Vec::new(),
            rotation: None,
            cap_address: None,
            twins: Vec::new(),
            rolled_back: Vec::new(),
            quarantined: Vec::new(),
            farewells: Vec::new(),
            unfinished: Vec::new(),
        }
    }

    #[test]
    fn nothing_is_found_where_all_is_well() {
        assert_eq!(findings(&well()), []);
        assert!(well().checks() > 10);
        let alone = ClusterFact { voters: 1, live_voters: 1, ..well().cluster };
        assert_eq!(findings(&Facts { cluster: alone, ..well() }), [], "a standalone server is no fault");
    }

    /// One thing made wrong, and the one finding that it gives.
    fn one(spoil: impl FnOnce(&mut Facts)) -> (Level, String, String) {
        let mut facts = well();
        spoil(&mut facts);
        let found = findings(&facts);
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(!found[0].remedy.is_empty() && !found[0].about.is_empty() && !found[0].message.is_empty());
        (found[0].level, found[0].code.clone(), found[0].message.clone())
    }

    type Spoil = Box<dyn FnOnce(&mut Facts)>;

    #[test]
    fn each_fault_is_one_finding_with_its_level() {
        use Level::{Critical, Warning};
        let detail = |severity| HealthDetail {
            code: "point_late".into(),
            severity,
            message: "late".into(),
            command: "landfall vm show web".into(),
        };
        let spoils: Vec<(Level, &str, Spoil)> = vec![
            (Critical, "no_quorum", Box::new(|f| (f.cluster.quorate, f.cluster.live_voters) = (false, 1))),
            (Critical, "no_owner", Box::new(|f| f.cluster.owned = false)),
            (Warning, "quorum_at_risk", Box::new(|f| f.cluster.live_voters = 2)),
            (Warning, "no_loss_survivable", Box::new(|f| (f.cluster.voters, f.cluster.live_voters) = (2, 2))),
            (
                Critical,
                "identity_twice",
                Box::new(|f| {
                    f.twins.push(("r1".into(), Twin { who: "r2".into(), addresses: vec!["a".into(), "b".into()] }));
                }),
            ),
            (
                Critical,
                "rolled_back",
                Box::new(|f| {
                    f.rolled_back.push(("r2".parse().unwrap(), Loss { kept: Default::default(), had: None }));
                }),
            ),
            (Critical, "node_down", Box::new(|f| f.nodes[1].live = false)),
            (Critical, "vm_service", Box::new(|f| f.nodes[1].vm_service = Some((Critical, "is stopped".into())))),
            (Warning, "settings_behind", Box::new(|f| f.nodes[1].settings_behind = true)),
            (Critical, "storage_fault", Box::new(|f| f.nodes[0].rooms[0].fault = Some("hung".into()))),
            (Critical, "storage_full", Box::new(|f| f.nodes[0].rooms[0].promised = 1 << 40)),
            (Warning, "storage_low", Box::new(|f| f.nodes[0].rooms[0].free = 99 << 30)),
            (Critical, "unreachable_data", Box::new(|f| f.lines[0].outcome = Err("silent".into()))),
            (Warning, "small_mtu", Box::new(|f| f.lines[0].outcome = Ok(Some(1200)))),
            (Warning, "certificate_expires", Box::new(|f| f.certificates[0].1.0 = NOW.0 + 2 * DAY)),
            (Critical, "certificate_expires", Box::new(|f| f.certificates[0].1.0 = NOW.0 - DAY)),
            (Warning, "clock_skew", Box::new(|f| f.clocks[0].1 = -10_001)),
            (Warning, "peer_list_old", Box::new(|f| f.peers[0].1.0 = NOW.0 - DAY / 8)),
            (Critical, "peer_list_old", Box::new(|f| f.peers[0].1.0 = NOW.0 - DAY - 1)),
            (Warning, "point_late", Box::new(move |f| f.vms[0].1 = vec![detail(Health::Warning)])),
            (
                Warning,
                "static_adapter",
                Box::new(|f| f.left_static = vec![("web".into(), "eth0".into(), Family::Ipv6)]),
            ),
            (Warning, "no_answer", Box::new(|f| f.unfinished = vec!["r9".into()])),
        ];
        for (level, code, spoil) in spoils {
            let (found, word, message) = one(spoil);
            assert_eq!((found, word.as_str()), (level, code), "{message}");
        }
    }

    #[test]
    fn the_worst_comes_first() {
        let mut facts = well();
        facts.unfinished = vec!["a".into()];
        facts.nodes[1].live = false;
        facts.clocks[0].1 = 20_000;
        let codes: Vec<String> = findings(&facts).into_iter().map(|finding| finding.code).collect();
        assert_eq!(codes, ["node_down", "clock_skew", "no_answer"]);
    }
}
