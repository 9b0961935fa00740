//! The VMs that are replicated: folders, disks, and what runs in them.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use landfall_proto::Refusal;
use landfall_proto::id::VmId;

use super::pace::Pace;
use super::until::{io, not_so};

/// The VM that the story is about.
pub const WORKLOAD: &str = "VirtualMachine_Workload";
/// A second one, placed while another node owns the CAP.
pub const SECOND: &str = "VirtualMachine_Second";
/// How many small VMs are placed while one node's VM service stands still.
pub const SMALL: usize = 20;
/// The disks that the guest writes, in its order.
pub const GUEST_DISKS: [&str; 2] = ["vdb", "vdc"];
/// The smallest disk that can be replicated.
const SMALL_BYTES: u64 = 65_536;
/// Bytes of the second VM's disk.
const SECOND_BYTES: u64 = 1 << 20;
/// How much of an image is made at a time.
const PIECE: usize = 1 << 20;
/// What a qcow2 file begins with.
const QCOW2_MAGIC: [u8; 4] = *b"QFI\xfb";

/// The story's VM as it was made.
#[derive(Clone, Debug)]
pub struct Workload {
    /// Its identity.
    pub id: VmId,
    /// What its first disk is, in words.
    pub image: String,
}

/// The name of small VM `number`, from 1 on.
pub fn small(number: usize) -> String {
    format!("small-{number:02}")
}

/// Makes the story's VM as a folder in `vms`.
pub fn workload(vms: &Path, pace: &Pace) -> Result<Workload, Refusal> {
    let folder = new_folder(vms, WORKLOAD)?;
    let (file, image) = match &pace.disk {
        Some(own) => copied(own, &folder)?,
        None => ("vda.raw", made(&folder, pace.image_bytes)?),
    };
    let program = std::env::current_exe().map_err(|error| io(Path::new("/proc/self/exe"), &error))?;
    let mut command = vec![program.to_string_lossy().into_owned(), "guest".to_owned(), "write".to_owned()];
    let mut disks = vec![("vda", file.to_owned())];
    for target in GUEST_DISKS {
        let name = format!("{target}.raw");
        blank(&folder.join(&name), pace.guest_bytes)?;
        command.extend(["--disk".to_owned(), name.clone()]);
        disks.push((target, name));
    }
    command.extend(["--length".to_owned(), pace.guest_bytes.to_string()]);
    command.extend(["--pause-us".to_owned(), pace.pause_us.to_string()]);
    let id = describe(&folder, WORKLOAD, &command, &disks)?;
    Ok(Workload { id, image })
}

/// Makes the small VMs and the second one: a disk each, and nothing that runs.
pub fn others(vms: &Path) -> Result<(), Refusal> {
    let small = (1..=SMALL).map(|number| (small(number), SMALL_BYTES));
    for (name, bytes) in small.chain([(SECOND.to_owned(), SECOND_BYTES)]) {
        let folder = new_folder(vms, &name)?;
        pattern(&folder.join("vda.raw"), bytes, &name)?;
        describe(&folder, &name, &[], &[("vda", "vda.raw".to_owned())])?;
    }
    Ok(())
}

fn new_folder(vms: &Path, name: &str) -> Result<PathBuf, Refusal> {
    let folder = vms.join(name);
    fs::create_dir(&folder).map_err(|error| io(&folder, &error))?;
    Ok(folder)
}

/// Writes `vm.toml`, as an administrator would.
fn describe(folder: &Path, name: &str, command: &[String], disks: &[(&str, String)]) -> Result<VmId, Refusal> {
    let id = uuid::Uuid::new_v4();
    let literal = |text: &str| toml::Value::from(text).to_string();
    let mut text = format!("uuid = \"{id}\"\nname = {}\n", literal(name));
    if !command.is_empty() {
        let words: Vec<String> = command.iter().map(|word| literal(word)).collect();
        text += &format!("command = [{}]\n", words.join(", "));
    }
    for (target, path) in disks {
        text += &format!("[[disk]]\ntarget = \"{target}\"\npath = {}\n", literal(path));
    }
    let mac: Vec<String> = id.as_bytes()[..3].iter().map(|byte| format!("{byte:02x}")).collect();
    text += &format!("[[adapter]]\nname = \"eth0\"\nkind = \"synthetic\"\nmac = \"52:54:00:{}\"\n", mac.join(":"));
    let file = folder.join("vm.toml");
    fs::write(&file, text).map_err(|error| io(&file, &error))?;
    Ok(VmId(id))
}

