//! Running a replica: at its holder, from a point, for a test or for good.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use landfall_proto::id::{DiskTarget, VmId};
use landfall_proto::model::{Command, FailoverStep, PointName, PromotionId, PromotionState, Replica, VmSpec};
use landfall_proto::{Class, Refusal};
use landfall_store::State;
use tokio::time::timeout;

use super::{Failover, SERVICE_DEADLINE, lock, network};
use crate::decide::failover::command;
use crate::drive::events::Happening;
use crate::drive::replica::RunFolder;
use crate::drive::send::capture::blocking;
use crate::vm_service::{Registration, Run, RunImage, VmRole, VmService, VmState};

/// The end of the name of a test's VM, as in Hyper-V.
const TEST_NAME: &str = " - Test";

/// Which life of the machine this is: what ran in another one runs no more.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// What is to run.
#[derive(Clone)]
struct Wanted {
    replica: Replica,
    id: PromotionId,
    point: PointName,
    test: bool,
    completed: bool,
}

impl Wanted {
    /// The VM that the VM service gets to see.
    fn vm(&self) -> VmId {
        if self.test { test_vm(self.id) } else { self.replica.vm.id }
    }

    fn is_raw(&self, target: &DiskTarget) -> bool {
        let image = self.replica.vm.launch.images.iter().find(|image| image.target == *target);
        image.is_some_and(|image| image.raw)
    }

    /// Whether it is still what the cluster wants.
    fn stands(&self, state: &State) -> bool {
        let vm = &self.replica.vm.id;
        match self.test {
            true => state.tests.get(vm).is_some_and(|test| test.id == self.id),
            false => {
                state.promotions.get(vm).is_some_and(|promotion| promotion.id == self.id && !promotion.state.is_over())
            }
        }
    }
}

/// The UUID of the VM of a test.
pub fn test_vm(id: PromotionId) -> VmId {
    VmId(uuid::Builder::from_random_bytes(id.0.to_be_bytes()).into_uuid())
}

pub(super) fn silent(what: &str) -> Refusal {
    Refusal::new(Class::Unreachable, "vm_service_silent", format!("the VM service takes too long to {what}"))
        .remedy("see `landfall node list` for the state of its VM service")
}

impl Failover {
    pub(super) fn settle_runs(&self, state: &Arc<State>) {
        let mut wanted = Vec::new();
        for (vm, test) in state.tests.iter().filter(|(_, test)| test.node == self.node.me) {
            let Some(replica) = state.replicas.get(vm).cloned() else { continue };
            wanted.push(Wanted { replica, id: test.id, point: test.point, test: true, completed: false });
        }
        for (vm, promotion) in state.promotions.iter().filter(|(_, promotion)| promotion.holder == self.node.me) {
            let Some(replica) = state.replicas.get(vm).cloned() else { continue };
            let completed = promotion.state == PromotionState::Completed;
            let (id, point) = (promotion.id, promotion.point);
            let run = Wanted { replica, id, point, test: false, completed };
            if promotion.state.is_over() {
                let keep = promotion.state == PromotionState::Abandoning;
                self.work(*vm, |this| async move { this.take_back(&run, keep).await });
            } else {
                wanted.push(run);
            }
        }
        lock(&self.settled).retain(|(id, _)| wanted.iter().any(|run| run.id == *id));
        for run in wanted {
            let vm = run.replica.vm.id;
            let settled = lock(&self.settled).contains(&(run.id, run.completed));
            if settled {
                self.show(&run);
            } else {
                self.work(vm, |this| async move { this.bring_up(run).await });
            }
        }
        self.settle_leftovers(state);
    }

    /// Takes in what the VM service says of a run.
    fn show(&self, run: &Wanted) {
        let Some(report) = self.node.vms.vm(run.vm()) else { return };
        let step = match report.state {
            VmState::Running => "running",
            VmState::Stopped => "stopped",
        };
        let vm = run.replica.vm.id;
        self.step(vm, step, Some(run.vm()));
        self.fault(vm, report.fault);
    }

