//! Container images, written without a daemon and without a container: the same input gives the same bytes.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Component, Path, PathBuf},
};

use aws_lc_rs::digest::{SHA256, digest};
use data_encoding::HEXLOWER;
use serde_json::{Value, json};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
/// Not compressed: who pushes it to a registry (skopeo, podman, ctr) does that, and what a compressor writes changes with its version.
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// An image of one layer, for this machine's architecture.
#[derive(Clone, Debug, Default)]
pub struct Image {
    /// Its repository and tag: `registry.k8s.io/pause:3.10`.
    pub name: String,
    /// The program, and its arguments that always are.
    pub entrypoint: Vec<String>,
    /// The arguments if nobody gives others.
    pub cmd: Vec<String>,
    /// `NAME=value`.
    pub env: Vec<String>,
    /// `UID:GID`; empty is root.
    pub user: String,
    /// The directory that the program starts in; empty is `/`.
    pub working_directory: String,
    /// TCP ports that it listens on, for people to read.
    pub ports: Vec<u16>,
    /// What it says about itself, under names such as `org.opencontainers.image.version`.
    pub labels: BTreeMap<String, String>,
    /// When it was made, and every file in it, in seconds since 1970: `SOURCE_DATE_EPOCH`, so that it does not depend on the clock.
    pub created: u64,
    /// What is in it. Directories that are missing above a file are added, with mode 0755; everything belongs to root.
    pub files: Vec<File>,
}

/// Something in an image.
#[derive(Clone, Debug)]
pub enum File {
    /// A file of this machine.
    Regular {
        /// Where it is in the image.
        path: String,
        /// Where it is here.
        source: PathBuf,
        /// Its permissions: `0o755`.
        mode: u32,
    },
    /// A program of this machine (mode 0755) that may do more than others, where the container's capabilities allow it.
    Program {
        /// Where it is in the image.
        path: String,
        /// Where it is here.
        source: PathBuf,
        /// What is permitted to it, a bit for each number of `linux/capability.h`. Not effective by itself: with that, the
        /// kernel would refuse to start it in a container without one of them.
        permitted: u64,
    },
    /// A file with these bytes.
    Bytes {
        /// Where it is in the image.
        path: String,
        /// What is in it.
        bytes: Vec<u8>,
        /// Its permissions.
        mode: u32,
    },
    /// A directory.
    Directory {
        /// Where it is in the image.
        path: String,
        /// Its permissions.
        mode: u32,
    },
    /// A symbolic link.
    Link {
        /// Where it is in the image.
        path: String,
        /// What it points to.
        target: String,
    },
}

impl File {
    fn path(&self) -> &str {
        match self {
            Self::Regular { path, .. }
            | Self::Program { path, .. }
            | Self::Bytes { path, .. }
            | Self::Directory { path, .. }
            | Self::Link { path, .. } => path,
        }
    }
}

/// Something in an archive that is named by its digest.
struct Blob {
    digest: String,
    bytes: Vec<u8>,
}

impl Blob {
    fn new(bytes: Vec<u8>) -> Self {
        Self { digest: HEXLOWER.encode(digest(&SHA256, &bytes).as_ref()), bytes }
    }

    fn json(value: &Value) -> Self {
        Self::new(value.to_string().into_bytes())
    }

    fn path(&self) -> String {
        format!("blobs/sha256/{}", self.digest)
    }

    fn descriptor(&self, media_type: &str) -> Value {
        json!({"mediaType": media_type, "digest": format!("sha256:{}", self.digest), "size": self.bytes.len()})
    }
}

