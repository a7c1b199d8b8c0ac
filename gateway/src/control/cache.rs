//! What is remembered of a cluster over a restart: its objects as they were heard last, in a file.
//!
//! It is for a process that begins while the API server is away. Private keys are in it, so it is its owner's alone. It may be deleted
//! at any time: whatever is in it is heard again. A line says what the file is, and each of the others is one object:
//!
//! ```text
//! {"format":1,"heard":1790000000,"objects":2}
//! ["Service",{"metadata":{"name":"web","namespace":"shop"},"spec":{…}}]
//! ["Secret",{…}]
//! ```

use std::{
    fs,
    io::{self, BufRead, BufReader, BufWriter, Write},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use md5::{Digest, Md5};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tidegate_crd::{Kind, Object};

use super::{
    limits::{CACHE_BYTES_PER_SECOND, CACHE_INTERVAL, MAX_CACHE_BYTES},
    unix_seconds,
};
use crate::compile::objects::{Objects, Store};

/// How the file is written. Another number is another file, and is not read.
const FORMAT: u32 = 1;

/// Where the objects of one cluster are remembered.
#[derive(Clone, Debug)]
pub struct CacheFile {
    path: PathBuf,
}

/// What was remembered.
#[derive(Debug)]
pub struct Remembered {
    /// When it was so, in seconds since the Unix epoch.
    pub heard: i64,
    /// All of it.
    pub objects: Vec<Object>,
}

/// The first line.
#[derive(Debug, Serialize, Deserialize)]
struct Head {
    format: u32,
    heard: i64,
    objects: usize,
}

impl CacheFile {
    /// The file in a directory for these namespaces (all, if there is none) of the cluster of this API server.
    pub fn new(directory: &Path, server: &str, namespaces: &[String]) -> Self {
        let mut hash = Md5::new();
        let mut namespaces: Vec<&str> = namespaces.iter().map(String::as_str).collect();
        namespaces.sort_unstable();
        for word in std::iter::once(server).chain(namespaces) {
            hash.update(word.as_bytes());
            hash.update([0]);
        }
        let name: String = hash.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        Self { path: directory.join(format!("cluster-{name}.jsonl")) }
    }

    /// Its place.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What is remembered. Single objects that are not understood are left out, as another version may have written them.
    ///
    /// # Errors
    /// If there is no such file, or it is not what it should be.
    pub fn load(&self) -> io::Result<Remembered> {
        let file = fs::File::open(&self.path)?;
        let bytes = file.metadata()?.len();
        let wrong = |what: String| io::Error::new(io::ErrorKind::InvalidData, what);
        if bytes > MAX_CACHE_BYTES {
            return Err(wrong(format!("it has {bytes} bytes, and {MAX_CACHE_BYTES} are the most that are read")));
        }
        let mut lines = BufReader::new(file).lines();
        let head = lines.next().transpose()?.unwrap_or_default();
        let head: Head = serde_json::from_str(&head).map_err(|error| wrong(format!("its first line: {error}")))?;
        if head.format != FORMAT {
            return Err(wrong(format!("it is of format {}, and {FORMAT} is read", head.format)));
        }
        let mut objects = Vec::with_capacity(head.objects.min(1 << 20));
        let mut count = 0;
        for line in lines {
            count += 1;
            objects.extend(decode(&line?));
        }
        if count != head.objects {
            return Err(wrong(format!("it has {count} of {} objects", head.objects)));
        }
        Ok(Remembered { heard: head.heard, objects })
    }

    /// Remembers these: a reader sees the old file or the new one, never half of one. How many bytes that are.
    ///
    /// # Errors
    /// If the directory or the file cannot be written, or it would be too large.
    pub fn save(&self, objects: &Objects, heard: i64) -> io::Result<u64> {
        if let Some(directory) = self.path.parent() {
            owned(fs::DirBuilder::new().recursive(true)).create(directory)?;
        }
        let draft = self.path.with_extension(format!("{}.tmp", std::process::id()));
        let saved = write(&draft, objects, heard).and_then(|bytes| fs::rename(&draft, &self.path).map(|()| bytes));
        if saved.is_err() {
            drop(fs::remove_file(&draft));
        }
        saved
    }
}

/// A directory that nobody else may look into, if it is made.
#[cfg(unix)]
fn owned(builder: &mut fs::DirBuilder) -> &fs::DirBuilder {
    std::os::unix::fs::DirBuilderExt::mode(builder, 0o700)
}

#[cfg(not(unix))]
fn owned(builder: &mut fs::DirBuilder) -> &fs::DirBuilder {
    builder
}

fn write(path: &Path, objects: &Objects, heard: i64) -> io::Result<u64> {
    let mut options = fs::OpenOptions::new();
    options.write(true).create(true).truncate(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    // One that was left by a process of our number may be anybody's to read.
    drop(fs::remove_file(path));
    let mut out = Bounded { file: BufWriter::new(options.open(path)?), left: MAX_CACHE_BYTES };
    let Objects { config_maps, slices, ingresses, classes, parameters, pools, .. } = objects;
    let Objects { namespaces, nodes, secrets, services, .. } = objects;
    let of_ingresses = [config_maps.len(), slices.len(), ingresses.len(), classes.len(), parameters.len()];
    let others = [pools.len(), namespaces.len(), nodes.len(), secrets.len(), services.len()];
    let count = of_ingresses.iter().chain(&others).sum::<usize>();
    serde_json::to_writer(&mut out, &Head { format: FORMAT, heard, objects: count })?;
    out.write_all(b"\n")?;
    write_all(&mut out, Kind::ConfigMap, config_maps)?;
    for (name, slice) in slices.iter() {
        write_one(&mut out, Kind::EndpointSlice, &slice.object.to_object(name))?;
    }
    write_all(&mut out, Kind::Ingress, ingresses)?;
    write_all(&mut out, Kind::IngressClass, classes)?;
    write_all(&mut out, Kind::IngressClassParameters, parameters)?;
    write_all(&mut out, Kind::LoadBalancerPool, pools)?;
    write_all(&mut out, Kind::Namespace, namespaces)?;
    write_all(&mut out, Kind::Node, nodes)?;
    write_all(&mut out, Kind::Secret, secrets)?;
    write_all(&mut out, Kind::Service, services)?;
    let left = out.left;
    let file = out.file.into_inner().map_err(io::IntoInnerError::into_error)?;
    // Else a machine that loses its power may have the name of the file and not what is in it.
    file.sync_all().map(|()| MAX_CACHE_BYTES - left)
}

fn write_all<T: Serialize + PartialEq>(out: &mut impl Write, kind: Kind, store: &Store<T>) -> io::Result<()> {
    for (_, stored) in store.iter() {
        write_one(out, kind, &stored.object)?;
    }
    Ok(())
}

fn write_one(out: &mut impl Write, kind: Kind, object: &impl Serialize) -> io::Result<()> {
    serde_json::to_writer(&mut *out, &(kind.as_str(), object))?;
    out.write_all(b"\n")
}

/// Writes no more than so much.
struct Bounded {
    file: BufWriter<fs::File>,
    left: u64,
}

impl Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.left = self.left.checked_sub(written as u64).ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::FileTooLarge,
                format!("there are more than {MAX_CACHE_BYTES} bytes to remember"),
            )
        })?;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