/// Copies the user's image; the original is only read.
fn copied(own: &Path, folder: &Path) -> Result<(&'static str, String), Refusal> {
    let refused = |why: &str| {
        let remedy = format!("give a raw or qcow2 image that this user can read: {why}");
        Refusal::invalid("disk", &own.to_string_lossy(), &remedy)
    };
    let wrong = |error: std::io::Error| refused(&error.to_string());
    if !fs::metadata(own).map_err(wrong)?.is_file() {
        return Err(refused("this is no file"));
    }
    let mut magic = [0; 4];
    let read = File::open(own).and_then(|mut file| file.read(&mut magic)).map_err(wrong)?;
    let name = if read == magic.len() && magic == QCOW2_MAGIC { "vda.qcow2" } else { "vda.raw" };
    let to = folder.join(name);
    fs::copy(own, &to).map_err(|error| io(&to, &error))?;
    // A copy of a read-only image would be read-only.
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    fs::set_permissions(&to, mode).map_err(|error| io(&to, &error))?;
    Ok((name, format!("a copy of {}", own.display())))
}

/// Makes an image: a file system with files where mke2fs is installed, else a pattern.
fn made(folder: &Path, bytes: u64) -> Result<String, Refusal> {
    let image = folder.join("vda.raw");
    let files = folder.with_file_name(".files");
    lay_out(&files)?;
    blank(&image, bytes)?;
    let mut mke2fs = Command::new("mke2fs");
    // It is often where only root looks.
    let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/sbin";
    mke2fs.env("PATH", path).args(["-q", "-F", "-t", "ext4", "-d"]).arg(&files).arg(&image);
    let ran = mke2fs.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
    fs::remove_dir_all(&files).map_err(|error| io(&files, &error))?;
    if ran.is_ok_and(|status| status.success()) {
        return Ok("an ext4 file system with files in it, made by mke2fs".to_owned());
    }
    pattern(&image, bytes, "vda")?;
    Ok("a pattern, since there is no mke2fs here".to_owned())
}

/// Files such as a small server has: text, and something that does not compress.
fn lay_out(files: &Path) -> Result<(), Refusal> {
    let write = |name: &str, content: &[u8]| {
        let path = files.join(name);
        let parent = path.parent().unwrap_or(files);
        fs::create_dir_all(parent).and_then(|()| fs::write(&path, content)).map_err(|error| io(&path, &error))
    };
    write("etc/hostname", b"workload\n")?;
    write("etc/settings", landfall_store::settings::help().as_bytes())?;
    let log: String = (0..20_000).map(|number| format!("request {number} answered in {} ms\n", number % 97)).collect();
    write("var/log/service.log", log.as_bytes())?;
    let mut data = vec![0; 4 << 20];
    blake3::Hasher::new().update(b"photo").finalize_xof().fill(&mut data);
    write("srv/data/photo.raw", &data)
}

/// A disk of zeroes.
fn blank(path: &Path, bytes: u64) -> Result<(), Refusal> {
    File::create(path).and_then(|file| file.set_len(bytes)).map_err(|error| io(path, &error))
}

/// A disk with something else in every other piece, and holes between.
fn pattern(path: &Path, bytes: u64, seed: &str) -> Result<(), Refusal> {
    blank(path, bytes)?;
    let failed = |error: std::io::Error| io(path, &error);
    let file = File::options().write(true).open(path).map_err(failed)?;
    let mut stream = blake3::Hasher::new().update(seed.as_bytes()).finalize_xof();
    let mut at = 0;
    while at < bytes {
        let length = usize::try_from(bytes - at).unwrap_or(PIECE).min(PIECE);
        let mut piece = vec![0; length];
        stream.fill(&mut piece);
        file.write_all_at(&piece, at).map_err(failed)?;
        at += 2 * PIECE as u64;
    }
    (&file).flush().map_err(failed)
}

/// The BLAKE3 of a raw image, read by the demo itself.
pub fn digest(image: &Path) -> Result<[u8; 32], Refusal> {
    let mut hasher = blake3::Hasher::new();
    let mut file = File::open(image).map_err(|error| io(image, &error))?;
    let mut piece = vec![0; PIECE];
    loop {
        match file.read(&mut piece).map_err(|error| io(image, &error))? {
            0 => return Ok(*hasher.finalize().as_bytes()),
            length => _ = hasher.update(&piece[..length]),
        }
    }
}

/// Whether `qemu-img` finds the same disk in both images; `None` where it is not installed.
pub fn qemu_img_compare(qcow2: &Path, raw: &Path) -> Result<Option<()>, Refusal> {
    let mut compare = Command::new("qemu-img");
    // Shared: the agent that receives the replica has it open.
    compare.args(["compare", "-U", "-f", "qcow2", "-F", "raw"]).arg(qcow2).arg(raw).stdin(Stdio::null());
    match compare.output() {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(io(Path::new("qemu-img"), &error)),
        Ok(output) if output.status.success() => Ok(Some(())),
        Ok(output) => {
            let said = [output.stdout, output.stderr].concat();
            let said = String::from_utf8_lossy(&said).trim().to_owned();
            Err(not_so(format!("qemu-img compare {} {}: {said}", qcow2.display(), raw.display())))
        }
    }
}
