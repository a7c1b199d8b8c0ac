use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;

struct Dir(PathBuf);

impl Dir {
    fn new() -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("tidegate-files-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.0.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.0));
    }
}

fn service(name: &str, port: impl std::fmt::Display) -> String {
    format!("apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{ports: [{{port: {port}}}]}}\n---\n")
}

fn names(documents: &[Document]) -> Vec<String> {
    documents.iter().map(|document| document.object.object_ref().name.to_string()).collect()
}

fn reasons(batch: &Batch) -> Vec<&'static str> {
    batch.problems.iter().map(|problem| problem.reason).collect()
}

#[test]
fn reads_manifests_in_directories_and_only_what_changed_the_next_time() {
    let dir = Dir::new();
    dir.write("a.yaml", &service("a", 80));
    dir.write("sub/b.yml", &service("b", 80));
    dir.write(
        "c.json",
        r#"{"apiVersion":"v1","kind":"Service","metadata":{"name":"c"},"spec":{"ports":[{"port":80}]}}"#,
    );
    dir.write("README.md", "not a manifest");
    dir.write(".hidden.yaml", "nor: this");
    let mut files = Files::new([dir.0.clone()]);
    let first = files.scan();
    assert_eq!((names(&first.apply), first.files), (vec!["a".into(), "b".into(), "c".into()], 3));
    assert_eq!(reasons(&first), [""; 0]);
    let second = files.scan();
    assert!(second.apply.is_empty() && second.delete.is_empty());
    dir.write("a.yaml", &(service("a", 8080) + &service("d", 80)));
    fs::remove_file(dir.0.join("c.json")).unwrap();
    let third = files.scan();
    assert_eq!(names(&third.apply), ["a", "d"]);
    assert_eq!(third.delete.iter().map(ToString::to_string).collect::<Vec<_>>(), ["Service default/c"]);
}

#[test]
fn a_file_that_breaks_keeps_its_last_good_objects() {
    let dir = Dir::new();
    dir.write("a.yaml", &(service("a", 80) + &service("b", 80)));
    let mut files = Files::new([dir.0.clone()]);
    files.scan();
    dir.write("a.yaml", &(service("a", 8081) + "kind: Service\n\tbroken: [\n"));
    let broken = files.scan();
    assert!(broken.delete.is_empty(), "{:?}", broken.delete);
    assert!(
        reasons(&broken).contains(&"LastGoodState") && reasons(&broken).contains(&"InvalidYaml"),
        "{:?}",
        reasons(&broken)
    );
    dir.write("a.yaml", &service("a", "[]"));
    let wrong_field = files.scan();
    assert_eq!(wrong_field.delete.len(), 1, "b was removed on purpose: the error is about a");
    dir.write("a.yaml", &service("a", 80));
    let mended = files.scan();
    assert_eq!(reasons(&mended), [""; 0]);
}

#[test]
fn of_two_objects_of_one_name_the_first_file_wins_and_the_other_takes_over() {
    let dir = Dir::new();
    dir.write("1.yaml", &service("a", 1));
    dir.write("2.yaml", &service("a", 2));
    let mut files = Files::new([dir.0.clone()]);
    let first = files.scan();
    assert_eq!((first.apply.len(), reasons(&first)), (1, vec!["DuplicateObject"]));
    fs::remove_file(dir.0.join("1.yaml")).unwrap();
    let second = files.scan();
    assert!(second.delete.is_empty());
    assert_eq!(second.apply[0].origin.file(), dir.0.join("2.yaml"));
}

#[test]
fn what_cannot_be_read_is_a_finding() {
    let dir = Dir::new();
    dir.write("latin1.yaml", "");
    fs::write(dir.0.join("latin1.yaml"), [0xff, 0xfe, b'x']).unwrap();
    let missing = dir.0.join("missing.yaml");
    let batch = read_all(&[dir.0.clone(), missing]);
    assert_eq!(reasons(&batch), ["UnreadableFile", "UnreadableFile"]);
}

