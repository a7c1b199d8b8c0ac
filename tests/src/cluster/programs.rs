//! The programs of a cluster: built once by `go build` from the Go modules in `tests/cluster`, and kept in a cache.

use std::{
    collections::VecDeque,
    env, fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use rustix::fs::{FlockOperation, flock};
use xxhash_rust::xxh3::xxh3_128;

use super::{Failure, Tier};

/// The cache, if it is not where caches usually are.
const CACHE: &str = "TIDEGATE_CLUSTER_CACHE";

/// A directory with ready-made programs, instead.
const ASSETS: &str = "TIDEGATE_CLUSTER_ASSETS";

/// How often it is said how far a build is.
const PROGRESS: Duration = Duration::from_secs(10);

/// Lines of a failed build that are shown.
const LAST_WORDS: usize = 40;

/// How to have what is missing.
const ADVICE: &str =
    "build them once (six to fifteen minutes on two cores): cargo run -p tidegate-tests --bin cluster -- build";

/// A Go module with programs.
struct Module {
    /// Its folder in `tests/cluster`.
    name: &'static str,
    /// Its packages, and what their programs are called here.
    packages: &'static [(&'static str, &'static str)],
    /// Sources of its own; the rest is what `go.sum` says it is.
    sources: &'static [&'static str],
}

const MODULES: &[Module] = &[KUBERNETES, COREDNS];

const KUBERNETES: Module = Module {
    name: "kubernetes",
    packages: &[
        ("go.etcd.io/etcd/server/v3", "etcd"),
        ("k8s.io/kubernetes/cmd/kube-apiserver", "kube-apiserver"),
        ("k8s.io/kubernetes/cmd/kube-controller-manager", "kube-controller-manager"),
        ("k8s.io/kubernetes/cmd/kube-scheduler", "kube-scheduler"),
        ("k8s.io/kubernetes/cmd/kubectl", "kubectl"),
        ("k8s.io/kubernetes/cmd/kubelet", "kubelet"),
        ("k8s.io/kubernetes/cmd/kube-proxy", "kube-proxy"),
        ("k8s.io/kubernetes/test/images/agnhost", "agnhost"),
        ("./pause", "pause"),
    ],
    sources: &["pause/main.go"],
};

const COREDNS: Module =
    Module { name: "coredns", packages: &[("tidegate.io/tests/cluster/coredns", "coredns")], sources: &["main.go"] };

/// It belongs to no cluster, but is built with what does.
const HELM: Module = Module { name: "helm", packages: &[("helm.sh/helm/v4/cmd/helm", "helm")], sources: &[] };

/// What a cluster without nodes takes.
const CONTROL_PLANE: &[&str] = &["etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubectl"];

/// Where the programs are.
#[derive(Clone, Debug)]
pub struct Programs {
    folders: Vec<PathBuf>,
}

impl Programs {
    /// Those that are there already.
    ///
    /// # Errors
    /// Which are missing, and how to have them.
    pub fn find(tier: Tier) -> Result<Self, Failure> {
        let assets = env::var_os(ASSETS).map(PathBuf::from);
        let folders = match &assets {
            Some(folder) => vec![folder.clone()],
            None => MODULES.iter().map(Module::folder).collect::<Result<_, _>>()?,
        };
        let programs = Self { folders };
        let all = MODULES.iter().flat_map(|module| module.packages).map(|(_, program)| *program);
        let needed: Vec<&str> = match tier {
            Tier::ControlPlane => CONTROL_PLANE.to_vec(),
            Tier::TwoNodes => all.collect(),
        };
        let missing: Vec<&str> = needed.into_iter().filter(|name| !programs.path(name).is_file()).collect();
        match assets {
            _ if missing.is_empty() => Ok(programs),
            Some(folder) => Err(format!("{ASSETS}={} has no {}", folder.display(), missing.join(", ")).into()),
            None => Err(format!("the cluster's programs are not built ({}); {ADVICE}", missing.join(", ")).into()),
        }
    }

    /// Those that a cluster takes, built if they are missing. `say` is told how far it is.
    ///
    /// # Errors
    /// What the Go compiler says.
    pub fn build(tier: Tier, say: &mut dyn FnMut(&str)) -> Result<Self, Failure> {
        if Self::find(tier).is_err() && env::var_os(ASSETS).is_none() {
            fs::create_dir_all(cache()?)?;
            let lock = fs::File::create(cache()?.join("lock"))?;
            if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
                say("waiting for another build");
                flock(&lock, FlockOperation::LockExclusive)?;
            }
            for module in MODULES.iter().chain([&HELM]) {
                module.build(say)?;
            }
        }
        Self::find(tier)
    }

    /// Helm, if it is there already.
    ///
    /// # Errors
    /// How to have it.
    pub fn helm() -> Result<PathBuf, Failure> {
        let folder = env::var_os(ASSETS).map_or_else(|| HELM.folder(), |assets| Ok(assets.into()))?;
        let helm = folder.join("helm");
        if helm.is_file() { Ok(helm) } else { Err(format!("{} is not built; {ADVICE}", helm.display()).into()) }
    }

    /// Where the program of this name is, or would be.
    pub fn path(&self, name: &str) -> PathBuf {
        let mut paths = self.folders.iter().map(|folder| folder.join(name));
        let last = paths.next_back().expect("there are modules");
        paths.find(|path| path.is_file()).unwrap_or(last)
    }
}

