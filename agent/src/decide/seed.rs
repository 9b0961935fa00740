//! What a failed-over guest is told of its addresses: the files of a cloud-init NoCloud seed.
//!
//! A guest applies them when their instance id is new to it, so each failover has an id of its own. A new id also makes
//! cloud-init do what it does on a first boot; the user data keeps it from all of that which would change the guest
//! beside its network.

use std::collections::BTreeSet;
use std::fmt::Write;

use landfall_proto::model::{Addresses, Family, PromotionId};

use crate::decide::network::AdapterPlan;

/// The label by which cloud-init knows the volume.
pub const LABEL: &str = "cidata";

/// The files, by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seed {
    /// `meta-data`: which instance this is.
    pub meta_data: String,
    /// `user-data`: what else is to be done.
    pub user_data: String,
    /// `network-config`, version 2.
    pub network_config: String,
}

impl Seed {
    /// Each file's name and content.
    pub fn files(&self) -> [(&'static str, &str); 3] {
        [("meta-data", &self.meta_data), ("user-data", &self.user_data), ("network-config", &self.network_config)]
    }
}

/// The longest label of a host name.
const LABEL_MAX: usize = 63;
/// The longest name that Linux takes for an interface.
const INTERFACE_MAX: usize = 15;

/// The seed of a guest: `id` is its failover's.
pub fn seed(id: PromotionId, vm: &str, adapters: &[AdapterPlan]) -> Seed {
    Seed {
        meta_data: format!("instance-id: \"iid-landfall-{id}\"\nlocal-hostname: \"{}\"\n", host_name(vm)),
        user_data: USER_DATA.to_owned(),
        network_config: network_config(adapters),
    }
}

/// The guest keeps its host keys, its name and its users.
const USER_DATA: &str = "#cloud-config
# Written by Landfall for one failover: only the network is to change.
ssh_deletekeys: false
preserve_hostname: true
users: []
";

/// The VM's name as a host name: what no label may have becomes a dash.
fn host_name(vm: &str) -> String {
    let letter = |letter: char| match letter.to_ascii_lowercase() {
        letter if letter.is_ascii_alphanumeric() => letter,
        _ => '-',
    };
    let name: String = vm.chars().map(letter).take(LABEL_MAX).collect();
    match name.trim_matches('-') {
        "" => "vm".to_owned(),
        name => name.to_owned(),
    }
}

/// Every adapter is in it, since cloud-init leaves one that is not without a configuration.
fn network_config(adapters: &[AdapterPlan]) -> String {
    let mut text = "version: 2\nethernets:\n".to_owned();
    if adapters.is_empty() {
        return "version: 2\n".to_owned();
    }
    for (name, plan) in interface_names(adapters).iter().zip(adapters) {
        let network = plan.brought_up().network;
        // Who is not known to have static addresses at the primary may have got them from a server there.
        let asks = !network.has(Family::Ipv4) && plan.adapter.network.is_empty();
        let Addresses { addresses, gateways, dns } = &network;
        // Writing to a String cannot fail.
        let _ = write!(
            text,
            "  \"{name}\":\n    match:\n      macaddress: \"{}\"\n    dhcp4: {asks}\n",
            plan.adapter.mac.to_ascii_lowercase(),
        );
        list(&mut text, "    ", "addresses", addresses);
        if !gateways.is_empty() {
            text.push_str("    routes:\n");
            for gateway in gateways {
                let to = if gateway.is_ipv4() { "0.0.0.0/0" } else { "::/0" };
                let _ = write!(text, "      - to: \"{to}\"\n        via: \"{gateway}\"\n");
            }
        }
        if !dns.is_empty() {
            text.push_str("    nameservers:\n");
            list(&mut text, "      ", "addresses", dns);
        }
    }
    text
}

fn list<T: std::fmt::Display>(text: &mut String, indent: &str, key: &str, values: &[T]) {
    if values.is_empty() {
        return;
    }
    let _ = writeln!(text, "{indent}{key}:");
    for value in values {
        let _ = writeln!(text, "{indent}  - \"{value}\"");
    }
}

/// The adapters' own names where Linux could have them, which older programs read them as; else made up.
fn interface_names(adapters: &[AdapterPlan]) -> Vec<String> {
    let fit = |name: &str| {
        let good = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
        (1..=INTERFACE_MAX).contains(&name.len()) && name.bytes().all(good) && name.as_bytes()[0].is_ascii_alphabetic()
    };
    let names = || adapters.iter().map(|plan| plan.adapter.name.as_str());
    let taken: BTreeSet<&str> = names().filter(|name| fit(name)).collect();
    let mut made = (0..).map(|number| format!("nic{number}")).filter(|name| !taken.contains(name.as_str()));
    names().filter_map(|name| if fit(name) { Some(name.to_owned()) } else { made.next() }).collect()
}

#[cfg(test)]
mod tests {
    use landfall_proto::model::{Adapter, AdapterKind};
    use yaml_rust2::{Yaml, YamlLoader};

