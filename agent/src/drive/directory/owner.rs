//! Which node a VM path belongs to: a lock file in it, locked while the service of that node runs.
//!
//! The name stays in the file: a path on storage that two nodes see must not change hands because the lock does not
//! reach the other machine, or because its service happens to be down.

use std::fs::File;
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};

use landfall_proto::id::NodeName;
use landfall_proto::refusal::quoted;
use landfall_proto::{Class, Refusal};
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

/// The folder within the VM path in which the service keeps what is its own.
pub(super) const PRIVATE: &str = ".landfall";
/// The largest lock file that is read.
const OWNER_MAX: u64 = 4096;

/// What the lock file says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Owner {
    node: NodeName,
    pid: u32,
}

/// The claim on a VM path, for as long as this lives.
#[derive(Debug)]
pub(super) struct Claim {
    _file: File,
}

/// The lock file of a VM path.
fn lock_file(path: &Path) -> PathBuf {
    path.join(PRIVATE).join("lock")
}

impl Claim {
    /// Claims `path` for `node`; refused where another service has it, or where it belongs to another node.
    pub(super) fn take(path: &Path, node: &NodeName) -> Result<Self, Refusal> {
        let name = lock_file(path);
        let failed = |error: std::io::Error| {
            Refusal::new(Class::Failed, "vm_path_unusable", format!("{}: {error}", name.display()))
                .field("vm_service.path")
                .remedy("make the folder writable for the VM service")
        };
        let mut file =
            File::options().read(true).write(true).create(true).truncate(false).open(&name).map_err(failed)?;
        let mut text = String::new();
        (&file).take(OWNER_MAX).read_to_string(&mut text).map_err(failed)?;
        let owner: Option<Owner> = serde_json::from_str(&text).ok();
        if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
            let who = owner.map_or_else(
                || "another VM service".to_owned(),
                |owner| format!("the VM service of node {} (process {})", quoted(owner.node.as_str()), owner.pid),
            );
            return Err(Refusal::new(Class::Refused, "vm_path_taken", format!("{} belongs to {who}", path.display()))
                .field("vm_service.path")
                .remedy("give each node a path of its own, or stop that VM service"));
        }
        if let Some(owner) = owner
            && owner.node != *node
        {
            let what = format!(
                "{} belongs to node {}, not to {}",
                path.display(),
                quoted(owner.node.as_str()),
                quoted(node.as_str())
            );
            return Err(Refusal::new(Class::Refused, "vm_path_taken", what).field("vm_service.path").remedy(format!(
                "give each node a path of its own; if that node is gone for good, remove {}",
                name.display()
            )));
        }
        let text = serde_json::to_string(&Owner { node: node.clone(), pid: std::process::id() })
            .map_err(|error| failed(error.into()))?;
        // Written in place: a rename would leave the lock on a file that is no longer there.
        file.rewind().map_err(failed)?;
        file.set_len(0).map_err(failed)?;
        file.write_all(text.as_bytes()).map_err(failed)?;
        file.sync_all().map_err(failed)?;
        Ok(Self { _file: file })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_belongs_to_one_node_and_one_service() {
        let path = tempfile::tempdir().unwrap();
        std::fs::create_dir(path.path().join(PRIVATE)).unwrap();
        let (p1, p2): (NodeName, NodeName) = ("p1".parse().unwrap(), "p2".parse().unwrap());
        let held = Claim::take(path.path(), &p1).unwrap();
        for node in [&p1, &p2] {
            let refusal = Claim::take(path.path(), node).unwrap_err();
            assert_eq!(refusal.code, "vm_path_taken");
            assert!(refusal.message.contains("node 'p1'") && refusal.message.contains("process"), "{refusal}");
        }
        drop(held);
        let refusal = Claim::take(path.path(), &p2).unwrap_err();
        assert!(refusal.message.contains("'p1'") && refusal.remedy.unwrap().contains("lock"));
        Claim::take(path.path(), &p1).unwrap();
    }
}