fn decode(line: &str) -> Option<Object> {
    let (kind, object): (String, Value) = serde_json::from_str(line).ok()?;
    let object = match Kind::ALL.iter().find(|known| *known.as_str() == *kind)? {
        Kind::ConfigMap => serde_json::from_value(object).map(Object::ConfigMap),
        Kind::EndpointSlice => serde_json::from_value(object).map(Object::EndpointSlice),
        Kind::Ingress => serde_json::from_value(object).map(Object::Ingress),
        Kind::IngressClass => serde_json::from_value(object).map(Object::IngressClass),
        Kind::IngressClassParameters => serde_json::from_value(object).map(Object::IngressClassParameters),
        Kind::LoadBalancerPool => serde_json::from_value(object).map(Object::LoadBalancerPool),
        Kind::Namespace => serde_json::from_value(object).map(Object::Namespace),
        Kind::Node => serde_json::from_value(object).map(Object::Node),
        Kind::Secret => serde_json::from_value(object).map(Object::Secret),
        Kind::Service => serde_json::from_value(object).map(Object::Service),
        // A cluster's are not read.
        Kind::Endpoints | Kind::Pod => return None,
    };
    object.ok()
}

/// Writes the file now and then, in a thread of its own.
#[derive(Debug)]
pub(super) struct CacheWriter {
    objects: mpsc::Sender<(Objects, i64)>,
    last: Option<Instant>,
    /// Of the last file, as far as it is written.
    bytes: Arc<AtomicU64>,
    /// Something is another than in the file.
    is_stale: bool,
}

impl CacheWriter {
    /// Has written nothing yet.
    ///
    /// # Errors
    /// If a thread cannot be started.
    pub(super) fn start(file: CacheFile) -> io::Result<Self> {
        let (objects, inbox) = mpsc::channel::<(Objects, i64)>();
        let bytes = Arc::<AtomicU64>::default();
        let written = bytes.clone();
        let write = move || {
            let mut failed = false;
            for (objects, heard) in inbox {
                match file.save(&objects, heard) {
                    Ok(bytes) => {
                        failed = false;
                        written.store(bytes, Relaxed);
                    }
                    Err(error) if !std::mem::replace(&mut failed, true) => tracing::warn!(
                        "the objects of the cluster are not remembered over a restart: {}: {error}",
                        file.path().display()
                    ),
                    Err(_) => {}
                }
            }
        };
        thread::Builder::new().name("cache".to_owned()).spawn(write)?;
        Ok(Self { objects, last: None, bytes, is_stale: false })
    }

