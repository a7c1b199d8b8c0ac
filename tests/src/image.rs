//! Tidegate's own image: what is in it, and how its program is built. `deploy/Containerfile` makes the same with podman or docker.

use std::{
    collections::BTreeMap,
    env, fs, io,
    path::{Path, PathBuf},
    process::Command,
};

use crate::oci::{File, Image};

/// Where releases are.
pub const REPOSITORY: &str = "ghcr.io/tidegate/tidegate";

/// What an image of a release may have at most: it is fetched by each node that begins to run it.
pub const MAX_BYTES: u64 = 25 << 20;

/// Nobody in particular, as in other images without a distribution.
const USER: &str = "65532:65532";

/// HTTP, HTTPS and the admin interface.
const PORTS: [u16; 3] = [8080, 8443, 9901];

/// `CAP_NET_BIND_SERVICE` and `CAP_NET_ADMIN` in `linux/capability.h`: permitted only, see `gateway/src/capabilities.rs`.
pub const PERMITTED: u64 = 1 << 10 | 1 << 12;

/// Tidegate's image with this program. A program that needs shared libraries gets this machine's, found by `ldd`: that is for tests, which
/// have such a program anyway.
///
/// # Errors
/// If the libraries cannot be found.
pub fn image(name: &str, program: &Path, created: u64) -> io::Result<Image> {
    let mut files =
        vec![File::Program { path: "/usr/bin/tidegate".to_owned(), source: program.to_owned(), permitted: PERMITTED }];
    for library in libraries(program)? {
        let path = library.display().to_string();
        files.push(File::Regular { path, source: library, mode: 0o755 });
    }
    // Somebody to be, for whoever looks the user up.
    let passwd = b"root:x:0:0:root:/:/sbin/nologin\nnonroot:x:65532:65532:nonroot:/:/sbin/nologin\n".to_vec();
    let group = b"root:x:0:\nnonroot:x:65532:\n".to_vec();
    files.push(File::Bytes { path: "/etc/passwd".to_owned(), bytes: passwd, mode: 0o644 });
    files.push(File::Bytes { path: "/etc/group".to_owned(), bytes: group, mode: 0o644 });
    Ok(Image {
        name: name.to_owned(),
        entrypoint: vec!["/usr/bin/tidegate".to_owned()],
        user: USER.to_owned(),
        ports: PORTS.to_vec(),
        labels: labels(),
        created,
        files,
        ..Image::default()
    })
}

/// What the image says about itself.
fn labels() -> BTreeMap<String, String> {
    let of = |name: &str, value: &str| (format!("org.opencontainers.image.{name}"), value.to_owned());
    BTreeMap::from([
        of("title", "tidegate"),
        of("description", "The front door of a Kubernetes cluster: service proxy and Ingress in one binary"),
        of("licenses", "Apache-2.0 OR MIT"),
        of("source", "https://github.com/tidegate/tidegate"),
        of("version", tidegate::VERSION),
    ])
}

/// Builds the program of a release: linked statically, so that there need be nothing beside it, and without a trace of where it was built.
/// It is at the path that is returned.
///
/// glibc's resolver works in it without anything from outside: since 2.34 what reads `/etc/hosts` and asks DNS is in libc itself.
///
/// # Errors
/// If cargo cannot be run or does not succeed.
pub fn build(profile: &str) -> io::Result<PathBuf> {
    let root = root();
    let target = target();
    let directory = root.join("target/image");
    let (flags, c_flags) = flags(&root, &cargo_home());
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["build", "--locked", "--package", "tidegate", "--bin", "tidegate", "--profile", profile]);
    cargo.args(["--target", &target, "--target-dir"]).arg(&directory).current_dir(&root);
    cargo.env("CARGO_ENCODED_RUSTFLAGS", flags.join("\u{1f}")).env("CFLAGS", c_flags.join(" "));
    let status = cargo.status()?;
    if !status.success() {
        return Err(io::Error::other(format!("the program cannot be built: cargo ended with {status}")));
    }
    let profile = if profile == "dev" { "debug" } else { profile };
    Ok(directory.join(target).join(profile).join("tidegate"))
}