impl Module {
    fn source(&self) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("cluster").join(self.name)
    }

    /// Where its programs are kept: what is built from other sources, or otherwise, is kept elsewhere.
    fn folder(&self) -> Result<PathBuf, Failure> {
        let mut all = self.arguments()?.join("\0").into_bytes();
        for file in ["go.mod", "go.sum"].iter().chain(self.sources) {
            let path = self.source().join(file);
            all.extend(fs::read(&path).map_err(|error| format!("{}: {error}", path.display()))?);
        }
        Ok(cache()?.join(format!("{}-{:016x}", self.name, xxh3_128(&all) >> 64)))
    }

    /// What `go` is told, but for where the programs go.
    fn arguments(&self) -> Result<Vec<String>, Failure> {
        let mut flags = "-s -w".to_owned();
        if let Some(version) = self.version("k8s.io/kubernetes")? {
            // What the release's own build puts in; `kubectl version` and the nodes' status show it.
            let minor = version.split('.').nth(1).unwrap_or_default();
            for (name, value) in [
                ("gitVersion", &version[..]),
                ("gitMajor", "1"),
                ("gitMinor", minor),
                ("gitTreeState", "clean"),
                ("gitCommit", "0000000"),
                ("buildDate", "1970-01-01T00:00:00Z"),
            ] {
                flags += &format!(" -X k8s.io/component-base/version.{name}={value}");
            }
        }
        let mut arguments: Vec<String> =
            ["build", "-buildvcs=false", "-trimpath", "-v", "-ldflags", &flags].map(str::to_owned).into();
        arguments.extend(self.packages.iter().map(|(package, _)| (*package).to_owned()));
        Ok(arguments)
    }

    /// Which version of another module it takes.
    fn version(&self, of: &str) -> Result<Option<String>, Failure> {
        let text = fs::read_to_string(self.source().join("go.mod"))?;
        let after = |line: &str| Some(line.trim().strip_prefix(of)?.strip_prefix(' ')?.split(' ').next()?.to_owned());
        Ok(text.lines().find_map(after))
    }

    fn build(&self, say: &mut dyn FnMut(&str)) -> Result<(), Failure> {
        let folder = self.folder()?;
        if self.packages.iter().all(|(_, program)| folder.join(program).is_file()) {
            return Ok(());
        }
        // What is there under its name is whole: an interrupted build leaves only a draft, which the next one takes over.
        let draft = cache()?.join(format!("{}-draft", self.name));
        fs::create_dir_all(&draft)?;
        say(&format!("building {} programs of tests/cluster/{}", self.packages.len(), self.name));
        self.compile(&draft, say)?;
        for (package, program) in self.packages {
            let built = package.rsplit('/').find(|part| !is_major_version(part)).unwrap_or(package);
            if built != *program {
                fs::rename(draft.join(built), draft.join(program))?;
            }
        }
        drop(fs::remove_dir_all(&folder));
        fs::rename(&draft, &folder)?;
        Ok(())
    }

    /// Runs `go build`, whose `-v` names each package that it compiles.
    fn compile(&self, into: &Path, say: &mut dyn FnMut(&str)) -> Result<(), Failure> {
        let mut arguments = self.arguments()?;
        arguments.splice(1..1, ["-o".to_owned(), format!("{}/", into.display())]);
        let mut go = Command::new("go");
        go.args(arguments).current_dir(self.source()).env("CGO_ENABLED", "0");
        go.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let (begun, mut said) = (Instant::now(), Instant::now());
        let mut child = go.spawn().map_err(|error| format!("go build: {error}; is there Go 1.25 or newer?"))?;
        let (mut packages, mut last) = (0, VecDeque::new());
        for line in BufReader::new(child.stderr.take().expect("it is piped")).lines() {
            packages += 1;
            last.push_back(line?);
            if last.len() > LAST_WORDS {
                last.pop_front();
            }
            if said.elapsed() >= PROGRESS {
                said = Instant::now();
                say(&format!("{packages} packages compiled in {} s", begun.elapsed().as_secs()));
            }
        }
        let status = child.wait()?;
        if !status.success() {
            let words: Vec<String> = last.into();
            return Err(format!("go build in tests/cluster/{}: {status}:\n{}", self.name, words.join("\n")).into());
        }
        say(&format!("built in {} s", begun.elapsed().as_secs()));
        Ok(())
    }
}

/// `v3` is no name, but the end of a module's path.
fn is_major_version(part: &str) -> bool {
    part.strip_prefix('v').is_some_and(|number| number.parse::<u32>().is_ok())
}

/// Where programs are kept.
fn cache() -> Result<PathBuf, Failure> {
    let folder = |name: &str| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    folder(CACHE)
        .or_else(|| Some(folder("XDG_CACHE_HOME")?.join("tidegate-cluster")))
        .or_else(|| Some(folder("HOME")?.join(".cache/tidegate-cluster")))
        .ok_or_else(|| format!("there is no HOME to keep programs in; set {CACHE} to a directory").into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_has_a_version_and_flags_of_it() {
        let module = &MODULES[0];
        let version = module.version("k8s.io/kubernetes").unwrap().unwrap();
        assert!(version.starts_with("v1."), "{version}");
        let arguments = module.arguments().unwrap().join(" ");
        assert!(arguments.contains(&format!("gitVersion={version} -X ")), "{arguments}");
        assert_eq!(module.version("example.com/none").unwrap(), None);
    }

    #[test]
    fn a_program_is_called_by_its_package() {
        assert!(is_major_version("v3") && !is_major_version("vet") && !is_major_version("kubectl"));
    }
}
