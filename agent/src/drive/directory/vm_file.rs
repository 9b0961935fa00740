//! `vm.toml`: what a VM's folder says about it. Strict, and every fault is told with its line.

use std::path::{Path, PathBuf};

use landfall_proto::id::{DiskTarget, Epoch, Fqdn, VmId, VmName};
use landfall_proto::model::{Adapter, DiskSpec, VmSpec};
use landfall_proto::refusal::quoted;
use landfall_proto::{Class, Refusal};

use super::adapter_file::{self, adapters};
use crate::config::document::{Reader, Section};
use crate::config::{Fault, Faults};
use crate::vm_service::{Registration, Run, RunImage, VmRole};

/// The file's name within a VM's folder.
pub(super) const VM_FILE: &str = "vm.toml";
/// The largest file that is read.
pub(super) const VM_FILE_MAX: u64 = 256 << 10;
/// The most disks of a VM: as many as Hyper-V allows on SCSI controllers of one kind.
const DISKS_MAX: usize = 64;
/// The most parts of a command.
const COMMAND_MAX: usize = 1024;
/// The largest disk: what a signed 64-bit file offset reaches.
const DISK_MAX: u64 = i64::MAX as u64;

/// One disk and its file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct DiskFile {
    /// Its place in the VM.
    pub target: DiskTarget,
    /// The image, absolute; of a replica the folder that holds it.
    pub path: PathBuf,
    /// The image as the file names it.
    pub written: String,
    /// Of a replica: the size that its primary gave.
    pub bytes: Option<u64>,
}

/// A VM as its file describes it. Disks are ordered by target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct VmFile {
    /// Its identity; `None` where that could not be read.
    pub id: Option<VmId>,
    /// Its name, likewise.
    pub name: Option<VmName>,
    /// Its part.
    pub role: VmRole,
    /// What to run; nothing where it is empty.
    pub command: Vec<String>,
    /// Its disks.
    pub disks: Vec<DiskFile>,
    /// Its adapters.
    pub adapters: Vec<Adapter>,
    /// The seed image of its guest, absolute.
    pub seed: Option<PathBuf>,
}

impl VmFile {
    /// Reads `text`, the file of the VM in `folder`: what could be read, and every fault.
    pub(super) fn parse(folder: &Path, text: &str) -> (Self, Option<Refusal>) {
        let (file, faults) = Reader::read_all(text, |top| Some(read(folder, top)));
        let refusal = (!faults.is_empty()).then(|| Faults::new(folder.join(VM_FILE), faults).into());
        (file.unwrap_or_else(Self::unknown), refusal)
    }

    /// What is known of a VM whose file says nothing.
    pub(super) fn unknown() -> Self {
        Self {
            id: None,
            name: None,
            role: VmRole::Primary,
            command: Vec::new(),
            disks: Vec::new(),
            adapters: Vec::new(),
            seed: None,
        }
    }

    /// The file cannot be read at all.
    pub(super) fn unreadable(folder: &Path, why: &str) -> Refusal {
        let refusal =
            Refusal::new(Class::Failed, "unreadable_file", why).field(VM_FILE).remedy("make vm.toml readable");
        Faults::new(folder.join(VM_FILE), vec![Fault { line: 1, refusal }]).into()
    }
}

