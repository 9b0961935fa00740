//! Why a store does not open, and what to do about it.

use std::path::PathBuf;

use landfall_proto::id::NodeName;
use landfall_proto::{Class, Refusal};

use crate::durable_sled::FORMAT;

/// Why a store could not be opened. Nothing in the folder was changed by us.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it open.
    #[error("{} is open in another process", .folder.display())]
    InUse {
        /// The folder.
        folder: PathBuf,
    },
    /// It belongs to a node of another name.
    #[error("{} holds the data of node {owner}, this is {node}", .folder.display())]
    OtherNode {
        /// The folder.
        folder: PathBuf,
        /// Whose it is.
        owner: String,
        /// Who wanted it.
        node: NodeName,
    },
    /// Its layout is one that this version does not know.
    #[error("{} has store format {found}, this version knows format {FORMAT} only", .folder.display())]
    OtherFormat {
        /// The folder.
        folder: PathBuf,
        /// What it has.
        found: String,
    },
    /// There are files in the folder, but no store.
    #[error("{} is not empty and holds no store", .folder.display())]
    NotAStore {
        /// The folder.
        folder: PathBuf,
    },
    /// It does not open: a disk fault, a full disk, or damage.
    #[error("the store in {} does not open: {why}", .folder.display())]
    Damaged {
        /// The folder.
        folder: PathBuf,
        /// This node.
        node: NodeName,
        /// What went wrong.
        why: String,
    },
}

impl OpenError {
    /// The error as it is shown, with what to do.
    pub fn refusal(&self) -> Refusal {
        let refusal =
            |code, remedy: String| Refusal::new(Class::Failed, code, self.to_string()).field("data_dir").remedy(remedy);
        match self {
            Self::InUse { .. } => {
                refusal("store_in_use", "stop the other agent, or give this one its own data_dir".into())
            }
            Self::OtherNode { owner, .. } => {
                refusal("store_of_other_node", format!("give this node its own data_dir, or name it {owner} again"))
            }
            Self::OtherFormat { .. } => refusal("store_format", "run the version of landfall that wrote it".into()),
            Self::NotAStore { .. } => refusal("not_a_store", "give an empty folder".into()),
            Self::Damaged { folder, node, .. } => refusal(
                "store_damaged",
                format!(
                    "if the disk is full, make room and start again; else set it aside with `mv {0} {0}.damaged`, then \
                     run `landfall token create --replaces {node}` on another node and `landfall cluster join TOKEN` here",
                    folder.display()
                ),
            ),
        }
    }
}
