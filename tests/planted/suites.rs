//! The test programs of the workspace, as cargo has built them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// A test program: its package and its target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Suite {
    /// The tests within `proto`, and its integration tests.
    Proto,
    Wire,
    Store,
    Agent,
    Simulation,
}

impl Suite {
    fn target(self) -> &'static str {
        match self {
            Self::Proto => "landfall_proto",
            Self::Wire => "wire",
            Self::Store => "landfall_store",
            Self::Agent => "landfall_agent",
            Self::Simulation => "simulation",
        }
    }

    const ALL: [Self; 5] = [Self::Proto, Self::Wire, Self::Store, Self::Agent, Self::Simulation];
}

/// A built one: the program, and the folder that its tests run in.
#[derive(Clone, Debug)]
pub struct Program {
    pub path: PathBuf,
    pub folder: PathBuf,
}

/// Where each is.
#[derive(Debug)]
pub struct Suites(BTreeMap<Suite, Program>);

impl Suites {
    /// Asks cargo where the programs are, and has it build what is missing: nothing, where the whole workspace is tested.
    pub fn build() -> Self {
        let own = std::env::current_exe().unwrap();
        // target/<profile>/deps/<this program>
        let profile = own.parent().and_then(Path::parent).expect("a test program lies in its target folder");
        let mut cargo = Command::new(env!("CARGO"));
        cargo.current_dir(env!("CARGO_MANIFEST_DIR")).arg("test");
        cargo.args(["--workspace", "--locked", "--no-run", "--message-format=json", "--lib"]);
        cargo.args(["--test", "wire", "--test", "simulation"]).arg("--target-dir").arg(profile.parent().unwrap());
        if profile.ends_with("release") {
            cargo.arg("--release");
        }
        // What cargo tells the tests of their own package would look like a change to the build scripts of others.
        let told = ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_", "CARGO_CRATE_", "CARGO_PRIMARY_", "OUT_DIR"];
        for (name, _) in std::env::vars_os() {
            if told.iter().any(|prefix| name.to_string_lossy().starts_with(prefix)) {
                cargo.env_remove(name);
            }
        }
        let built = cargo.output().unwrap();
        assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
        let lines = String::from_utf8_lossy(&built.stdout).into_owned();
        let artifacts: Vec<Value> = lines.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        let program = |suite: Suite| {
            let of =
                |artifact: &&Value| artifact["target"]["name"] == suite.target() && artifact["executable"].is_string();
            let artifact = artifacts.iter().find(of).unwrap_or_else(|| panic!("cargo names no program for {suite:?}"));
            let text = |value: &Value| PathBuf::from(value.as_str().unwrap());
            let manifest = text(&artifact["manifest_path"]);
            (suite, Program { path: text(&artifact["executable"]), folder: manifest.parent().unwrap().to_owned() })
        };
        Self(Suite::ALL.map(program).into())
    }

    /// The program of `suite`.
    pub fn program(&self, suite: Suite) -> &Program {
        &self.0[&suite]
    }
}