fn read(folder: &Path, top: &Section<'_, '_>) -> VmFile {
    for (key, remedy) in [("uuid", "give the VM a UUID of its own"), ("name", "give the VM a name")] {
        if !top.has(key) {
            top.missing(key, remedy);
        }
    }
    let id = top.parsed("uuid");
    let name = top.parsed("name");
    let role = match top.text("role").as_deref() {
        None | Some("primary") => VmRole::Primary,
        Some("replica") => VmRole::Replica,
        Some("test") => VmRole::Test,
        Some("failed_over") => VmRole::FailedOver,
        Some(other) => {
            top.fault("role", &format!("{} is not allowed", quoted(other)), "use primary or replica");
            // Until that is clear it must not be started.
            VmRole::Replica
        }
    };
    let command = command(top, role);
    let primary: Option<Fqdn> = top.parsed("primary");
    let epoch = top.integer("epoch", 0..=i64::MAX as u64).map(Epoch::from_number);
    for (key, given) in [("primary", primary.is_some()), ("epoch", epoch.is_some())] {
        match role {
            VmRole::Primary if given => {
                top.fault(key, "only a replica has this", "remove it, or set role = \"replica\"")
            }
            VmRole::Replica | VmRole::Test | VmRole::FailedOver if !top.has(key) => {
                top.missing(key, "a replica is registered by the agent: remove its folder")
            }
            _ => {}
        }
    }
    let (disks, seed) = (disks(folder, top, role), seed(folder, top, role));
    VmFile { id, name, role, command, disks, adapters: adapters(top), seed }
}

fn command(top: &Section<'_, '_>, role: VmRole) -> Vec<String> {
    let Some(command) = top.texts("command") else { return Vec::new() };
    let first_is_empty = command.first().is_none_or(String::is_empty);
    if first_is_empty || command.len() > COMMAND_MAX || command.iter().any(|part| part.contains('\0')) {
        let remedy = format!("give a program and at most {} arguments, or leave it out", COMMAND_MAX - 1);
        top.fault("command", "not a command", &remedy);
        return Vec::new();
    }
    if role == VmRole::Replica {
        top.fault("command", "a replica is not started", "remove it: a failover writes the command");
        return Vec::new();
    }
    command
}

fn disks(folder: &Path, top: &Section<'_, '_>, role: VmRole) -> Vec<DiskFile> {
    let sections = top.sections("disk");
    if sections.is_empty() && !top.has("disk") {
        top.missing("disk", "add [[disk]] with target and path");
    }
    if sections.len() > DISKS_MAX {
        top.fault("disk", &format!("{} disks", sections.len()), &format!("use at most {DISKS_MAX}"));
        return Vec::new();
    }
    let mut found: Vec<(DiskFile, usize)> = Vec::new();
    for section in &sections {
        for (key, remedy) in [("target", "name the disk, such as target = \"vda\""), ("path", "give the image's file")]
        {
            if !section.has(key) {
                section.missing(key, remedy);
            }
        }
        let target: Option<DiskTarget> = section.parsed("target");
        let path = section.text("path").filter(|path| {
            let good = !path.is_empty() && !path.contains('\0');
            if !good {
                section.fault("path", &format!("{} is not a path", quoted(path)), "give the image's file");
            }
            good
        });
        let bytes = section.integer("bytes", 1..=DISK_MAX);
        match role {
            VmRole::Primary | VmRole::Test | VmRole::FailedOver if section.has("bytes") => {
                section.fault("bytes", "only a replica has this", "remove it")
            }
            VmRole::Replica if !section.has("bytes") => section.missing("bytes", "give the disk's size"),
            _ => {}
        }
        section.finish();
        let (Some(target), Some(path)) = (target, path) else { continue };
        let disk = DiskFile { target, path: folder.join(&path), written: path, bytes };
        if let Some((_, line)) = found.iter().find(|(other, _)| other.target == disk.target) {
            section.fault(
                "target",
                &format!("'{}' is also the disk on line {line}", disk.target),
                "name each disk once",
            );
        } else if let Some((other, line)) = found.iter().find(|(other, _)| other.path == disk.path)
            && role != VmRole::Replica
        {
            let problem = format!("{} is also disk '{}' on line {line}", disk.path.display(), other.target);
            section.fault("path", &problem, "give each disk an image of its own");
        } else {
            found.push((disk, section.line_of("target")));
        }
    }
    let mut disks: Vec<DiskFile> = found.into_iter().map(|(disk, _)| disk).collect();
    disks.sort_by(|a, b| a.target.cmp(&b.target));
    disks
}