    /// Objects have changed.
    pub(super) fn changed(&mut self) {
        self.is_stale = true;
    }

    /// Has them written, if it is time to.
    pub(super) fn offer(&mut self, objects: &Objects) {
        if self.is_stale && self.last.is_none_or(|last| last.elapsed() >= interval(self.bytes.load(Relaxed))) {
            self.last = Some(Instant::now());
            self.is_stale = false;
            // What is held is shared, so this is a copy of the names alone.
            drop(self.objects.send((objects.clone(), unix_seconds())));
        }
    }

    /// Has them written, as there is no later.
    pub(super) fn finish(&mut self, objects: &Objects) {
        self.last = None;
        self.offer(objects);
    }
}

/// How long after a file of so many bytes the next may be written.
fn interval(bytes: u64) -> Duration {
    CACHE_INTERVAL.max(Duration::from_secs(bytes / CACHE_BYTES_PER_SECOND))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn objects(text: &str) -> Objects {
        let mut objects = Objects::default();
        for document in tidegate_crd::yaml::parse(Path::new("test.yaml"), text).documents {
            objects.apply(document);
        }
        objects
    }

    #[test]
    fn what_is_remembered_is_what_was_heard() {
        let directory = std::env::temp_dir().join(format!("tidegate-cache-{}", std::process::id()));
        let of = |server: &str, namespaces: &[&str]| {
            let namespaces: Vec<String> = namespaces.iter().map(|&namespace| namespace.to_owned()).collect();
            CacheFile::new(&directory, server, &namespaces)
        };
        let file = of("https://api", &["b", "a"]);
        assert_eq!(file.path(), of("https://api", &["a", "b"]).path());
        assert_ne!(file.path(), of("https://api", &[]).path());
        assert_eq!(file.load().unwrap_err().kind(), io::ErrorKind::NotFound);
        let text = "{apiVersion: v1, kind: Secret, metadata: {name: a, namespace: b}, data: {tls.key: YQ==}}\n---\n\
                    {apiVersion: v1, kind: Service, metadata: {name: a, namespace: b}, spec: {ports: [{port: 80}]}}\n---\n\
                    {apiVersion: v1, kind: Node, metadata: {name: node}, status: {addresses: [{type: InternalIP, address: 10.0.0.1}]}}\n---\n\
                    {apiVersion: tidegate.io/v1alpha1, kind: LoadBalancerPool, metadata: {name: p}, spec: {addresses: [192.0.2.1]}}\n---\n\
                    {apiVersion: tidegate.io/v1alpha1, kind: IngressClassParameters, metadata: {name: i}, spec: {annotations: {a: b}}}";
        let held = objects(text);
        let bytes = file.save(&held, 77).unwrap();
        assert_eq!(bytes, fs::metadata(file.path()).unwrap().len());
        let remembered = file.load().unwrap();
        assert_eq!((remembered.heard, remembered.objects.len()), (77, 5));
        for object in remembered.objects {
            let origin = tidegate_crd::Origin::synthetic("test");
            let mut again = held.clone();
            again.apply(tidegate_crd::Document { object: object.clone(), origin });
            let name = object.object_ref();
            match object {
                Object::Secret(_) => assert_eq!(again.secrets.len(), 1),
                Object::Service(service) => {
                    assert_eq!(held.services.iter().next().unwrap().1.object, *service, "{name}");
                }
                Object::Node(node) => assert_eq!(held.nodes.iter().next().unwrap().1.object, *node, "{name}"),
                Object::LoadBalancerPool(pool) => {
                    assert_eq!(held.pools.iter().next().unwrap().1.object, *pool, "{name}");
                }
                Object::IngressClassParameters(parameters) => {
                    assert_eq!(held.parameters.iter().next().unwrap().1.object, *parameters, "{name}");
                }
                other => panic!("there was no {other:?}"),
            }
        }
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
            assert_eq!((mode(file.path()), mode(&directory)), (0o600, 0o700));
        }
        let whole = fs::read_to_string(file.path()).unwrap();
        for (broken, why) in [
            (whole.replacen("\"format\":1", "\"format\":2", 1), "it is of format 2"),
            (whole.lines().take(2).collect::<Vec<_>>().join("\n"), "it has 1 of 5 objects"),
            ("rubbish".to_owned(), "its first line"),
        ] {
            fs::write(file.path(), broken).unwrap();
            let error = file.load().unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
        fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn a_small_cluster_is_written_at_once_and_a_large_one_seldom() {
        assert_eq!([0, 100_000, 30 << 20, MAX_CACHE_BYTES].map(|bytes| interval(bytes).as_secs()), [2, 2, 60, 1_024]);
    }
}
