//! The JSON of a doctor's report.

use serde_json::json;

use super::{golden, samples};

#[test]
fn a_report_and_its_findings() {
    golden(
        &samples::doctor_report(),
        &json!({
            "node": "r1", "at": "2025-11-22T18:42:41.250Z", "level": "critical", "checks": 31,
            "findings": [{
                "level": "critical", "code": "unreachable_data", "about": "p1.contoso.com -> r1",
                "message": "p1.contoso.com does not reach the data port of r1 at 10.0.0.11:7444: no answer",
                "remedy": "open UDP to 10.0.0.11:7444 in firewalls and NAT both ways",
            }],
        }),
    );
}
