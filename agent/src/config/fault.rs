//! What is wrong in a file that a person wrote: every fault, each with the line it is on.

use std::fmt;
use std::path::PathBuf;

use landfall_proto::{Class, Refusal};

/// One fault of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The line, counted from 1.
    pub line: usize,
    /// What is wrong there, and what would be right.
    pub refusal: Refusal,
}

/// Every fault of one file, in the order of its lines. Never empty where it is returned as an error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Faults {
    /// The file.
    pub file: PathBuf,
    /// What is wrong in it.
    pub faults: Vec<Fault>,
}

impl Faults {
    /// The faults of `file`, sorted by line.
    pub fn new(file: impl Into<PathBuf>, mut faults: Vec<Fault>) -> Self {
        faults.sort_by_key(|fault| fault.line);
        Self { file: file.into(), faults }
    }
}

/// One line a fault: `file:line: field: what is wrong; what would be right`.
impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, fault) in self.faults.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{}:{}: {}", self.file.display(), fault.line, fault.refusal)?;
        }
        Ok(())
    }
}

impl std::error::Error for Faults {}

/// One refusal that carries all faults in its message; field and remedy are those of the first.
impl From<Faults> for Refusal {
    fn from(faults: Faults) -> Self {
        let message = faults
            .faults
            .iter()
            .map(|fault| format!("{}:{}: {}", faults.file.display(), fault.line, fault.refusal.message))
            .collect::<Vec<_>>()
            .join("\n");
        let mut refusal = Self::new(Class::Usage, "invalid_file", message);
        if let Some(first) = faults.faults.into_iter().next() {
            refusal.field = first.refusal.field;
            refusal.remedy = first.refusal.remedy;
        }
        refusal
    }
}