    use super::*;
    use crate::decide::network::plan;

    fn adapter(name: &str, addresses: &[&str], gateways: &[&str], dns: &[&str]) -> Adapter {
        let network = Addresses {
            addresses: addresses.iter().map(|text| text.parse().unwrap()).collect(),
            gateways: gateways.iter().map(|text| text.parse().unwrap()).collect(),
            dns: dns.iter().map(|text| text.parse().unwrap()).collect(),
        };
        Adapter { name: name.into(), kind: AdapterKind::Synthetic, mac: "52:54:00:AA:bb:01".into(), network }
    }

    fn yaml(text: &str) -> Yaml {
        YamlLoader::load_from_str(text).unwrap_or_else(|error| panic!("{error}:\n{text}")).remove(0)
    }

    fn texts(yaml: &Yaml) -> Vec<&str> {
        yaml.as_vec().into_iter().flatten().map(|text| text.as_str().unwrap()).collect()
    }

    #[test]
    fn a_seed_is_yaml_that_says_what_the_adapters_have() {
        let adapters = [
            adapter("eth0", &["10.9.0.5/24", "fd00:9::5/64"], &["10.9.0.1", "fe80::1"], &["10.9.0.53", "fd00:9::53"]),
            adapter("a: \"b\" #1", &["fd00:9::6/64"], &[], &[]),
            adapter("nic0", &[], &[], &[]),
            adapter("eth9", &[], &[], &[]),
        ];
        let set = adapter("eth9", &["fd00:9::7/64"], &[], &[]).network;
        let plans = plan(&adapters, &[("eth9", &set)].into(), &[]);
        let seed = seed(PromotionId(0xabc), "Büro_7 \"x\"", &plans);
        let meta = yaml(&seed.meta_data);
        assert_eq!(meta["instance-id"].as_str(), Some("iid-landfall-00000000000000000000000000000abc"));
        assert_eq!(meta["local-hostname"].as_str(), Some("b-ro-7--x"));
        assert!(seed.user_data.starts_with("#cloud-config\n"));
        let user = yaml(&seed.user_data);
        assert_eq!((user["ssh_deletekeys"].as_bool(), user["preserve_hostname"].as_bool()), (Some(false), Some(true)));
        assert_eq!(user["users"].as_vec().map(Vec::len), Some(0));

        let config = yaml(&seed.network_config);
        assert_eq!(config["version"].as_i64(), Some(2));
        let nics = config["ethernets"].as_hash().unwrap();
        let names: Vec<_> = nics.keys().map(|name| name.as_str().unwrap()).collect();
        assert_eq!(names, ["eth0", "nic1", "nic0", "eth9"]);
        let nic = |name: &str| &config["ethernets"][name];
        let first = nic("eth0");
        assert_eq!(first["match"]["macaddress"].as_str(), Some("52:54:00:aa:bb:01"));
        assert_eq!(texts(&first["addresses"]), ["10.9.0.5/24", "fd00:9::5/64"]);
        assert_eq!(texts(&first["nameservers"]["addresses"]), ["10.9.0.53", "fd00:9::53"]);
        let routes: Vec<_> =
            first["routes"].as_vec().unwrap().iter().map(|route| (&route["to"], &route["via"])).collect();
        let text = |text: &str| Yaml::String(text.to_owned());
        assert_eq!(routes, [(&text("0.0.0.0/0"), &text("10.9.0.1")), (&text("::/0"), &text("fe80::1"))]);
        let dhcp = ["eth0", "nic1", "nic0", "eth9"].map(|name| nic(name)["dhcp4"].as_bool().unwrap());
        assert_eq!(dhcp, [false, false, true, true], "who is not known to have a static one asks for one");
    }

    #[test]
    fn a_host_name_is_a_label() {
        for (vm, name) in
            [("web", "web"), ("VirtualMachine_Workload", "virtualmachine-workload"), ("__", "vm"), ("ü", "vm")]
        {
            assert_eq!(host_name(vm), name);
        }
        assert_eq!(host_name(&"x".repeat(100)).len(), LABEL_MAX);
    }
}