impl Image {
    /// Writes it to one file: a tar archive with an OCI image layout that also has the `manifest.json` of `docker save`, so that
    /// `ctr images import`, `docker load`, `podman load` and `skopeo copy oci-archive:…` take it. The file is there whole or not at
    /// all; its contents are held in memory meanwhile.
    ///
    /// Returns the digest of the manifest, `sha256:…`, which is what names the image in a registry before its layer is compressed.
    ///
    /// # Errors
    /// If a path is not one, or there twice; if a source cannot be read, or the file cannot be written. The error names it.
    pub fn write(&self, to: &Path) -> io::Result<String> {
        let layer = Blob::new(self.layer()?);
        let config = Blob::json(&self.config(&layer));
        let manifest = Blob::json(&json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": config.descriptor(CONFIG),
            "layers": [layer.descriptor(LAYER)],
        }));
        let mut descriptor = manifest.descriptor(MANIFEST);
        descriptor["annotations"] = json!({
            "io.containerd.image.name": self.name,
            "org.opencontainers.image.ref.name": self.name.rsplit_once(':').map_or("latest", |(_, tag)| tag),
        });
        let index = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.index.v1+json",
            "manifests": [descriptor],
        });
        let docker = json!([{"Config": config.path(), "RepoTags": [self.name], "Layers": [layer.path()]}]);

        let mut archive = Archive::new(self.created);
        archive.bytes("oci-layout", json!({"imageLayoutVersion": "1.0.0"}).to_string().as_bytes(), 0o644)?;
        archive.bytes("index.json", index.to_string().as_bytes(), 0o644)?;
        archive.bytes("manifest.json", docker.to_string().as_bytes(), 0o644)?;
        archive.directory("blobs", 0o755)?;
        archive.directory("blobs/sha256", 0o755)?;
        for blob in [&config, &manifest, &layer] {
            archive.bytes(&blob.path(), &blob.bytes, 0o644)?;
        }
        let draft = PathBuf::from(format!("{}.{}.part", to.display(), std::process::id()));
        let written = fs::write(&draft, archive.finish()?).and_then(|()| fs::rename(&draft, to));
        written.map_err(|error| named(&to.display().to_string(), &error))?;
        Ok(format!("sha256:{}", manifest.digest))
    }

    fn layer(&self) -> io::Result<Vec<u8>> {
        let mut archive = Archive::new(self.created);
        for (path, file) in &self.tree()? {
            match file {
                None => archive.directory(path, 0o755)?,
                Some(File::Directory { mode, .. }) => archive.directory(path, *mode)?,
                Some(File::Bytes { bytes, mode, .. }) => archive.bytes(path, bytes, *mode)?,
                Some(File::Link { target, .. }) => archive.link(path, target)?,
                Some(File::Regular { source, mode, .. }) => archive.bytes(path, &read(source)?, *mode)?,
                Some(File::Program { source, permitted, .. }) => {
                    archive.permit(*permitted)?;
                    archive.bytes(path, &read(source)?, 0o755)?;
                }
            }
        }
        archive.finish()
    }

    /// What is at each path, in order, with the directories above it (`None`).
    fn tree(&self) -> io::Result<BTreeMap<String, Option<&File>>> {
        let mut tree: BTreeMap<String, Option<&File>> = BTreeMap::new();
        for file in &self.files {
            let path = relative(file.path())?;
            for (end, _) in path.match_indices('/') {
                tree.entry(path[..end].to_owned()).or_insert(None);
            }
            if tree.insert(path, Some(file)).flatten().is_some() {
                return Err(invalid(file.path(), "is in the image twice; keep one of them"));
            }
        }
        Ok(tree)
    }

    fn config(&self, layer: &Blob) -> Value {
        let or_null = |list: &[String]| if list.is_empty() { Value::Null } else { json!(list) };
        let created = timestamp(self.created);
        let ports: BTreeMap<String, Value> = self.ports.iter().map(|port| (format!("{port}/tcp"), json!({}))).collect();
        json!({
            "created": created,
            "architecture": architecture(),
            "os": "linux",
            "config": {
                "User": self.user,
                "ExposedPorts": ports,
                "Env": self.env,
                "Entrypoint": or_null(&self.entrypoint),
                "Cmd": or_null(&self.cmd),
                "WorkingDir": if self.working_directory.is_empty() { "/" } else { &self.working_directory },
                "Labels": self.labels,
            },
            "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{}", layer.digest)]},
            "history": [{"created": created, "created_by": "tidegate-tests oci"}],
        })
    }
}

/// A tar archive whose entries have nothing of this machine: not its users, not its clock.
struct Archive {
    tar: tar::Builder<Vec<u8>>,
    created: u64,
}

impl Archive {
    fn new(created: u64) -> Self {
        Self { tar: tar::Builder::new(Vec::new()), created }
    }

    fn header(&self, kind: tar::EntryType, mode: u32, size: usize) -> tar::Header {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_size(size as u64);
        header.set_mtime(self.created);
        header.set_uid(0);
        header.set_gid(0);
        header
    }

    fn bytes(&mut self, path: &str, bytes: &[u8], mode: u32) -> io::Result<()> {
        let mut header = self.header(tar::EntryType::Regular, mode, bytes.len());
        self.tar.append_data(&mut header, path, bytes).map_err(|error| named(path, &error))
    }

