//! Writes Tidegate's image to a file, without a daemon and without a container. The same sources give the same digest.
//!
//! ```console
//! $ cargo run -p tidegate-tests --bin image -- --output tidegate.tar     # a release: static, optimised; takes minutes
//! $ cargo run -p tidegate-tests --bin image -- --output tidegate.tar --program target/debug/tidegate
//! $ skopeo copy --format oci oci-archive:tidegate.tar docker://ghcr.io/tidegate/tidegate:0.1.0
//! ```
//!
//! `--sbom FILE` writes what is in the program beside it, as CycloneDX JSON; that takes `cargo install cargo-cyclonedx`.

use std::{
    error::Error,
    fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

use clap::Parser;
use tidegate_tests::image;

/// Writes Tidegate's image to a file.
#[derive(Debug, Parser)]
struct Args {
    /// Write it here: an OCI archive that `ctr`, `docker load`, `podman load` and `skopeo` take
    #[arg(long, value_name = "FILE")]
    output: PathBuf,
    /// How the program is built
    #[arg(long, default_value = "image", value_name = "PROFILE", conflicts_with = "program")]
    profile: String,
    /// Take this program as it is, with the shared libraries that it needs
    #[arg(long, value_name = "FILE")]
    program: Option<PathBuf>,
    /// Its repository and tag [default: ghcr.io/tidegate/tidegate:VERSION]
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Write a list of the crates in the program here
    #[arg(long, value_name = "FILE")]
    sbom: Option<PathBuf>,
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("image: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<(), Box<dyn Error>> {
    let program = match &args.program {
        Some(program) => program.clone(),
        None => image::build(&args.profile)?,
    };
    let name = args.name.clone().unwrap_or_else(|| format!("{}:{}", image::REPOSITORY, tidegate::VERSION));
    let digest = image::image(&name, &program, image::created())?.write(&args.output)?;
    if args.program.is_none() && args.profile == "image" {
        let bytes = image::check_size(&args.output)?;
        eprintln!("{name} {:.1} MiB", bytes as f64 / f64::from(1 << 20));
    }
    if let Some(file) = &args.sbom {
        sbom(file)?;
    }
    println!("{digest}");
    Ok(())
}

/// Has `cargo cyclonedx` write which crates the program is made of: those for Linux, not those of tests.
fn sbom(file: &Path) -> Result<(), Box<dyn Error>> {
    let root = image::root();
    let target = image::target();
    let mut cargo = Command::new("cargo");
    cargo.args(["cyclonedx", "--format", "json", "--describe", "binaries", "--no-build-deps", "--target", &target]);
    cargo.arg("--manifest-path").arg(root.join("gateway/Cargo.toml"));
    cargo.env("SOURCE_DATE_EPOCH", image::created().to_string());
    let status = cargo.status()?;
    if !status.success() {
        return Err("no SBOM: `cargo cyclonedx` failed; is it there? cargo install cargo-cyclonedx".into());
    }
    let mut is_there = false;
    // It writes one for each program of the workspace, beside its package.
    for member in fs::read_dir(&root)?.flatten().filter(|entry| entry.path().join("Cargo.toml").exists()) {
        for entry in fs::read_dir(member.path())?.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if !name.ends_with("_bin.cdx.json") {
                continue;
            }
            let text = fs::read_to_string(entry.path())?;
            fs::remove_file(entry.path())?;
            if name == "tidegate_bin.cdx.json" {
                // Where the sources were is nobody's business, and another path would be another file.
                fs::write(file, text.replace(&*root.to_string_lossy(), ""))?;
                is_there = true;
            }
        }
    }
    if is_there { Ok(()) } else { Err("no SBOM: `cargo cyclonedx` wrote none".into()) }
}
