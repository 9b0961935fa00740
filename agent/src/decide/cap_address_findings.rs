//! What is wrong with the CAP's own address, for `doctor`.

use crate::surface::doctor::{Finding, Level};

/// The CAP's own address, as the node that looks knows of it.
#[derive(Clone, Debug, Default)]
pub struct CapAddressFact {
    /// The CAP.
    pub cap: String,
    /// The addresses, as text.
    pub addresses: String,
    /// The owner, where there is one, and whether it has the address.
    pub owner: Option<(String, bool)>,
    /// Why the owner does not have it.
    pub fault: Option<String>,
    /// Who else has it.
    pub foreign: Option<String>,
    /// Why the owner does not announce it.
    pub unannounced: Option<String>,
    /// Members that could not have it, and why.
    pub unfit: Vec<(String, String)>,
    /// What came of dialling it from here, where that was tried: each address, and why it was not reached.
    pub dialled: Vec<(String, Option<String>)>,
}

impl CapAddressFact {
    /// How many things were looked at.
    pub fn checks(&self) -> usize {
        2 + self.dialled.len()
    }
}

/// What is wrong with it, in no order.
pub fn findings(fact: &CapAddressFact) -> Vec<Finding> {
    let CapAddressFact { cap, addresses, .. } = fact;
    let mut found = Vec::new();
    let mut add = |level, code: &str, about: &str, message: String, remedy: &str| {
        let (code, about, remedy) = (code.to_owned(), about.to_owned(), remedy.to_owned());
        found.push(Finding { level, code, about, message, remedy });
    };
    // Where nobody owns the CAP, that is told.
    if let Some((owner, false)) = &fact.owner {
        let why = fact.fault.as_deref().unwrap_or("it has just become the owner, or its word has not come here yet");
        let message = format!("{owner} owns the CAP and does not have its address {addresses}: {why}");
        let remedy = "mend that at the node; until then clients reach the CAP at its agents' own addresses";
        add(Level::Critical, "cap_address_unheld", cap, message, remedy);
    }
    if let Some(who) = &fact.foreign {
        let message = format!("{who} has the CAP's address {addresses} as well: some clients reach it instead");
        let remedy = "find the machine with that link-layer address (`ip neigh`, the switch's table) and take the address \
                      from it";
        add(Level::Critical, "cap_address_foreign", cap, message, remedy);
    }
    if let Some(why) = &fact.unannounced {
        let message =
            format!("the owner does not announce {addresses}: clients find it 5 to 40 s after it has moved: {why}");
        let remedy = "give the agents CAP_NET_RAW as well (systemd: AmbientCapabilities=CAP_NET_ADMIN CAP_NET_RAW)";
        add(Level::Warning, "cap_address_unannounced", cap, message, remedy);
    }
    for (node, why) in &fact.unfit {
        let message = format!("it could not have the CAP's address: {why}");
        let remedy = "mend that before the present owner is lost";
        add(Level::Warning, "cap_address_unfit", node, message, remedy);
    }
    for (address, why) in &fact.dialled {
        if let Some(why) = why {
            let message = format!("nobody answers at {address} from here: {why}");
            let remedy = "see whether this node has a route there, and whether a firewall keeps UDP to it away";
            add(Level::Critical, "cap_address_unreachable", cap, message, remedy);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn well() -> CapAddressFact {
        CapAddressFact {
            cap: "r.contoso.com".to_owned(),
            addresses: "10.0.0.50/24".to_owned(),
            owner: Some(("r1".to_owned(), true)),
            dialled: vec![("10.0.0.50:7443".to_owned(), None)],
            ..CapAddressFact::default()
        }
    }

    #[test]
    fn each_fault_of_the_address_is_one_finding() {
        assert_eq!(findings(&well()), []);
        assert_eq!(findings(&CapAddressFact { owner: None, ..well() }), [], "that nobody owns it is told elsewhere");
        let unfit = vec![("r2".to_owned(), "there is no interface eth0".to_owned())];
        let unreached = vec![("10.0.0.50:7443".to_owned(), Some("silent".to_owned()))];
        let some = |text: &str| Some(text.to_owned());
        for (level, code, fact) in [
            (Level::Critical, "cap_address_unheld", CapAddressFact { owner: Some(("r1".to_owned(), false)), ..well() }),
            (Level::Critical, "cap_address_foreign", CapAddressFact { foreign: some("52:54:00:00:00:01"), ..well() }),
            (Level::Warning, "cap_address_unannounced", CapAddressFact { unannounced: some("EPERM"), ..well() }),
            (Level::Warning, "cap_address_unfit", CapAddressFact { unfit, ..well() }),
            (Level::Critical, "cap_address_unreachable", CapAddressFact { dialled: unreached, ..well() }),
        ] {
            let found = findings(&fact);
            assert_eq!(found.len(), 1, "{found:?}");
            assert_eq!((found[0].level, found[0].code.as_str()), (level, code));
            assert!(!found[0].remedy.is_empty() && !found[0].about.is_empty(), "{found:?}");
        }
    }
}