/// What rustc and the C compiler are told: the same program, wherever it is built.
fn flags(root: &Path, cargo_home: &Path) -> (Vec<String>, Vec<String>) {
    let places = [(cargo_home, "/cargo"), (root, "/tidegate")];
    let map = |option: &str| places.map(|(from, to)| format!("{option}={}={to}", from.display()));
    let mut flags = vec!["-Ctarget-feature=+crt-static".to_owned()];
    flags.extend(map("--remap-path-prefix"));
    (flags, map("-ffile-prefix-map").to_vec())
}

/// For which Rust target releases are built.
pub fn target() -> String {
    format!("{}-unknown-linux-gnu", env::consts::ARCH)
}

/// When a release was made: `SOURCE_DATE_EPOCH`, else the time of the last commit, else 1970. Never now.
pub fn created() -> u64 {
    let from_git = || {
        let git = Command::new("git").args(["log", "-1", "--format=%ct"]).current_dir(root()).output().ok()?;
        String::from_utf8(git.stdout).ok()
    };
    let said = env::var("SOURCE_DATE_EPOCH").ok().or_else(from_git);
    said.and_then(|seconds| seconds.trim().parse().ok()).unwrap_or(0)
}

/// The shared libraries that a program needs, and what loads them; none if it is static.
fn libraries(program: &Path) -> io::Result<Vec<PathBuf>> {
    let ldd = Command::new("ldd").arg(program).output()?;
    let said = String::from_utf8_lossy(&ldd.stdout).into_owned() + &String::from_utf8_lossy(&ldd.stderr);
    if said.contains("statically linked") || said.contains("not a dynamic executable") {
        return Ok(Vec::new());
    }
    if !ldd.status.success() || said.contains("not found") {
        return Err(io::Error::other(format!("ldd {}: {said}", program.display())));
    }
    Ok(said.split_whitespace().filter(|word| word.starts_with('/')).map(PathBuf::from).collect())
}

/// The workspace.
pub fn root() -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.parent().map_or_else(|| tests.to_owned(), Path::to_owned)
}

fn cargo_home() -> PathBuf {
    env::var_os("CARGO_HOME").map_or_else(|| env::home_dir().unwrap_or_default().join(".cargo"), PathBuf::from)
}

/// Complains of an image of a release that has grown too large.
///
/// # Errors
/// If it is larger than [`MAX_BYTES`], or cannot be read.
pub fn check_size(image: &Path) -> io::Result<u64> {
    let bytes = fs::metadata(image)?.len();
    if bytes > MAX_BYTES {
        let said = format!("{} has {bytes} bytes, more than {MAX_BYTES}; what has come in lately?", image.display());
        return Err(io::Error::other(said));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_containerfile_makes_the_same() {
        let text = fs::read_to_string(root().join("deploy/Containerfile")).unwrap();
        let image = image("tidegate:test", Path::new("/bin/sh"), 0).unwrap();
        let (flags, c_flags) = flags(Path::new("/src"), Path::new("/usr/local/cargo"));
        let mut lines = vec![
            format!("ENV RUSTFLAGS=\"{}\"", flags.join(" ")),
            format!("ENV CFLAGS=\"{}\"", c_flags.join(" ")),
            format!("USER {}", image.user),
            format!("ENTRYPOINT [\"{}\"]", image.entrypoint.join("\", \"")),
            format!("EXPOSE {}", image.ports.iter().map(u16::to_string).collect::<Vec<_>>().join(" ")),
        ];
        lines.extend(
            image
                .labels
                .iter()
                .filter(|(name, _)| !name.ends_with("version"))
                .map(|(n, v)| format!("LABEL {n}=\"{v}\"")),
        );
        for line in lines {
            assert!(text.lines().any(|there| there == line), "deploy/Containerfile has no line\n{line}");
        }
        for file in &image.files {
            match file {
                File::Bytes { path, .. } => assert!(text.contains(path.as_str()), "{path}"),
                File::Program { path, .. } => assert!(text.contains(&format!(" {path}\n")), "{path}"),
                File::Regular { .. } | File::Directory { .. } | File::Link { .. } => {}
            }
        }
    }

    #[test]
    fn a_program_brings_its_libraries_along() {
        let found = libraries(&env::current_exe().unwrap()).unwrap();
        let names: Vec<_> = found.iter().filter_map(|path| path.file_name()?.to_str()).collect();
        assert!(names.contains(&"libc.so.6") && names.iter().any(|name| name.starts_with("ld-linux")), "{names:?}");
        assert_eq!(libraries(Path::new("/nobody/has/this")).unwrap_err().kind(), io::ErrorKind::Other);
    }
}