    /// What comes next is permitted these capabilities, under the name that Go's and GNU's tar have for extended attributes.
    fn permit(&mut self, capabilities: u64) -> io::Result<()> {
        self.tar.append_pax_extensions([("SCHILY.xattr.security.capability", &file_capabilities(capabilities)[..])])
    }

    fn directory(&mut self, path: &str, mode: u32) -> io::Result<()> {
        let mut header = self.header(tar::EntryType::Directory, mode, 0);
        self.tar.append_data(&mut header, format!("{path}/"), io::empty()).map_err(|error| named(path, &error))
    }

    fn link(&mut self, path: &str, target: &str) -> io::Result<()> {
        let mut header = self.header(tar::EntryType::Symlink, 0o777, 0);
        self.tar.append_link(&mut header, path, target).map_err(|error| named(path, &error))
    }

    fn finish(self) -> io::Result<Vec<u8>> {
        self.tar.into_inner()
    }
}

/// A path of the image without its first `/`.
fn relative(path: &str) -> io::Result<String> {
    let mut parts = Vec::new();
    for component in Path::new(path).components() {
        match component {
            Component::RootDir | Component::CurDir => {}
            Component::Normal(part) => parts.push(part.to_string_lossy()),
            Component::ParentDir | Component::Prefix(_) => {
                return Err(invalid(path, "leads out of the image; write it without `..`"));
            }
        }
    }
    if parts.is_empty() {
        return Err(invalid(path, "is no path in the image; write one like /bin/program"));
    }
    Ok(parts.join("/"))
}

/// The extended attribute `security.capability` of a program that is permitted these: a `vfs_cap_data` of revision 2.
pub fn file_capabilities(permitted: u64) -> Vec<u8> {
    const REVISION_2: u32 = 0x0200_0000;
    let mut value = REVISION_2.to_le_bytes().to_vec();
    for half in [permitted & u64::from(u32::MAX), permitted >> 32] {
        value.extend(&half.to_le_bytes()[..4]);
        let inheritable = 0_u32;
        value.extend(inheritable.to_le_bytes());
    }
    value
}

/// Go's name of this machine's architecture.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// A time as RFC 3339 writes it.
fn timestamp(seconds: u64) -> String {
    let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(seconds);
    humantime::format_rfc3339_seconds(time).to_string()
}

fn read(source: &Path) -> io::Result<Vec<u8>> {
    fs::read(source).map_err(|error| named(&source.display().to_string(), &error))
}

fn named(name: &str, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{name}: {error}"))
}