#[test]
fn a_change_on_disk_arrives_as_a_batch() {
    let dir = Dir::new();
    dir.write("a.yaml", &service("a", 80));
    let (send, batches) = mpsc::channel();
    let files = Files::new([dir.0.clone()]);
    std::thread::spawn(move || files.watch(|batch| send.send(batch).is_ok()));
    let next = || batches.recv_timeout(Duration::from_secs(30)).unwrap();
    assert_eq!(names(&next().apply), ["a"]);
    // An editor's way: a new file takes the place of the old one.
    dir.write("a.yaml.tmp", &service("b", 80));
    fs::rename(dir.0.join("a.yaml.tmp"), dir.0.join("a.yaml")).unwrap();
    let mut batch = next();
    while batch.apply.is_empty() {
        batch = next();
    }
    assert_eq!((names(&batch.apply), batch.delete.len()), (vec!["b".into()], 1));
}

/// A Kubernetes mount, a package store, `cp -p`: another file of the same size and age takes the place of the first.
#[test]
fn another_file_of_the_same_size_and_age_is_a_change() {
    let dir = Dir::new();
    dir.write("a.yaml", &service("a", 8080));
    dir.write("b.draft", &service("a", 8081));
    for name in ["a.yaml", "b.draft"] {
        fs::File::open(dir.0.join(name)).unwrap().set_modified(SystemTime::UNIX_EPOCH).unwrap();
    }
    let mut files = Files::new([dir.0.clone()]);
    assert_eq!(files.scan().apply.len(), 1);
    fs::rename(dir.0.join("b.draft"), dir.0.join("a.yaml")).unwrap();
    assert_eq!(files.scan().apply.len(), 1);
}

#[test]
fn a_directory_that_cannot_be_read_keeps_its_last_good_objects() {
    let dir = Dir::new();
    dir.write("sub/a.yaml", &service("a", 80));
    let mut files = Files::new([dir.0.join("sub")]);
    files.scan();
    fs::rename(dir.0.join("sub"), dir.0.join("away")).unwrap();
    let lost = files.scan();
    assert_eq!(lost.delete, []);
    assert!(reasons(&lost).contains(&"UnreadableDirectory"), "{:?}", reasons(&lost));
    fs::rename(dir.0.join("away"), dir.0.join("sub")).unwrap();
    dir.write("sub/a.yaml", &service("b", 80));
    let back = files.scan();
    assert_eq!((names(&back.apply), back.delete.len()), (vec!["b".into()], 1));
    assert_eq!(reasons(&back), [""; 0]);
}

/// Reading fails for a moment, for want of file descriptors say: the file is read again without having to change.
#[cfg(target_os = "linux")]
#[test]
fn a_file_that_could_not_be_read_is_read_again() {
    let stamp = Stamp::of(Path::new("/proc/self/mem")).unwrap();
    let state = load(Path::new("/proc/self/mem"), Some(stamp));
    assert_eq!(state.problems[0].reason, "UnreadableFile");
    assert!(state.stamp.is_none());
}

#[cfg(unix)]
#[test]
fn a_directory_that_contains_itself_is_read_once() {
    let dir = Dir::new();
    dir.write("sub/a.yaml", &service("a", 80));
    for circle in ["sub/x", "sub/y"] {
        std::os::unix::fs::symlink("..", dir.0.join(circle)).unwrap();
    }
    let (send, done) = mpsc::channel();
    let root = dir.0.clone();
    std::thread::spawn(move || send.send(read_all(&[root])));
    let batch = done.recv_timeout(Duration::from_secs(20)).expect("two circles are not 2^32 directories");
    assert_eq!((batch.files, batch.problems.len()), (1, 0));
}

/// A repository of a stranger, checked: neither endless memory nor endless waiting.
#[cfg(target_os = "linux")]
#[test]
fn what_is_not_a_file_is_not_read() {
    let dir = Dir::new();
    std::os::unix::fs::symlink("/dev/tty", dir.0.join("tty.yaml")).unwrap();
    std::os::unix::fs::symlink("/dev/null", dir.0.join("null.yaml")).unwrap();
    let batch = read_all(std::slice::from_ref(&dir.0));
    assert_eq!(reasons(&batch), ["UnreadableFile", "UnreadableFile"]);
}

