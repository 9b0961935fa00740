//! `docs/settings.md`, written from the declarations.

use std::fmt::Write;

use super::declaration::DECLARATIONS;

const HEAD: &str = "\
# Settings

One set of settings holds for a whole cluster: set it at any node, and every node has it, also one that joins later.

    landfall settings show
    landfall settings set replication_enabled=true --wait
    landfall settings set --expect 41 monitoring_interval=6h placement=random
    landfall settings history
    landfall settings watch

Several settings of one command change together or not at all. `--expect REV` refuses the change if the settings have
changed since revision REV. `--wait` returns once every live node's VM service has applied the change. An empty value
(`KEY=`) returns a setting to its default.

Times are whole numbers with a unit: `s`, `m`, `h` or `d`.

<!-- Written from the declarations in store/src/settings/declaration.rs; a test fails when the two differ. -->

| setting | values | default | in Hyper-V |
|---|---|---|---|
";

const TAIL: &str = "
## What is not a setting of the cluster

| in Hyper-V | in Landfall |
|---|---|
| CertificateAuthenticationPort, KerberosAuthenticationPort | `listen`, `data_listen` and `advertise` in the node's file: every node has its own address, and clients learn all of them |
| CertificateAuthenticationPortMapping, KerberosAuthenticationPortMapping | not needed: a node announces its own ports, so nothing maps a node to a port |
| CertificateThumbprint | the cluster's CA: `cluster init` makes it, each node gets its certificate when it joins |
| AllowedPrimaryServer, ReplicaStorageLocation, TrustGroup | the authorization table: `landfall authorization add` |
| DisableCertRevocationCheck | not needed: a node that is removed is cut off by the member list at once |
";

/// The page as it should be on disk.
pub fn page() -> String {
    let mut page = HEAD.to_owned();
    for declaration in DECLARATIONS {
        let default = declaration.default.map_or("none".to_owned(), |default| format!("`{default}`"));
        let hyper_v = if declaration.hyper_v.is_empty() { "-" } else { declaration.hyper_v };
        // Writing to a String cannot fail.
        let _ = writeln!(page, "| `{}` | {} | {default} | {hyper_v} |", declaration.key, declaration.kind.allowed());
    }
    for declaration in DECLARATIONS {
        let _ = write!(page, "\n## {}\n\n{}\n", declaration.key, declaration.prose);
    }
    page.push_str(TAIL);
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Set to anything, makes the test write the page instead of comparing it.
    const WRITE: &str = "LANDFALL_WRITE_DOCS";

    #[test]
    fn the_settings_page_is_current() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/settings.md");
        if std::env::var_os(WRITE).is_some() {
            std::fs::write(path, page()).unwrap();
        }
        let on_disk = std::fs::read_to_string(path).unwrap_or_default();
        assert!(on_disk == page(), "docs/settings.md is not what the declarations say: run this test with {WRITE}=1");
    }
}