    /// Makes the images, registers the VM and starts it. Every part may be done again.
    async fn bring_up(&self, run: Wanted) -> Result<(), Refusal> {
        let vm = run.replica.vm.id;
        self.step(vm, "preparing", Some(run.vm()));
        let store = self.replicas.store(&run.replica).await?;
        let (id, point, test) = (run.id, run.point, run.test);
        let mut guard = Arc::clone(&store).lock_owned().await;
        let folder = blocking(move || guard.begin_run(id, point, test)).await?;
        let folder = self.make_images(&run, folder).await?;
        let all_raw = run.replica.vm.disks.iter().all(|disk| run.is_raw(&disk.target));
        let mut guard = Arc::clone(&store).lock_owned().await;
        let (completed, now) = (run.completed, self.node.outside.clock.wall());
        blocking(move || {
            if all_raw {
                // Every byte was compared with its hash while it was copied.
                if let Some(entry) = guard.manifest().point(point.sequence).cloned() {
                    guard.take_examined(&entry, now, &[])?;
                }
                guard.release_run(id)?;
            }
            if completed { guard.keep_only(point.sequence) } else { Ok(()) }
        })
        .await?;
        if completed || all_raw {
            self.replicas.note(vm, run.replica.epoch, &*store.lock().await);
        }
        if !test {
            // Whoever was cut off learns here that the failover was taken back meanwhile.
            self.commit(vm, FailoverStep::Start { id }).await?;
            // It may have been kept off here as a primary, before it came back as a replica.
            self.set_lock(vm, false).await?;
        }
        self.step(vm, "starting", Some(run.vm()));
        self.start(&run, &folder).await?;
        lock(&self.settled).insert((id, run.completed));
        Ok(())
    }

    async fn make_images(&self, run: &Wanted, folder: RunFolder) -> Result<RunFolder, Refusal> {
        let (this, run) = (self.clone(), run.clone());
        blocking(move || {
            let mut progress = |bytes| {
                if let Some(figures) = lock(&this.figures).get_mut(&run.replica.vm.id) {
                    figures.prepared_bytes = bytes;
                }
                match run.stands(&this.node.state()) {
                    true => Ok(()),
                    false => Err(Refusal::new(Class::Failed, "ended", "the failover was ended meanwhile")),
                }
            };
            folder.make(&|target| run.is_raw(target), &mut progress)?;
            Ok(folder)
        })
        .await
    }

    async fn start(&self, run: &Wanted, folder: &RunFolder) -> Result<(), Refusal> {
        let service = self.node.vms.service()?;
        // A disk that was added after the point is not in it.
        let absent: Vec<DiskTarget> =
            run.replica.vm.disks.iter().map(|disk| disk.target.clone()).filter(|target| !folder.has(target)).collect();
        let vm = run.replica.vm.clone().without(&absent);
        let launch = &vm.launch;
        let images: BTreeMap<DiskTarget, std::path::PathBuf> = vm
            .disks
            .iter()
            .map(|disk| (disk.target.clone(), folder.image(&disk.target, run.is_raw(&disk.target))))
            .collect();
        let command = command(launch, &images);
        let startable = !command.is_empty();
        let images = images.into_iter().map(|(target, path)| RunImage { target, path }).collect();
        let name = match run.test {
            true => format!("{}{TEST_NAME}", run.replica.vm.name).parse()?,
            false => run.replica.vm.name.clone(),
        };
        let (state, replica, id, at) = (self.node.state(), run.replica.clone(), run.id, folder.places());
        let network = blocking(move || network::decide(&state, &replica, id, &at)).await?;
        let spec = VmSpec { id: run.vm(), name, adapters: network.adapters, ..vm.clone() };
        let run_as = Some(Run { test: run.test, command, images, seed: network.seed });
        self.register(run, spec, run_as).await?;
        let boot = std::fs::read_to_string(BOOT_ID).unwrap_or_default();
        if startable && folder.started_in().as_deref() != Some(boot.trim()) {
            let started = timeout(SERVICE_DEADLINE, service.start(run.vm())).await;
            started.unwrap_or_else(|_| Err(silent("start a VM")))?;
            folder.note_start(boot.trim())?;
            let what = if run.test { "a test of" } else { "the failed-over" };
            let told = format!("{what} {} runs here from point {}", run.replica.vm.name, run.point.sequence);
            let event = Happening::info("failover_started", told).vm(run.replica.vm.id).node(&self.node.name);
            self.node.events.record(event);
        }
        Ok(())
    }

