//! The manifests of this folder, one idea each.
//!
//! Each begins with a comment that says what to run while `tidegate demo` runs in another terminal, and what to see:
//!
//! - `# $ command`, and below it the lines it prints, where `…` stands for anything;
//! - `# Needs other.yaml.` if it cannot be understood without another manifest (all of them need `pods.yaml`).
//!
//! `tests/it/examples.rs` loads every manifest and runs every command, so what they say is true.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// Every example manifest, by name.
///
/// # Errors
/// If the folder cannot be read.
pub fn manifests() -> io::Result<Vec<PathBuf>> {
    let entries = fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")))?;
    let mut paths = entries.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>()?;
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "yaml"));
    paths.sort();
    Ok(paths)
}
