//! The `[[adapter]]` sections of a `vm.toml`: what a VM's adapters are, and what the guest has there.

use std::net::IpAddr;
use std::str::FromStr;

use landfall_proto::Refusal;
use landfall_proto::model::{Adapter, AdapterKind, AddressList, Addresses};
use landfall_proto::refusal::quoted;

use super::vm_file::literal;
use crate::config::document::Section;

/// The most adapters of a VM; Hyper-V allows 12.
const ADAPTERS_MAX: usize = 64;
/// The longest name of an adapter in characters.
const ADAPTER_NAME_MAX: usize = 64;

/// The adapters that a file describes.
pub(super) fn adapters(top: &Section<'_, '_>) -> Vec<Adapter> {
    let sections = top.sections("adapter");
    if sections.len() > ADAPTERS_MAX {
        top.fault("adapter", &format!("{} adapters", sections.len()), &format!("use at most {ADAPTERS_MAX}"));
        return Vec::new();
    }
    let mut adapters: Vec<Adapter> = Vec::new();
    for section in &sections {
        for (key, remedy) in [
            ("name", "name it, such as name = \"eth0\""),
            ("kind", "use synthetic or legacy"),
            ("mac", "give its hardware address, such as 52:54:00:aa:bb:01"),
        ] {
            if !section.has(key) {
                section.missing(key, remedy);
            }
        }
        let name = section.text("name").filter(|name| {
            let length = name.chars().count();
            let good = (1..=ADAPTER_NAME_MAX).contains(&length) && !name.chars().any(char::is_control);
            let taken = adapters.iter().any(|other| other.name == *name);
            if !good || taken {
                let why = if taken { "is taken by another adapter" } else { "is not allowed" };
                let remedy = format!("give each its own name of 1 to {ADAPTER_NAME_MAX} characters");
                section.fault("name", &format!("{} {why}", quoted(name)), &remedy);
            }
            good && !taken
        });
        let kind = section.text("kind").and_then(|kind| match kind.as_str() {
            "synthetic" => Some(AdapterKind::Synthetic),
            "legacy" => Some(AdapterKind::Legacy),
            other => {
                section.fault("kind", &format!("{} is not allowed", quoted(other)), "use synthetic or legacy");
                None
            }
        });
        let mac = section.text("mac").filter(|mac| {
            let good = is_mac(mac);
            if !good {
                let problem = format!("{} is not a hardware address", quoted(mac));
                section.fault("mac", &problem, "use six pairs of hex digits, such as 52:54:00:aa:bb:01");
            }
            good
        });
        let network = network(section);
        // What it is for is said to the command, which is what connects anything.
        section.boolean("connected");
        section.finish();
        if let (Some(name), Some(kind), Some(mac)) = (name, kind, mac) {
            adapters.push(Adapter { name, kind, mac, network });
        }
    }
    adapters
}

/// What the guest has there; nothing where any of it is wrong.
fn network(section: &Section<'_, '_>) -> Addresses {
    let (addresses, gateways, dns) =
        (listed(section, "addresses", host), listed(section, "gateways", ip), listed(section, "dns", ip));
    let (Some(addresses), Some(gateways), Some(dns)) = (addresses, gateways, dns) else { return Addresses::default() };
    let network = Addresses { addresses, gateways, dns };
    match network.check() {
        Ok(()) => network,
        Err(fault) => {
            let key = match fault.list {
                AddressList::Addresses => "addresses",
                AddressList::Gateways => "gateways",
                AddressList::Dns => "dns",
            };
            section.fault(key, &format!("{} is not allowed: {}", quoted(&fault.value), fault.why), &fault.remedy);
            Addresses::default()
        }
    }
}

fn host<T: FromStr<Err = Refusal>>(text: &str) -> Result<T, String> {
    text.parse().map_err(|refusal: Refusal| refusal.remedy.unwrap_or(refusal.message))
}

fn ip(text: &str) -> Result<IpAddr, String> {
    text.parse().map_err(|_| "write it as 10.9.0.1 or fd00:9::1".to_owned())
}

/// The values of a list, none where it is absent; `None` where one is wrong.
fn listed<T>(section: &Section<'_, '_>, key: &'static str, read: impl Fn(&str) -> Result<T, String>) -> Option<Vec<T>> {
    if !section.has(key) {
        return Some(Vec::new());
    }
    let texts = section.texts(key)?;
    let mut values = Vec::new();
    for text in &texts {
        match read(text) {
            Ok(value) => values.push(value),
            Err(remedy) => section.fault(key, &format!("{} is not allowed", quoted(text)), &remedy),
        }
    }
    (values.len() == texts.len()).then_some(values)
}

