//! Two clusters that know each other.

use super::cluster::Cluster;

/// Pairs the cluster of primaries `p` with the cluster of replicas `r`, as the quick start does by hand: an invitation at
/// `r`, accepted at `p`, and at `r` an authorization of `p`'s broker for the storage location `default`.
///
/// # Panics
///
/// Where one of the calls fails.
pub fn pair(p: &Cluster, r: &Cluster) {
    let invited = r.first().cli(["peer", "invite"]);
    let code = invited["code"].as_str().unwrap_or_else(|| panic!("no code in {invited}"));
    p.first().cli(["peer", "accept", code]);
    r.first().cli(["authorization", "add", p.cap(), "--storage", "default"]);
}
