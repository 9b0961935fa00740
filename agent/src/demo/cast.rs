//! Everybody who takes part: the nodes of both clusters, in a fresh folder of their own.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use landfall_proto::Refusal;

use super::company::Company;
use super::node::{Node, Part, free_ports};
use super::pace::Pace;
use super::stage::Stage;
use super::until::{io, not_so};

/// The node whose file says that it does not tell primaries where a replica went.
pub const SILENT: &str = "r2";

/// The nodes and what keeps them.
#[derive(Debug)]
pub struct Cast {
    folder: PathBuf,
    company: Company,
    nodes: BTreeMap<String, Node>,
}

impl Cast {
    /// Makes the folder, and in it a folder and a file for each node. Starts nothing.
    pub fn assemble(pace: &Pace) -> Result<Self, Refusal> {
        let id = uuid::Uuid::new_v4().simple().to_string();
        let folder = std::env::temp_dir().join(format!("landfall-demo-{}", &id[..8]));
        fs::DirBuilder::new().mode(0o700).create(&folder).map_err(|error| io(&folder, &error))?;
        let mut cast = Self { company: Company::of(&folder), nodes: BTreeMap::new(), folder };
        let program = std::env::current_exe().map_err(|error| io(Path::new("/proc/self/exe"), &error))?;
        let sends = Part { interval_ms: Some(pace.interval_ms), ..Part::default() };
        let parts = [
            ("p1", sends.clone()),
            ("p2", sends.clone()),
            // It has many small VMs, which need no point but the first.
            ("p3", Part::default()),
            ("p4", sends),
            ("r1", Part::default()),
            (SILENT, Part { drop_moved_notices: true, ..Part::default() }),
            ("rw", Part { witness: true, ..Part::default() }),
        ];
        for ((name, part), ports) in parts.iter().zip(free_ports(parts.len())?) {
            let node = Node::create(&cast.folder, &program, name, part, ports)?;
            cast.nodes.insert((*name).to_owned(), node);
        }
        Ok(cast)
    }

    /// The node called `name`, as the demo or an agent calls it.
    pub fn at(&self, name: &str) -> Result<&Node, Refusal> {
        self.nodes.get(name).ok_or_else(|| not_so(format!("nobody here is called {name}")))
    }

    /// The folder that holds everything.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Tells the ends of all logs.
    pub fn tell_logs(&self, stage: &Stage) {
        for (of, tail) in self.nodes.values().flat_map(Node::log_tails) {
            stage.log(&of, &tail);
        }
    }

    /// Ends every process and removes every file.
    pub fn dismiss(&self) -> Result<(), Refusal> {
        self.company.end()?;
        match fs::remove_dir_all(&self.folder) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(io(&self.folder, &error)),
            _ => Ok(()),
        }
    }
}

impl Drop for Cast {
    /// Also after a panic nothing stays behind; after [`Cast::dismiss`] there is nothing left to do.
    fn drop(&mut self) {
        let _ = self.dismiss();
    }
}
