//! Broken manifests: `check` explains each (see `gateway/src/check_tests.rs` for what it must say), and `run` serves the
//! rest of the directory meanwhile.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use tidegate::{check::check, compile::settings::Settings, control::files::read_all};
use tidegate_tests::{Bed, Client, Net, client::hit, http_pod, pod_manifest, service_manifest};

fn directory(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("it").join(name)
}

#[test]
fn a_directory_of_nothing_but_broken_manifests_has_a_finding_for_each() {
    let batch = read_all(&[directory("broken"), directory("broken-sources")]);
    let report = check(batch.apply, &Settings::default(), &batch.problems, batch.files);
    assert_eq!(report.exit_code(), 2);
    let named: BTreeSet<PathBuf> = report.findings().iter().map(|finding| finding.file.to_path_buf()).collect();
    for name in ["broken", "broken-sources"] {
        for entry in fs::read_dir(directory(name)).unwrap() {
            let path = entry.unwrap().path();
            assert!(named.contains(&path), "nothing was found in {}", path.display());
        }
    }
    for finding in report.findings() {
        assert!(!finding.message.is_empty() && !finding.fix.is_empty() && finding.line > 0, "{finding}");
    }
}

#[test]
fn what_the_source_alone_can_know_is_found_too() {
    let path = directory("broken-sources").join("duplicate-object.yaml");
    let batch = read_all(std::slice::from_ref(&path));
    assert_eq!(batch.apply.len(), 1);
    assert_eq!(batch.problems.iter().map(|p| (p.reason, p.line)).collect::<Vec<_>>(), [("DuplicateObject", 10)]);
    let missing = read_all(&[directory("no-such-directory")]);
    assert_eq!(check(missing.apply, &Settings::default(), &missing.problems, 0).exit_code(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_rest_of_the_directory_is_served_meanwhile() {
    let net = Net::next();
    let _pod = http_pod("good", net.ip(2)).await;
    let ingress = "---\napiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata: {name: good}\nspec: {rules: [{host: good.com, http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: good, port: {number: 80}}}}]}}]}\n";
    let bed =
        Bed::start(net, &(pod_manifest("good", "good", net.ip(2)) + &service_manifest("good", "good", "") + ingress))
            .await;
    let addr = bed.cluster_addr("good");
    let mut keep_alive = Client::connect(bed.app.http()).await;
    for entry in fs::read_dir(directory("broken")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        bed.apply(&name, &fs::read_to_string(&path).unwrap()).await;
        assert_eq!(hit(addr).await.unwrap(), "good", "{name}");
        assert_eq!(keep_alive.get("good.com", "/").await.pod().as_deref(), Some("good"), "{name}");
    }
    assert!(bed.findings().len() >= 40);
}

/// A typo in the file that is being served: its last good objects stay until it is mended.
#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_breaks_keeps_serving_as_it_did() {
    let net = Net::next();
    let _pod = http_pod("a", net.ip(2)).await;
    let manifests = pod_manifest("a", "web", net.ip(2)) + &service_manifest("web", "web", "");
    let bed = Bed::start(net, "").await;
    bed.apply("web.yaml", &manifests).await;
    let addr = bed.cluster_addr("web");
    bed.apply("web.yaml", &manifests.replace("kind: Service\n", "kind: Service\n\tx: [\n")).await;
    assert!(bed.findings().contains(&"InvalidYaml") && bed.findings().contains(&"LastGoodState"));
    assert_eq!(hit(addr).await.unwrap(), "a");
    bed.apply("web.yaml", &manifests).await;
    assert_eq!(bed.findings(), [""; 0]);
    assert_eq!(hit(addr).await.unwrap(), "a");
}