/// The seed image that a failover made for the guest; of what kind the VM is does not matter to a command that finds it.
fn seed(folder: &Path, top: &Section<'_, '_>, role: VmRole) -> Option<PathBuf> {
    let section = top.section("seed")?;
    if !section.has("path") {
        section.missing("path", "give the image's file");
    }
    let path = section.text("path").filter(|path| {
        let good = !path.is_empty() && !path.contains('\0');
        if !good {
            section.fault("path", &format!("{} is not a path", quoted(path)), "give the image's file");
        }
        good
    });
    section.finish();
    if role == VmRole::Replica {
        top.fault("seed", "a replica is not started", "remove it: a failover makes the image");
        return None;
    }
    path.map(|path| folder.join(path))
}

/// The file of a replica that the agent registers.
pub(super) fn replica(registration: &Registration) -> Result<String, Refusal> {
    let Registration { vm, primary, epoch, folder, run } = registration;
    let VmSpec { id, name, disks, adapters, launch: _ } = vm;
    let folder = folder
        .to_str()
        .ok_or_else(|| Refusal::invalid("folder", &folder.to_string_lossy(), "use a storage path of valid UTF-8"))?;
    let (what, role) = match run {
        None => ("a replica. It is started by a failover, never by hand.", "replica"),
        Some(run) if run.test => ("a test failover. It is removed when the test ends.", "test"),
        Some(_) => ("a replica that is failed over.", "failed_over"),
    };
    let mut text = format!("# Written by Landfall: {what}\n");
    text += &format!("uuid = {}\nname = {}\n", literal(&id.to_string()), literal(name.as_str()));
    text += &format!("role = \"{role}\"\nprimary = {}\nepoch = {}\n", literal(primary.as_str()), epoch.number());
    match run {
        None => {
            for DiskSpec { target, bytes } in disks {
                let (target, path) = (literal(target.as_str()), literal(folder));
                text += &format!("[[disk]]\ntarget = {target}\npath = {path}\nbytes = {bytes}\n");
            }
        }
        Some(run) => text = runnable(run, text)?,
    }
    let unconnected = run.as_ref().is_some_and(|run| run.test);
    adapters.iter().for_each(|adapter| text += &adapter_file::written(adapter, unconnected));
    Ok(text)
}

/// The file of a VM that a failover brought here and that is this node's own now.
pub(super) fn own(id: VmId, file: &VmFile) -> Result<String, Refusal> {
    let mut text =
        "# Written by Landfall: a VM that was failed over to this cluster and is replicated from here.\n".to_owned();
    let name = file.name.as_ref().map_or_else(|| id.to_string(), ToString::to_string);
    text += &format!("uuid = {}\nname = {}\n", literal(&id.to_string()), literal(&name));
    let images = file.disks.iter().map(|disk| RunImage { target: disk.target.clone(), path: disk.path.clone() });
    let run = Run { test: false, command: file.command.clone(), images: images.collect(), seed: file.seed.clone() };
    text = runnable(&run, text)?;
    file.adapters.iter().for_each(|adapter| text += &adapter_file::written(adapter, false));
    Ok(text)
}

/// The command and the disks of what a failover starts, after `head`.
fn runnable(run: &Run, head: String) -> Result<String, Refusal> {
    let mut text = head;
    if !run.command.is_empty() {
        let parts: Vec<String> = run.command.iter().map(|part| literal(part)).collect();
        text += &format!("command = [{}]\n", parts.join(", "));
    }
    for RunImage { target, path } in &run.images {
        let path = path
            .to_str()
            .ok_or_else(|| Refusal::invalid("path", &path.to_string_lossy(), "use a storage path of valid UTF-8"))?;
        text += &format!("[[disk]]\ntarget = {}\npath = {}\n", literal(target.as_str()), literal(path));
    }
    if let Some(seed) = &run.seed {
        let path = seed
            .to_str()
            .ok_or_else(|| Refusal::invalid("seed", &seed.to_string_lossy(), "use a storage path of valid UTF-8"))?;
        text += &format!("[seed]\npath = {}\n", literal(path));
    }
    Ok(text)
}

