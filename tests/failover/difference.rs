//! What differs between two points.

use std::fs;

use crate::stage::{WORK, points, replicated};

#[test]
fn exactly_the_blocks_that_differ_between_two_points_are_told() {
    let (r, p, _) = replicated(&["r1", "r2"]);
    let r1 = r.first();
    // Nothing is merged away meanwhile.
    p.first().cli(["vm", "pause", WORK]);
    let listed = points(r1).unwrap();
    let [.., from, to] = listed.as_slice() else { panic!("{listed:?}") };
    let (from, to) = (from.to_string(), to.to_string());
    let [before, after] = [&from, &to].map(|point| {
        let folder = r.folder().join(format!("at-{point}"));
        r1.cli(["point", "export", WORK, "--point", point, &folder.display().to_string()]);
        ["vda", "vdb"].map(|disk| fs::read(folder.join(format!("{disk}.raw"))).unwrap())
    });
    let found = r1.cli(["point", "diff", WORK, &from, &to, "--limit", "2000"]);
    for (at, disk) in ["vda", "vdb"].iter().enumerate() {
        let told = &found["disks"][at];
        let blocks = before[at].chunks(4096).zip(after[at].chunks(4096)).enumerate();
        let differing: Vec<u64> = blocks.filter(|(_, (a, b))| a != b).map(|(block, _)| block as u64 * 4096).collect();
        let ranges = told["ranges"].as_array().unwrap();
        let listed: Vec<u64> = ranges
            .iter()
            .flat_map(|range| {
                let (start, length) = (range["offset"].as_u64().unwrap(), range["bytes"].as_u64().unwrap());
                (start..start + length).step_by(4096)
            })
            .collect();
        assert_eq!((told["target"].as_str(), listed), (Some(*disk), differing), "{told}");
    }
    let bounded = r1.cli(["point", "diff", WORK, &from, &to, "--limit", "0"]);
    let counted = |found: &serde_json::Value| found["disks"][0]["differing_bytes"].clone();
    assert_eq!(counted(&bounded), counted(&found));
    assert_eq!(
        bounded["disks"][0]["left_out"].as_u64(),
        found["disks"][0]["ranges"].as_array().map(|all| all.len() as u64)
    );

    let missing = r1.try_cli(["point", "diff", WORK, &from, "999999"]).unwrap_err();
    assert_eq!((missing.exit, missing.field.as_deref()), (4, Some("to")), "{missing}");
    let many = r1.try_cli(["point", "diff", WORK, &from, &to, "--limit", "100000"]).unwrap_err();
    assert_eq!((many.exit, many.field.as_deref()), (2, Some("limit")), "{many}");
    let elsewhere = p.first().try_cli(["point", "diff", WORK, &from, &to]).unwrap_err();
    assert_eq!((elsewhere.exit, elsewhere.code.as_str()), (4, "no_replica"), "{elsewhere}");
    let unknown = r1.try_cli(["failover", "resolve", WORK, "--keep", "both", "--yes"]).unwrap_err();
    assert!(unknown.exit == 2 && unknown.field.as_ref().is_some_and(|field| field.contains("--keep")), "{unknown}");
    let alone = r1.try_cli(["failover", "resolve", WORK, "--keep", "here", "--yes"]).unwrap_err();
    assert_eq!((alone.exit, alone.code.as_str()), (4, "no_branch"), "{alone}");
}
