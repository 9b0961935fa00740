//! What holding an address needs of the machine, as a seam: the machine itself, or a model of it.

use std::io;

use landfall_proto::id::InterfaceName;
use landfall_proto::model::{CapAddress, HostAddress};
use rustix::thread::{CapabilitySet, capabilities};

use super::kernel::{Rtnetlink, Standing};
use super::wire::Wire;
use crate::decide::cap_address::{Link, Means};

/// The part of a machine that can have the CAP's address.
pub trait Host: Send {
    /// What the machine and this process are as to holding it.
    fn means(&mut self) -> io::Result<Means>;
    /// The interface alone.
    fn link(&mut self) -> io::Result<Option<Link>>;
    /// Sends `address` to the kernel, for its short life.
    fn put(&mut self, link: &Link, address: &HostAddress) -> io::Result<()>;
    /// Takes the addresses from whatever interface has one of them with an end; how many there were.
    fn clear(&mut self) -> io::Result<usize>;
    /// Opens the interface for what follows; from then on another holder is heard.
    fn attend(&mut self) -> io::Result<()>;
    /// Tells everybody that the addresses are here.
    fn announce(&mut self) -> io::Result<()>;
    /// Asks who else has them.
    fn probe(&mut self) -> io::Result<()>;
    /// Who else has said so since the last look.
    fn claimants(&mut self) -> Vec<String>;
    /// Closes the interface.
    fn leave(&mut self);
}

/// Makes the [`Host`] of an agent, once it belongs to a cluster whose CAP has an address.
pub trait Hosts: Send + Sync {
    /// The interface called `interface`, which need not exist yet.
    fn host(&self, interface: &InterfaceName, cap: &CapAddress) -> io::Result<Box<dyn Host>>;
}

/// The machine itself.
#[derive(Debug)]
pub struct MachineHosts;

impl Hosts for MachineHosts {
    fn host(&self, interface: &InterfaceName, cap: &CapAddress) -> io::Result<Box<dyn Host>> {
        let kernel = Rtnetlink::open()?;
        Ok(Box::new(Machine { kernel, interface: interface.clone(), cap: cap.clone(), wire: None, routed: Vec::new() }))
    }
}

struct Machine {
    kernel: Rtnetlink,
    interface: InterfaceName,
    cap: CapAddress,
    wire: Option<Wire>,
    /// Of each address whether the interface has another one in its subnet, and so a route there.
    routed: Vec<bool>,
}

impl Machine {
    fn is_ours(&self, standing: &Standing) -> bool {
        self.cap.has(&standing.ip)
    }
}

impl Host for Machine {
    fn means(&mut self) -> io::Result<Means> {
        let standing = self.kernel.addresses()?;
        let permitted = capabilities(None).is_ok_and(|sets| sets.effective.contains(CapabilitySet::NET_ADMIN));
        let fixed = standing.iter().find(|standing| standing.permanent && self.is_ours(standing));
        let fixed = fixed.map(|standing| format!("{}/{}", standing.ip, standing.length));
        Ok(Means { link: self.kernel.link(&self.interface)?, permitted, fixed })
    }

    fn link(&mut self) -> io::Result<Option<Link>> {
        self.kernel.link(&self.interface)
    }

    fn put(&mut self, link: &Link, address: &HostAddress) -> io::Result<()> {
        let at = self.cap.addresses().iter().position(|own| own == address);
        let routed = at.and_then(|at| self.routed.get(at)).copied().unwrap_or(true);
        self.kernel.put(link.index, address, routed)
    }

    fn clear(&mut self) -> io::Result<usize> {
        let mut ours = self.kernel.addresses()?;
        ours.retain(|found| !found.permanent && self.is_ours(found));
        let mut cleared = 0;
        for found in ours {
            let address = HostAddress::new(found.ip, found.length).map_err(io::Error::other)?;
            cleared += usize::from(self.kernel.delete(found.index, &address)?);
        }
        Ok(cleared)
    }

    fn attend(&mut self) -> io::Result<()> {
        let standing = self.kernel.addresses()?;
        let index = self.kernel.link(&self.interface)?.map(|link| link.index);
        let beside = |address: &HostAddress| {
            let others = standing.iter().filter(|other| Some(other.index) == index && !self.is_ours(other));
            others.into_iter().any(|other| address.subnet().contains(&other.ip))
        };
        self.routed = self.cap.addresses().iter().map(beside).collect();
        self.wire = Wire::open(&self.interface, &self.cap)?;
        Ok(())
    }

    fn announce(&mut self) -> io::Result<()> {
        self.wire.as_ref().map_or(Ok(()), Wire::announce)
    }

    fn probe(&mut self) -> io::Result<()> {
        self.wire.as_ref().map_or(Ok(()), Wire::probe)
    }

    fn claimants(&mut self) -> Vec<String> {
        self.wire.iter().flat_map(Wire::claimants).map(|mac| mac.to_string()).collect()
    }

    fn leave(&mut self) {
        self.wire = None;
    }
}
