//! A report of `doctor`.

use super::{at, name};
use crate::surface::doctor::*;

pub fn doctor_report() -> DoctorReport {
    DoctorReport {
        node: name("r1"),
        at: at(),
        level: Level::Critical,
        checks: 31,
        findings: vec![Finding {
            level: Level::Critical,
            code: "unreachable_data".to_owned(),
            about: "p1.contoso.com -> r1".to_owned(),
            message: "p1.contoso.com does not reach the data port of r1 at 10.0.0.11:7444: no answer".to_owned(),
            remedy: "open UDP to 10.0.0.11:7444 in firewalls and NAT both ways".to_owned(),
        }],
    }
}