/// `text` as TOML writes it.
pub(super) fn literal(text: &str) -> String {
    toml::Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXAMPLE: &str = r#"uuid = "6f1c2a52-0b0f-4c6e-9f2e-3a51d0a1c001"
name = "VirtualMachine_Workload"
command = ["./guest", "disk.raw"]
[[disk]]
target = "vdb"
path = "/shared/data.qcow2"
[[disk]]
target = "vda"
path = "disk.raw"
[[adapter]]
name = "eth0"
kind = "synthetic"
mac = "52:54:00:aa:bb:01"
"#;

    fn parse(text: &str) -> (VmFile, Option<Refusal>) {
        VmFile::parse(Path::new("/vms/a"), text)
    }

    #[test]
    fn the_designs_example_is_read_and_ordered_by_target() {
        let (file, fault) = parse(EXAMPLE);
        assert_eq!(fault, None);
        let paths: Vec<_> = file.disks.iter().map(|disk| disk.path.to_str().unwrap()).collect();
        assert_eq!(paths, ["/vms/a/disk.raw", "/shared/data.qcow2"]);
        assert_eq!(file.command, ["./guest", "disk.raw"]);
    }

    #[test]
    fn all_faults_are_told_and_the_identity_is_kept() {
        let text = EXAMPLE
            .replace("\"./guest\", \"disk.raw\"", "1")
            .replace("synthetic", "virtual")
            .replace("vdb", "vda")
            .replace("52:54:00:aa:bb:01", "52-54")
            .replace("path = \"disk.raw\"", "pfad = \"disk.raw\"");
        let (file, fault) = parse(&text);
        let message = fault.unwrap().message;
        for expected in [
            "/vms/a/vm.toml:3: command:",
            ":7: disk.path: missing",
            ":9: disk.pfad: unknown key",
            ":12: adapter.kind: 'virtual' is not allowed",
            ":13: adapter.mac: '52-54' is not",
        ] {
            assert!(message.contains(expected), "{expected} in\n{message}");
        }
        assert_eq!(file.id.unwrap().to_string(), "6f1c2a52-0b0f-4c6e-9f2e-3a51d0a1c001");
        let twice = parse(&EXAMPLE.replace("vdb", "vda")).1.unwrap().message;
        assert!(twice.contains(":8: disk.target: 'vda' is also the disk on line 5"), "{twice}");
    }

    #[test]
    fn a_name_that_could_leave_its_folder_is_refused() {
        for name in ["../x", "a/b", ""] {
            let (_, fault) = parse(&EXAMPLE.replace("VirtualMachine_Workload", name));
            assert!(fault.unwrap().message.contains(":2: name:"), "{name}");
        }
    }

    #[test]
    fn a_registered_replica_reads_back_and_a_doubtful_role_never_runs() {
        let (file, _) = parse(EXAMPLE);
        let vm = VmSpec {
            id: file.id.unwrap(),
            name: "quote\"d ünï".parse().unwrap(),
            disks: vec![DiskSpec { target: "vda".parse().unwrap(), bytes: 4096 }],
            adapters: file.adapters.clone(),
            launch: Default::default(),
        };
        let (primary, epoch) = ("p-cap.contoso.com".parse().unwrap(), Epoch::from_number(1 << 50));
        let text =
            replica(&Registration { vm: vm.clone(), primary, epoch, folder: "/srv/r".into(), run: None }).unwrap();
        let (read, fault) = parse(&text);
        assert_eq!(fault, None, "{text}");
        assert_eq!((read.role, read.name.clone().unwrap(), &read.adapters), (VmRole::Replica, vm.name, &vm.adapters));
        let (target, written) = ("vda".parse().unwrap(), "/srv/r".to_owned());
        assert_eq!(read.disks, [DiskFile { target, path: "/srv/r".into(), written, bytes: Some(4096) }]);
        let (doubtful, fault) = parse(&format!("role = \"replcia\"\n{EXAMPLE}"));
        assert!(doubtful.role == VmRole::Replica && doubtful.command.is_empty() && fault.is_some());
        assert!(parse(&format!("epoch = 3\n{EXAMPLE}")).1.is_some());
    }
}
