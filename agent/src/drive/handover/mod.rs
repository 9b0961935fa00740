//! Copying a replica from its holder to another node of the cluster, files and all: to hold it there, or to have one more
//! copy of it.
//!
//! The committed state says that this node is to copy the replica; it then does so and checks every point, while the
//! holder goes on taking change sets. What it has of the same points already is not copied. Then the holder takes nothing
//! new, this node copies and checks what came meanwhile, and says that it is complete. It is the holder that commits: that
//! the other node has every acknowledged byte, and for a hand-over then that it is the holder (R13). As long as the holder
//! does not know what became of a hand-over it acknowledges nothing; of a node that is to join the in-sync set it waits
//! for that node like for a member ([`Pending`](crate::drive::copies::Pending)). So nothing can be acknowledged that the other node lacks.

mod give;
mod take;

use std::collections::BTreeMap;
use std::time::Duration;

use landfall_proto::id::{MemberId, Position, VmId};
use landfall_proto::model::{Command, Replica};
use landfall_proto::{Class, Refusal};
use tokio::time::sleep;

pub use self::give::{Asked, announce, give};
use crate::drive::events::Happening;
use crate::drive::node::Node;
use crate::drive::replica::{Import, leftover};
use crate::drive::replicas::Replicas;
use crate::drive::send::capture::blocking;

/// How often hand-overs are looked for without being told of a change.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);

/// How long the other side may take to open, answer or ask: reading 512 KiB from a busy disk fits.
const STALL: Duration = Duration::from_secs(30);

/// Tries of one hand-over before it is given up: more means a fault that an operator must see.
const TRIES_MAX: u32 = 3;

/// The pause between two tries.
const RETRY_PAUSE: Duration = Duration::from_millis(500);

/// What a node copies a replica for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// To hold it: somebody waits for that.
    Hold,
    /// To have one more copy of it, which may take as long as it takes.
    Join,
}

impl Purpose {
    /// Whether `replica` is to be copied to `me` for this.
    fn wants(self, replica: &Replica, me: MemberId) -> bool {
        let handed = replica.handover.as_ref().is_some_and(|handover| handover.to == me);
        match self {
            Self::Hold => handed && replica.holder != me,
            Self::Join => replica.joiner.is_some_and(|joiner| joiner.member == me),
        }
    }
}

/// Copies the replicas that are to be copied to this node, until the task is dropped. One that is to be held here does not
/// wait for one that is to be one more copy.
pub async fn run(node: Node, replicas: Replicas) {
    clear(&node).await;
    let (hold, join) =
        (Box::pin(copy_all(&node, &replicas, Purpose::Hold)), Box::pin(copy_all(&node, &replicas, Purpose::Join)));
    tokio::join!(hold, join);
}

/// Removes what copies to this node have left that broke off when the agent ended.
async fn clear(node: &Node) {
    for location in &node.config.storage {
        let path = location.path.clone();
        if let Err(refusal) = blocking(move || leftover::clear(&path, leftover::IMPORT)).await {
            tracing::warn!(location = %location.name, %refusal, "a copy that broke off is not removed");
        }
    }
}

/// Copies the replicas that are to be copied to this node for one purpose, one after the other, until the task is dropped.
async fn copy_all(node: &Node, replicas: &Replicas, purpose: Purpose) {
    let mut look = node.rhythm(LOOK_INTERVAL);
    let mut state = node.consensus.watch_state();
    let mut failures: BTreeMap<(VmId, Position), Tries> = BTreeMap::new();
    loop {
        tokio::select! {
            _ = look.tick() => {}
            changed = state.changed() => if changed.is_err() { return },
        }
        let now = node.state();
        // The one with the fewest failures: one that cannot be copied must not keep others from it.
        let tried = |replica: &&Replica| {
            let begun = replica.copying_since(node.me).unwrap_or_default();
            failures.get(&(replica.vm.id, begun)).map_or(0, |tries| tries.count)
        };
        let wanted = now.replicas.values().filter(|replica| purpose.wants(replica, node.me)).min_by_key(tried);
        let Some(replica) = wanted.cloned() else {
            failures.clear();
            continue;
        };
        let begun = replica.copying_since(node.me).unwrap_or_default();
        let before = failures.get(&(replica.vm.id, begun)).copied().unwrap_or_default();
        let copying = take::Copying { node, replicas, replica: &replica, purpose, anew: before.anew };
        if let Err(refusal) = Box::pin(copying.take()).await {
            discard(replicas, &replica).await;
            let (count, anew) = (before.count + 1, before.anew || blames_files(&refusal));
            failures.insert((replica.vm.id, begun), Tries { count, anew });
            tracing::warn!(vm = %replica.vm.name, %refusal, tries = count, "copying a replica here failed");
            if count >= TRIES_MAX {
                give_up(node, &replica, purpose, &refusal).await;
            }
            sleep(RETRY_PAUSE).await;
        }
    }
}

/// The tries of one copy that failed.
#[derive(Clone, Copy, Debug, Default)]
struct Tries {
    count: u32,
    /// The next one takes nothing over from what is here.
    anew: bool,
}

/// Whether a try may have failed for the files that were here before: then the next one goes without them.
fn blames_files(refusal: &Refusal) -> bool {
    let passing = ["replica_in_use", "stale_epoch", "not_listed", "staged_pending"];
    refusal.class != Class::Unreachable && !passing.contains(&refusal.code.as_str())
}

/// Removes what a try has copied: the next one begins again, and there may be none.
async fn discard(replicas: &Replicas, replica: &Replica) {
    let (Ok(folder), vm) = (replicas.folder(&replica.storage, replica.vm.id), replica.vm.id) else { return };
    if let Err(refusal) = blocking(move || Import::discard(&folder, vm)).await {
        tracing::warn!(%vm, %refusal, "a copy that broke off is not removed");
    }
}

async fn give_up(node: &Node, replica: &Replica, purpose: Purpose, refusal: &Refusal) {
    let (vm, epoch, name) = (replica.vm.id, replica.epoch, &replica.vm.name);
    let (command, kind, what) = match purpose {
        Purpose::Hold => (Command::Handover { vm, epoch, to: None }, "handover_given_up", "hand-over"),
        Purpose::Join => (Command::Leave { vm, epoch, member: node.me }, "copy_given_up", "copy"),
    };
    if node.proposer.commit(command).await.is_ok() {
        let told = format!("the {what} of {name} to this node was given up: {refusal}");
        node.events.record(Happening::warning(kind, told).vm(vm).node(&node.name));
    }
}
