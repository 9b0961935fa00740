//! `landfall doctor`.

use clap::Args;
use hyper::Method;

use crate::cli::amount::{query, timeout};
use crate::cli::session::{Ended, Session};
use crate::cli::table::{Shown, Table, word};
use crate::surface::doctor::{DoctorReport, Level};
use crate::surface::wait::WaitSeconds;

/// As long as the agent looks where nothing is asked for.
const DEFAULT_SECONDS: u64 = 10;

#[derive(Debug, Args)]
pub(in crate::cli) struct Doctor {
    /// How long to look at most (s, m, h). Default: 10s. Example: --timeout 30s
    #[arg(long, value_name = "DURATION", value_parser = timeout)]
    timeout: Option<WaitSeconds>,
}

pub(in crate::cli) async fn run(asked: Doctor, session: &mut Session<'_>) -> Result<(), Ended> {
    let wait = asked.timeout.or_else(|| WaitSeconds::try_from(DEFAULT_SECONDS).ok());
    let path = format!("/v1/doctor{}", query(wait));
    let answer = session.ask(Method::GET, &path, None::<&()>, wait, "looking").await?;
    session.print::<DoctorReport>(&answer)?;
    match answer.shape::<DoctorReport>()?.level {
        Level::Ok => Ok(()),
        Level::Warning | Level::Critical => Err(Ended::Found),
    }
}

impl Shown for DoctorReport {
    fn text(&self) -> String {
        if self.findings.is_empty() {
            return format!("ok: nothing is wrong as seen from {}, after {} checks\n", self.node, self.checks);
        }
        let mut table = Table::new(["LEVEL", "ABOUT", "FINDING", "REMEDY"]);
        for finding in &self.findings {
            table.row([
                word(&finding.level),
                finding.about.clone(),
                format!("{}: {}", finding.code, finding.message),
                finding.remedy.clone(),
            ]);
        }
        table.text()
    }
}
