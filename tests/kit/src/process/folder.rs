//! The folder of a VM of the `directory` service.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rand::{RngCore, SeedableRng};
use rand_chacha::ChaCha12Rng;
use toml::Table;
use uuid::Uuid;

/// How much of an image is made at a time.
const PIECE: usize = 1 << 20;

/// A VM to be made, or made: `vm.toml`, its images, what it runs.
#[derive(Clone, Debug)]
pub struct VmFolder {
    uuid: Uuid,
    name: String,
    command: Vec<String>,
    scripts: Vec<(String, String)>,
    disks: Vec<Disk>,
    adapters: Vec<Table>,
}

#[derive(Clone, Debug)]
struct Disk {
    target: String,
    bytes: u64,
    seed: u64,
}

impl VmFolder {
    /// A VM without disks; its UUID follows from its name.
    pub fn new(name: &str) -> Self {
        let hash = blake3::hash(name.as_bytes());
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&hash.as_bytes()[..16]);
        let uuid = uuid::Builder::from_random_bytes(bytes).into_uuid();
        let name = name.to_owned();
        Self { uuid, name, command: Vec::new(), scripts: Vec::new(), disks: Vec::new(), adapters: Vec::new() }
    }

    /// A raw disk, `TARGET.raw` in the folder: random bytes from `seed` in every other MiB, holes between.
    #[must_use]
    pub fn disk(mut self, target: &str, bytes: u64, seed: u64) -> Self {
        self.disks.push(Disk { target: target.to_owned(), bytes, seed });
        self
    }

    /// A network adapter; `kind` is `synthetic` or `legacy`.
    #[must_use]
    pub fn adapter(mut self, name: &str, kind: &str, mac: &str) -> Self {
        let mut adapter = Table::new();
        for (key, value) in [("name", name), ("kind", kind), ("mac", mac)] {
            adapter.insert(key.into(), value.into());
        }
        self.adapters.push(adapter);
        self
    }

    /// A list of the last adapter: `addresses`, `gateways` or `dns`.
    ///
    /// # Panics
    ///
    /// Where no adapter was given before.
    #[must_use]
    pub fn adapter_list(mut self, key: &str, values: &[&str]) -> Self {
        let values: Vec<toml::Value> = values.iter().map(|value| (*value).into()).collect();
        self.adapters.last_mut().expect("an adapter").insert(key.into(), values.into());
        self
    }

    /// What the VM runs, in its folder.
    #[must_use]
    pub fn command<'a>(mut self, command: impl IntoIterator<Item = &'a str>) -> Self {
        self.command = command.into_iter().map(str::to_owned).collect();
        self
    }

    /// Runs a guest that writes a numbered block of 512 bytes into the first disk every `millis`, all over its first
    /// 4 MiB.
    ///
    /// # Panics
    ///
    /// Where no disk was given before.
    #[must_use]
    pub fn writing(mut self, millis: u64) -> Self {
        let image = format!("{}.raw", self.disks.first().expect("a disk to write").target);
        let pause = format!("{}.{:03}", millis / 1000, millis % 1000);
        let script = format!(
            "#!/bin/sh\nnumber=0\nwhile :; do\n  number=$((number + 1))\n  printf '%0512d' \"$number\" |\n    dd \
             of=\"$1\" bs=512 seek=$((number * 7919 % 8192)) conv=notrunc 2>/dev/null\n  sleep {pause}\ndone\n"
        );
        self.scripts.push(("guest".to_owned(), script));
        // Through the shell: a file that was just written cannot be executed while a process forked meanwhile holds it.
        self.command(["/bin/sh", "./guest", &image])
    }

    /// The VM's UUID.
    pub fn uuid(&self) -> Uuid {
        self.uuid
    }

    /// The VM's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Makes the folder below a node's VM path (`Node::vm_path`), `vm.toml` last, so that a VM service that looks
    /// meanwhile sees nothing half done. Returns the folder.
    pub fn create_in(&self, vm_path: &Path) -> io::Result<PathBuf> {
        let folder = vm_path.join(&self.name);
        fs::create_dir_all(&folder)?;
        for disk in &self.disks {
            disk.fill(&File::create(folder.join(format!("{}.raw", disk.target)))?)?;
        }
        for (name, text) in &self.scripts {
            let file = folder.join(name);
            fs::write(&file, text)?;
            fs::set_permissions(&file, fs::Permissions::from_mode(0o755))?;
        }
        let staged = folder.join("vm.toml.new");
        let mut file = File::create(&staged)?;
        file.write_all(self.document().to_string().as_bytes())?;
        fs::rename(&staged, folder.join("vm.toml"))?;
        Ok(folder)
    }

    fn document(&self) -> Table {
        let mut document = Table::new();
        document.insert("uuid".into(), self.uuid.to_string().into());
        document.insert("name".into(), self.name.clone().into());
        if !self.command.is_empty() {
            document.insert("command".into(), self.command.clone().into());
        }
        let disks = self.disks.iter().map(|disk| {
            let mut table = Table::new();
            table.insert("target".into(), disk.target.clone().into());
            table.insert("path".into(), format!("{}.raw", disk.target).into());
            table
        });
        document.insert("disk".into(), disks.collect::<Vec<_>>().into());
        if !self.adapters.is_empty() {
            document.insert("adapter".into(), self.adapters.clone().into());
        }
        document
    }
}

impl Disk {
    fn fill(&self, image: &File) -> io::Result<()> {
        image.set_len(self.bytes)?;
        let mut random = ChaCha12Rng::seed_from_u64(self.seed);
        let mut piece = vec![0; PIECE];
        for offset in (0..self.bytes).step_by(2 * PIECE) {
            let len = (self.bytes - offset).min(PIECE as u64) as usize;
            random.fill_bytes(&mut piece[..len]);
            image.write_all_at(&piece[..len], offset)?;
        }
        Ok(())
    }
}