#[cfg(unix)]
#[test]
fn a_mounted_config_map_is_followed() {
    let dir = Dir::new();
    let link = |target: &str, name: &str| std::os::unix::fs::symlink(target, dir.0.join(name)).unwrap();
    dir.write("..1/a.yaml", &service("a", 80));
    link("..1", "..data");
    link("..data/a.yaml", "a.yaml");
    let (send, batches) = mpsc::channel();
    let files = Files::new([dir.0.clone()]);
    std::thread::spawn(move || files.watch(|batch| send.send(batch).is_ok()));
    let next = |patience| loop {
        let batch: Batch = batches.recv_timeout(patience).unwrap();
        if !batch.apply.is_empty() {
            break names(&batch.apply);
        }
    };
    assert_eq!(next(Duration::from_secs(30)), ["a"]);
    dir.write("..2/a.yaml", &service("b", 80));
    link("..2", "..data_tmp");
    fs::rename(dir.0.join("..data_tmp"), dir.0.join("..data")).unwrap();
    fs::remove_dir_all(dir.0.join("..1")).unwrap();
    // Sooner than the look at everything that comes anyway.
    assert_eq!(next(RESCAN / 2), ["b"]);
}

#[cfg(unix)]
#[test]
fn a_root_that_is_a_link_is_watched() {
    let dir = Dir::new();
    dir.write("real/a.yaml", &service("a", 80));
    std::os::unix::fs::symlink("real", dir.0.join("link")).unwrap();
    let (send, batches) = mpsc::channel();
    let files = Files::new([dir.0.join("link")]);
    std::thread::spawn(move || files.watch(|batch| send.send(batch).is_ok()));
    let next = |patience| loop {
        let batch: Batch = batches.recv_timeout(patience).unwrap();
        if !batch.apply.is_empty() {
            break names(&batch.apply);
        }
    };
    assert_eq!(next(Duration::from_secs(30)), ["a"]);
    dir.write("real/a.yaml", &service("b", 80));
    assert_eq!(next(RESCAN / 2), ["b"]);
}

/// What batches add up to, whatever happens to files: the same as reading everything at once.
#[test]
fn batch_after_batch_adds_up_to_what_reading_at_once_gives() {
    let dir = Dir::new();
    let mut files = Files::new([dir.0.clone()]);
    let mut held: BTreeMap<ObjectRef, Document> = BTreeMap::new();
    let mut dice = fastrand::Rng::with_seed(11);
    for _ in 0..400 {
        let path = dir.0.join(format!("{}.yaml", dice.usize(..4)));
        // Objects move between files, stand in several, or twice in one; a file breaks, or goes.
        let text: String =
            (0..dice.usize(..4)).map(|_| service(["a", "b", "c"][dice.usize(..3)], dice.u16(1..9))).collect();
        match dice.usize(..8) {
            0 => drop(fs::remove_file(&path)),
            _ => fs::write(&path, text).unwrap(),
        }
        let batch = if dice.bool() {
            files.scan_only(&BTreeSet::from([path]))
        } else {
            files.scan_told(&BTreeSet::from([path]))
        };
        for object in batch.delete {
            held.remove(&object).expect("what is deleted was there");
        }
        held.extend(batch.apply.into_iter().map(|document| (document.object.object_ref(), document)));
        let fresh = read_all(std::slice::from_ref(&dir.0));
        let at_once: BTreeMap<_, _> =
            fresh.apply.into_iter().map(|document| (document.object.object_ref(), document)).collect();
        assert_eq!(held.keys().collect::<Vec<_>>(), at_once.keys().collect::<Vec<_>>());
        assert!(held.iter().zip(&at_once).all(|(a, b)| a.1.object == b.1.object && a.1.origin == b.1.origin));
        assert_eq!(batch.problems, fresh.problems);
    }
}

#[test]
fn what_editors_leave_beside_a_file_is_no_reason_to_look_at_everything() {
    let dir = Dir::new();
    dir.write("sub/a.yaml", &service("a", 80));
    let mut files = Files::new([dir.0.clone()]);
    files.scan();
    dir.write("sub/.a.yaml.swp", "x");
    dir.write("sub/a.yaml~", "x");
    for (name, matters) in [
        ("sub/.a.yaml.swp", false),
        ("sub/a.yaml~", false),
        ("sub/4913", false),
        ("sub/new.yaml", true),
        ("sub", true),
        ("..data", true),
    ] {
        assert_eq!(files.may_matter(&dir.0.join(name)), matters, "{name}");
    }
}