    async fn register(&self, run: &Wanted, vm: VmSpec, run_as: Option<Run>) -> Result<(), Refusal> {
        let service = self.node.vms.service()?;
        let registration = Registration {
            vm,
            primary: run.replica.primary.clone(),
            epoch: run.replica.epoch,
            folder: self.replicas.folder(&run.replica.storage, run.replica.vm.id)?,
            run: run_as,
        };
        let registered = timeout(SERVICE_DEADLINE, service.register(&registration)).await;
        registered.unwrap_or_else(|_| Err(silent("register a VM")))
    }

    /// Stops a failed-over VM, makes it a replica again, discards what it wrote or keeps it as a branch, and says so by
    /// commit.
    async fn take_back(&self, run: &Wanted, keep: bool) -> Result<(), Refusal> {
        let vm = run.replica.vm.id;
        self.step(vm, "stopping", Some(vm));
        let service = self.node.vms.service()?;
        self.stop(service.as_ref(), vm).await?;
        self.register(run, run.replica.vm.clone(), None).await?;
        let store = self.replicas.store(&run.replica).await?;
        let (id, mut guard) = (run.id, store.lock_owned().await);
        blocking(move || if keep { guard.keep_branch(id) } else { guard.end_run(id) }).await?;
        self.commit(vm, FailoverStep::Withdrawn { id }).await?;
        let what = if keep { "kept as a branch" } else { "discarded" };
        let told = format!("the failover of {} is taken back: what it wrote is {what}", run.replica.vm.name);
        self.node.events.record(Happening::info("failover_cancelled", told).vm(vm).node(&self.node.name));
        Ok(())
    }

    async fn stop(&self, service: &dyn VmService, vm: VmId) -> Result<(), Refusal> {
        match timeout(SERVICE_DEADLINE, service.stop(vm)).await {
            Ok(Err(refusal)) if refusal.class == Class::NotFound => Ok(()),
            Ok(done) => done,
            Err(_) => Err(silent("stop a VM")),
        }
    }

    /// Ends tests that the cluster wants no more, wherever they were begun: VMs first, then their images.
    fn settle_leftovers(&self, state: &Arc<State>) {
        let wanted: BTreeSet<VmId> = state.tests.values().map(|test| test_vm(test.id)).collect();
        for report in self.node.vms.vms().into_iter().flatten().filter(|report| report.role == VmRole::Test) {
            let vm = report.vm.id;
            if !wanted.contains(&vm) {
                self.work(vm, |this| async move { this.end_test_vm(vm).await });
            }
        }
        for replica in state.replicas.values() {
            let vm = replica.vm.id;
            let id = state.tests.get(&vm).map(|test| test.id);
            let Ok(folder) = self.replicas.folder(&replica.storage, vm) else { continue };
            let left: Vec<PromotionId> =
                crate::drive::replica::run::tests_in(&folder).into_iter().filter(|left| Some(*left) != id).collect();
            // The VM goes first.
            let runs = |id: &PromotionId| self.node.vms.vm(test_vm(*id)).is_some();
            if self.node.vms.vms().is_none() || left.is_empty() || left.iter().any(runs) {
                continue;
            }
            let replica = replica.clone();
            self.work(vm, |this| async move { this.end_tests(&replica, left).await });
        }
    }

    /// Whether the cluster wants a test, as of now and not as of when this node was last in touch.
    async fn is_unwanted(&self, vm: VmId) -> Result<bool, Refusal> {
        self.node.proposer.commit(Command::Probe).await?;
        Ok(!self.node.state().tests.values().any(|test| test_vm(test.id) == vm))
    }

    async fn end_test_vm(&self, vm: VmId) -> Result<(), Refusal> {
        if !self.is_unwanted(vm).await? {
            return Ok(());
        }
        let service = self.node.vms.service()?;
        self.stop(service.as_ref(), vm).await?;
        timeout(SERVICE_DEADLINE, service.unregister(vm)).await.unwrap_or_else(|_| Err(silent("unregister a VM")))
    }

    async fn end_tests(&self, replica: &Replica, left: Vec<PromotionId>) -> Result<(), Refusal> {
        for id in left {
            if self.is_unwanted(test_vm(id)).await? {
                let store = self.replicas.store(replica).await?;
                let mut guard = store.lock_owned().await;
                blocking(move || guard.end_run(id)).await?;
                let told = format!("the test of {} has ended and left nothing behind", replica.vm.name);
                let event = Happening::info("failover_test_ended", told).vm(replica.vm.id).node(&self.node.name);
                self.node.events.record(event);
            }
        }
        Ok(())
    }
}