fn invalid(path: &str, why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, format!("{path:?} {why}"))
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    fn image() -> Image {
        Image {
            name: "example.com/a/b:1".into(),
            entrypoint: vec!["/bin/b".into()],
            user: "65532:65532".into(),
            ports: vec![8080],
            files: vec![
                File::Bytes { path: "/bin/b".into(), bytes: b"program".to_vec(), mode: 0o755 },
                File::Link { path: "/sbin".into(), target: "bin".into() },
                File::Directory { path: "/tmp".into(), mode: 0o1777 },
            ],
            ..Image::default()
        }
    }

    fn temporary(name: &str) -> PathBuf {
        std::env::temp_dir().join(format!("tidegate-oci-{}-{name}", std::process::id()))
    }

    /// What an archive holds: kind and mode, and the bytes.
    fn entries(bytes: &[u8]) -> BTreeMap<String, (tar::EntryType, u32, Vec<u8>)> {
        let mut entries = BTreeMap::new();
        for entry in tar::Archive::new(bytes).entries().unwrap() {
            let mut entry = entry.unwrap();
            let (path, mut bytes) = (entry.path().unwrap().display().to_string(), Vec::new());
            entry.read_to_end(&mut bytes).unwrap();
            assert_eq!((entry.header().uid().unwrap(), entry.header().mtime().unwrap()), (0, 0), "{path}");
            entries.insert(path, (entry.header().entry_type(), entry.header().mode().unwrap(), bytes));
        }
        entries
    }

    fn written(image: &Image, name: &str) -> (String, Vec<u8>) {
        let file = temporary(name);
        let digest = image.write(&file).unwrap();
        let bytes = fs::read(&file).unwrap();
        fs::remove_file(file).unwrap();
        (digest, bytes)
    }

    #[test]
    fn the_same_input_gives_the_same_bytes() {
        let (first, second) = (written(&image(), "first"), written(&image(), "second"));
        assert_eq!(first, second);
        let mut other = image();
        other.files.reverse();
        assert_eq!(written(&other, "order"), first, "the order of the files is not the caller's business");
        other.cmd = vec!["--help".into()];
        assert_ne!(written(&other, "other").0, first.0);
    }

    #[test]
    fn docker_and_oci_find_the_same_config_and_layer() {
        let (digest, bytes) = written(&image(), "both");
        let archive = entries(&bytes);
        let json = |path: &str| serde_json::from_slice::<Value>(&archive[path].2).unwrap();
        let blob = |value: &Value| format!("blobs/sha256/{}", &value["digest"].as_str().unwrap()["sha256:".len()..]);

        let listed = &json("index.json")["manifests"][0];
        assert_eq!(listed["digest"], *digest);
        assert_eq!(listed["annotations"]["io.containerd.image.name"], "example.com/a/b:1");
        assert_eq!(listed["annotations"]["org.opencontainers.image.ref.name"], "1");
        let manifest = json(&blob(listed));
        let docker = &json("manifest.json")[0];
        assert_eq!(docker["RepoTags"], json!(["example.com/a/b:1"]));
        assert_eq!(docker["Config"], blob(&manifest["config"]));
        assert_eq!(docker["Layers"][0], blob(&manifest["layers"][0]));

        for (path, (kind, _, bytes)) in archive.iter().filter(|(path, _)| path.starts_with("blobs/sha256/")) {
            assert!(*kind == tar::EntryType::Directory || *path == Blob::new(bytes.clone()).path(), "{path}");
        }
        let config = json(&blob(&manifest["config"]));
        assert_eq!(config["config"]["User"], "65532:65532");
        assert_eq!(config["config"]["Entrypoint"], json!(["/bin/b"]));
        assert_eq!(config["config"]["Cmd"], Value::Null);
        assert_eq!(config["config"]["ExposedPorts"], json!({"8080/tcp": {}}));
        assert_eq!(config["created"], "1970-01-01T00:00:00Z");
        assert_eq!(config["rootfs"]["diff_ids"][0], manifest["layers"][0]["digest"]);
    }

    #[test]
    fn files_directories_and_links_are_in_the_layer() {
        let layer = entries(&image().layer().unwrap());
        let paths: Vec<&str> = layer.keys().map(String::as_str).collect();
        assert_eq!(paths, ["bin/", "bin/b", "sbin", "tmp/"]);
        assert_eq!(layer["bin/"].1, 0o755);
        assert_eq!(layer["bin/b"], (tar::EntryType::Regular, 0o755, b"program".to_vec()));
        assert_eq!(layer["sbin"].0, tar::EntryType::Symlink);
        assert_eq!(layer["tmp/"].1, 0o1777);
    }

    #[test]
    fn a_program_is_permitted_its_capabilities() {
        let source = temporary("program");
        fs::write(&source, b"program").unwrap();
        let file = File::Program { path: "b".into(), source: source.clone(), permitted: 1 << 10 | 1 << 33 };
        let layer = Image { files: vec![file], ..Image::default() }.layer().unwrap();
        fs::remove_file(source).unwrap();
        let mut archive = tar::Archive::new(&layer[..]);
        let mut entry = archive.entries().unwrap().next().unwrap().unwrap();
        let extensions = entry.pax_extensions().unwrap().unwrap();
        let (names, values): (Vec<_>, Vec<_>) =
            extensions.map(|e| e.unwrap()).map(|e| (e.key().unwrap().to_owned(), e.value_bytes().to_vec())).unzip();
        assert_eq!(names, ["SCHILY.xattr.security.capability"]);
        assert_eq!(values, [[0, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0]]);
        assert_eq!(entry.header().mode().unwrap(), 0o755);
    }

    #[test]
    fn what_is_no_file_is_refused_by_name() {
        let with = |file| Image { files: vec![file], ..image() }.layer().unwrap_err().to_string();
        let empty = |path: &str| File::Directory { path: path.into(), mode: 0o755 };
        assert_eq!(with(empty("/a/../../b")), "\"/a/../../b\" leads out of the image; write it without `..`");
        assert_eq!(with(empty("/")), "\"/\" is no path in the image; write one like /bin/program");
        let absent = File::Regular { path: "/a".into(), source: "/nobody/has/this".into(), mode: 0o644 };
        assert!(with(absent).starts_with("/nobody/has/this: "));
        let mut twice = image();
        twice.files.push(empty("sbin"));
        assert_eq!(twice.layer().unwrap_err().to_string(), "\"sbin\" is in the image twice; keep one of them");
    }
}
