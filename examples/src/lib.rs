//! The manifests of this folder, one idea each. Each begins with what to run and what to see; `tests/it/examples.rs` runs
//! all of it against `tidegate demo`.

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
