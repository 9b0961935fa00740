//! Which addresses a run's adapters have: decided once, when it is begun, and kept beside its images.
//!
//! What is set later is for the next failover: a VM that runs is not told of other addresses than it was started with, and
//! neither is one that is started again after a crash.

use std::fs;
use std::io::ErrorKind;
use std::path::PathBuf;

use landfall_proto::Refusal;
use landfall_proto::model::{Adapter, PromotionId, Replica};
use landfall_store::State;
use serde::{Deserialize, Serialize};

use super::seed_image;
use crate::decide::network::AdapterPlan;
use crate::decide::seed::seed;
use crate::drive::image::durable::{self, fault};
use crate::drive::operations::network::planned;
use crate::drive::replica::NetworkPlaces;

/// What a run's adapters have.
#[derive(Debug)]
pub(super) struct Network {
    /// The adapters.
    pub adapters: Vec<Adapter>,
    /// The image that tells the guest; none where nothing is to be changed.
    pub seed: Option<PathBuf>,
}

#[derive(Serialize, Deserialize)]
struct Decided {
    adapters: Vec<Adapter>,
    seeded: bool,
}

/// What was decided for this run, or is now. The seed comes before what says that it is there.
pub(super) fn decide(
    state: &State,
    replica: &Replica,
    id: PromotionId,
    at: &NetworkPlaces,
) -> Result<Network, Refusal> {
    let unreadable = |error| fault("read", &at.network, &error);
    let decided = match fs::read(&at.network) {
        Ok(bytes) => serde_json::from_slice(&bytes).map_err(|error| unreadable(error.into()))?,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let plans = planned(state, replica);
            let seeded = plans.iter().any(AdapterPlan::changes);
            if seeded {
                seed_image::write(&at.seed, &seed(id, replica.vm.name.as_str(), &plans))?;
            }
            let decided = Decided { adapters: plans.iter().map(AdapterPlan::brought_up).collect(), seeded };
            let bytes = serde_json::to_vec(&decided).map_err(|error| unreadable(error.into()))?;
            durable::replace(&at.network, &bytes)?;
            decided
        }
        Err(error) => return Err(unreadable(error)),
    };
    let Decided { adapters, seeded } = decided;
    Ok(Network { adapters, seed: seeded.then(|| at.seed.clone()) })
}