fn is_mac(text: &str) -> bool {
    let pairs: Vec<&str> = text.split(':').collect();
    pairs.len() == 6 && pairs.iter().all(|pair| pair.len() == 2 && pair.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

/// The section of an adapter.
pub(super) fn written(adapter: &Adapter, unconnected: bool) -> String {
    let Adapter { name, kind, mac, network } = adapter;
    let kind = match kind {
        AdapterKind::Synthetic => "synthetic",
        AdapterKind::Legacy => "legacy",
    };
    let mut text = format!("[[adapter]]\nname = {}\nkind = \"{kind}\"\nmac = {}\n", literal(name), literal(mac));
    if unconnected {
        text += "connected = false\n";
    }
    let Addresses { addresses, gateways, dns } = network;
    for (key, values) in [("addresses", texts(addresses)), ("gateways", texts(gateways)), ("dns", texts(dns))] {
        if !values.is_empty() {
            text += &format!("{key} = [{}]\n", values.join(", "));
        }
    }
    text
}

fn texts<T: ToString>(values: &[T]) -> Vec<String> {
    values.iter().map(|value| literal(&value.to_string())).collect()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use landfall_proto::Refusal;

    use super::super::vm_file::VmFile;
    use super::*;

    const VM: &str = r#"uuid = "6f1c2a52-0b0f-4c6e-9f2e-3a51d0a1c001"
name = "web"
[[disk]]
target = "vda"
path = "disk.raw"
[[adapter]]
name = "eth0"
kind = "synthetic"
mac = "52:54:00:aa:bb:01"
"#;

    fn parse(more: &str) -> (Vec<Adapter>, Option<Refusal>) {
        let (file, fault) = VmFile::parse(Path::new("/vms/a"), &format!("{VM}{more}"));
        (file.adapters, fault)
    }

    #[test]
    fn what_the_guest_has_is_read_and_written() {
        let (adapters, fault) = parse(
            "addresses = [\"10.1.0.5/16\", \"fd00:1::5/64\"]\ngateways = [\"10.1.0.1\", \"fe80::1\"]\n\
             dns = [\"10.1.0.53\"]\n",
        );
        assert_eq!(fault, None);
        assert_eq!(adapters[0].network.addresses[1].to_string(), "fd00:1::5/64");
        let base = VM.split("[[adapter]]").next().unwrap();
        for unconnected in [false, true] {
            let text = format!("{base}{}", written(&adapters[0], unconnected));
            let (read, fault) = VmFile::parse(Path::new("/vms/a"), &text);
            assert_eq!((fault, &read.adapters), (None, &adapters), "{text}");
            assert_eq!(text.contains("connected = false"), unconnected);
        }
    }

    #[test]
    fn what_no_adapter_can_have_is_told_with_its_line() {
        for (more, told) in [
            ("addresses = [\"10.1.0.5\"]", ":10: adapter.addresses: '10.1.0.5' is not allowed"),
            ("\naddresses = [\"10.1.0.0/16\"]", ":11: adapter.addresses: '10.1.0.0/16' is not allowed"),
            ("addresses = \"10.1.0.5/16\"", ":10: adapter.addresses: found string"),
            (
                "addresses = [\"10.1.0.5/16\"]\ngateways = [\"10.2.0.1\"]",
                ":11: adapter.gateways: '10.2.0.1' is not allowed",
            ),
            ("gateways = [\"router\"]", ":10: adapter.gateways: 'router' is not allowed"),
            ("dns = [\"10.1.0.53\"]", "there is no address of its family"),
            ("address = [\"10.1.0.5/16\"]", ":10: adapter.address: unknown key"),
        ] {
            let (adapters, fault) = parse(more);
            let message = fault.unwrap().message;
            assert!(message.contains(told), "{told} in\n{message}");
            assert!(adapters[0].network.is_empty());
        }
    }

    #[test]
    fn a_seed_is_for_what_is_started() {
        let seed = |text: &str| VmFile::parse(Path::new("/vms/a"), text);
        let (file, fault) = seed(&format!("{VM}[seed]\npath = \"seed.img\"\n"));
        assert_eq!((fault, file.seed), (None, Some("/vms/a/seed.img".into())));
        for bad in ["[seed]\n", "[seed]\npath = \"\"\n", "[seed]\npath = \"a\"\nlabel = \"b\"\n", "seed = 1\n"] {
            let text = if bad.starts_with('[') { format!("{VM}{bad}") } else { format!("{bad}{VM}") };
            assert!(seed(&text).1.unwrap().message.contains("seed"), "{bad}");
        }
        let replica = format!("role = \"replica\"\nprimary = \"p.contoso.com\"\nepoch = 1\n{VM}[seed]\npath = \"a\"\n")
            .replace("path = \"disk.raw\"", "path = \"/srv/r\"\nbytes = 512");
        let (file, fault) = seed(&replica);
        assert!(file.seed.is_none() && fault.unwrap().message.contains("not started"));
    }
}
