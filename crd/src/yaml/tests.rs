//! Manifests as people write them, as `kubectl` prints them, and as nobody should.

use proptest::prelude::*;

use super::*;

fn read(text: &str) -> Parsed {
    parse(Path::new("test.yaml"), text)
}

/// Reads text without problems and with one object.
fn one(text: &str) -> Document {
    let mut parsed = read(text);
    assert_eq!(parsed.problems, [], "{text}");
    assert_eq!(parsed.documents.len(), 1, "{text}");
    parsed.documents.remove(0)
}

/// Reads text with one problem.
fn problem(text: &str) -> Problem {
    let mut parsed = read(text);
    assert_eq!(parsed.problems.len(), 1, "{text}\n{:#?}", parsed.problems);
    parsed.problems.remove(0)
}

/// Reads text with one error and no object.
fn refused(text: &str) -> Problem {
    assert_eq!(read(text).documents, []);
    let problem = problem(text);
    assert_eq!(problem.severity, Severity::Error);
    problem
}

fn names(parsed: &Parsed) -> Vec<String> {
    parsed.documents.iter().map(|document| document.object.object_ref().to_string()).collect()
}

const SERVICE: &str = "\
apiVersion: v1
kind: Service
metadata:
  name: kubia
  annotations:
    a.b/c: x
spec:
  sessionAffinity: ClientIP
  selector: {app: kubia}
  ports:
  - name: http
    port: 80
    targetPort: 8080
  - name: https
    port: 443
    targetPort: https
";

#[test]
fn a_service_and_the_line_of_each_field() {
    let Document { object, origin } = one(SERVICE);
    let Object::Service(service) = object else { panic!("not a Service") };
    let ports = service.spec.unwrap().ports.unwrap();
    assert_eq!((ports[0].port, ports[1].port), (80, 443));
    assert_eq!(ports[1].target_port, Some(crate::core::IntOrString::String("https".to_owned())));
    assert_eq!((origin.file(), origin.line()), (Path::new("test.yaml"), 1));
    for (field, line) in [
        ("kind", 2),
        ("metadata.annotations[\"a.b/c\"]", 6),
        ("spec.selector.app", 9),
        ("spec.ports", 10),
        ("spec.ports[0]", 11),
        ("spec.ports[1].targetPort", 16),
        ("spec.ports[1].nodePort", 14),
        ("spec.ports[7].port", 10),
        ("status.x", 1),
        ("", 1),
    ] {
        assert_eq!(origin.line_of(field), line, "{field}");
    }
}

#[test]
fn line_ends_and_byte_order_marks_change_nothing() {
    let Document { object, origin } = one(SERVICE);
    for text in [SERVICE.replace('\n', "\r\n"), format!("\u{feff}{SERVICE}"), SERVICE.trim_end().to_owned()] {
        assert_eq!(one(&text), Document { object: object.clone(), origin: Arc::clone(&origin) });
    }
}

#[test]
fn documents_are_counted_on_through_the_file() {
    let parsed = read(&format!("# head\n---\n{SERVICE}---\n# nothing\n---\n{}...\n", SERVICE.replace("kubia", "two")));
    assert_eq!(parsed.problems, []);
    assert_eq!(names(&parsed), ["Service default/kubia", "Service default/two"]);
    assert_eq!(parsed.documents[1].origin.line(), 22);
    assert_eq!(parsed.documents[1].origin.line_of("metadata.name"), 25);
}

#[test]
fn a_broken_document_leaves_the_others() {
    let text = format!("{SERVICE}---\na: [1\nb: 2\n---\n{}", SERVICE.replace("kubia", "two"));
    let parsed = read(&text);
    assert_eq!(names(&parsed), ["Service default/kubia", "Service default/two"]);
    assert_eq!(parsed.problems.len(), 1);
    assert_eq!(parsed.problems[0].reason, "InvalidYaml");
    assert!((18..=20).contains(&parsed.problems[0].line), "{:?}", parsed.problems[0]);
}

#[test]
fn lists_are_taken_apart_and_a_broken_item_leaves_the_others() {
    let text = "apiVersion: v1\nkind: List\nmetadata: {resourceVersion: \"\"}\nitems:\n\
        - apiVersion: v1\n  kind: Namespace\n  metadata: {name: shop}\n\
        - apiVersion: v1\n  kind: Service\n  metadata: {name: a, name: b}\n\
        - 7\n\
        - apiVersion: v1\n  kind: Pod\n  metadata:\n    name: p\n    namespace: shop\n";
    let parsed = read(text);
    assert_eq!(names(&parsed), ["Namespace shop", "Pod shop/p"]);
    assert_eq!(parsed.documents[1].origin.line_of("metadata.namespace"), 16);
    let problems: Vec<_> = parsed.problems.iter().map(|problem| (problem.reason, problem.line)).collect();
    assert_eq!(problems, [("DuplicateKey", 10), ("NotAnObject", 11)]);
}

#[test]
fn a_typed_list_lends_its_kind_to_its_items() {
    let parsed = read("apiVersion: v1\nkind: ServiceList\nitems:\n- metadata: {name: a}\n- metadata: {name: b}\n");
    assert_eq!(parsed.problems, []);
    assert_eq!(names(&parsed), ["Service default/a", "Service default/b"]);
    assert_eq!(read("apiVersion: v1\nkind: List\nitems: []\n"), Parsed::default());
    assert_eq!(read("apiVersion: v1\nkind: List\nitems:\n"), Parsed::default());
}

#[test]
fn json_is_read_compact_and_indented_with_tabs() {
    let compact = r#"{"apiVersion":"v1","kind":"List","items":[{"apiVersion":"v1","kind":"Service","metadata":{"name":"a","annotations":{"u":"http:\/\/x\u003c\n"}},"spec":{"ports":[{"port":80}]}}]}"#;
    let document = one(compact);
    assert_eq!(document.object.metadata().annotations.as_ref().unwrap()["u"], "http://x<\n");
    let indented =
        "{\n\t\"apiVersion\": \"v1\",\n\t\"kind\": \"Service\",\n\t\"metadata\": {\n\t\t\"name\": \"a\"\n\t}\n}\n";
    assert_eq!(one(indented).origin.line_of("metadata.name"), 5);
}

#[test]
fn values_of_the_wrong_type_are_named_with_field_line_and_fix() {
    let problem = refused(&SERVICE.replace("port: 443", "port: https"));
    assert_eq!(problem.reason, "InvalidField");
    assert_eq!(problem.field.as_deref(), Some("spec.ports[1].port"));
    assert_eq!(problem.line, 15);
    assert_eq!(problem.message, "spec.ports[1].port: expected integer, found string \"https\"");
    assert_eq!(problem.object.unwrap().to_string(), "Service default/kubia");

    let fix = |from: &str, to: &str| refused(&SERVICE.replace(from, to)).fix;
    assert_eq!(fix("port: 80\n", "port: \"80\"\n"), "Remove the quotes around the value.");
    assert!(fix("a.b/c: x", "a.b/c: 3600").starts_with("Put the value in quotes: \"3600\"."));
    assert!(fix("a.b/c: x", "a.b/c: yes").contains("\"yes\"; plain yes, no"));
    assert!(fix("{app: kubia}", "kubia").starts_with("Write `field: value`"));
    assert!(fix("name: http\n", "name: [http]\n").starts_with("Write one value"));
    let range = refused(&SERVICE.replace("port: 443", "port: 99999999999"));
    assert!(range.message.contains("from -2147483648 to 2147483647, found integer 99999999999"), "{range}");
}

#[test]
fn unknown_fields_are_warned_of_with_what_was_meant() {
    let typo = problem(&SERVICE.replace("targetPort: 8080", "targetport: 8080"));
    assert_eq!((typo.severity, typo.reason, typo.line), (Severity::Warning, "UnknownField", 13));
    assert_eq!(typo.field.as_deref(), Some("spec.ports[0].targetport"));
    assert_eq!(typo.fix, "Did you mean `targetPort`?");
    let strange = problem(&SERVICE.replace("sessionAffinity: ClientIP", "weather: {sun: true}"));
    assert_eq!(strange.field.as_deref(), Some("spec.weather"));
    assert_eq!(read(&SERVICE.replace("targetPort: 8080", "targetport: 8080")).documents.len(), 1);
    assert_eq!(one(&format!("{SERVICE}status: {{newThing: 1}}\n")).object.kind(), Kind::Service);
}

#[test]
fn a_key_written_twice_names_both_lines() {
    let twice = refused(&SERVICE.replace("    targetPort: https\n", "    port: 444\n"));
    assert_eq!((twice.reason, twice.line), ("DuplicateKey", 16));
    assert_eq!(twice.message, "spec.ports[1].port: written twice, on line 15 and on line 16");
    assert_eq!(refused("kind: List\nitems: []\nitems: []\n").reason, "DuplicateKey");
}

#[test]
fn kinds_and_versions() {
    let reason = |version: &str, kind: &str| {
        let problem = problem(&format!("apiVersion: {version}\nkind: {kind}\nmetadata: {{name: a}}\n"));
        (problem.severity, problem.reason, problem.line, problem.fix)
    };
    for (version, kind) in [
        ("apps/v1", "Deployment"),
        ("batch/v1", "Job"),
        ("rbac.authorization.k8s.io/v1", "Role"),
        ("v1", "ServiceAccount"),
        ("example.com/v1", "Node2"),
        ("serving.knative.dev/v1", "Service"),
    ] {
        let (severity, reason, ..) = reason(version, kind);
        assert_eq!((severity, reason), (Severity::Warning, "UnknownKind"), "{version} {kind}");
    }
    for (version, kind, meant) in
        [("networking.k8s.io/v1", "Ingres", "Ingress"), ("v1", "service", "Service"), ("v1", "Pods", "Pod")]
    {
        let fix = format!("Did you mean `kind: {meant}`?");
        assert_eq!(reason(version, kind), (Severity::Error, "UnknownKind", 2, fix));
    }
    let removed = reason("extensions/v1beta1", "Ingress");
    assert_eq!((removed.0, removed.1, removed.2), (Severity::Error, "RemovedApiVersion", 1));
    assert!(removed.3.contains("networking.k8s.io/v1") && removed.3.contains("pathType"));
    assert_eq!(reason("networking.k8s.io/v1beta1", "IngressClass").1, "RemovedApiVersion");
    assert_eq!(reason("v1", "Ingress").3, "Write `apiVersion: networking.k8s.io/v1`.");
}

#[test]
fn what_every_object_needs() {
    assert_eq!(refused("a: 1\n").reason, "MissingKind");
    let version = refused("kind: Ingress\nmetadata: {name: a}\n");
    assert_eq!(
        (version.reason, version.fix.as_str()),
        ("MissingApiVersion", "Add `apiVersion: networking.k8s.io/v1`.")
    );
    assert_eq!(refused("apiVersion: v1\nkind: Pod\n").reason, "MissingName");
    assert!(refused("apiVersion: v1\nkind: Pod\nmetadata: {generateName: a-}\n").fix.contains("generateName"));
    assert_eq!(refused("just text\n").reason, "NotAnObject");
    assert_eq!(refused("[1, 2]\n").reason, "NotAnObject");
    assert_eq!(refused("apiVersion: v1\nkind: 7\n").reason, "InvalidField");
    let name = refused("apiVersion: v1\nkind: Service\nmetadata:\n  name: a.b\n");
    assert_eq!((name.reason, name.line), ("InvalidName", 4));
    let namespace = refused("apiVersion: v1\nkind: Pod\nmetadata:\n  name: a.b\n  namespace: A\n");
    assert_eq!((namespace.reason, namespace.line), ("InvalidName", 5));
    assert_eq!(refused("apiVersion: v1\nkind: Pod\nmetadata: {name: 7}\n").field.as_deref(), Some("metadata.name"));
}

#[test]
fn secrets_hold_bytes_and_text_and_keep_them_to_themselves() {
    let head = "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\ntype: kubernetes.io/tls\n";
    let document =
        one(&format!("{head}data:\n  tls.crt: |\n    aGVs\n    bG8=\n  tls.key: aGVsbG8=\nstringData: {{a: b}}\n"));
    let Object::Secret(secret) = document.object else { panic!("not a Secret") };
    let data = secret.data.unwrap();
    assert_eq!((data["tls.crt"].0.as_slice(), data["tls.key"].0.as_slice()), (&b"hello"[..], &b"hello"[..]));
    assert_eq!(secret.string_data.unwrap()["a"], "b");
    assert_eq!(document.origin.line_of("data[\"tls.key\"]"), 9);

    let not_base64 = refused(&format!("{head}data: {{p: \"hunter2!\"}}\n"));
    assert_eq!(not_base64.field.as_deref(), Some("data.p"));
    assert!(not_base64.fix.contains("stringData"), "{}", not_base64.fix);
    let number = refused(&format!("{head}stringData:\n  pin: 123456\n"));
    assert_eq!(number.line, 6);
    assert!(!format!("{number:?}").contains("123456"), "{number:?}");
}

#[test]
fn anchors_aliases_merge_keys_and_tags() {
    let text = "apiVersion: v1\nkind: Service\nmetadata:\n  name: a\n  labels: &labels {app: a, tier: b}\nspec:\n  selector:\n    \
        <<: *labels\n    tier: c\n  externalName: !!str 7\n";
    let Document { object: Object::Service(service), origin } = one(text) else { panic!("not a Service") };
    let selector = service.spec.unwrap().selector.unwrap();
    assert_eq!((selector["app"].as_str(), selector["tier"].as_str()), ("a", "c"));
    assert_eq!(origin.line_of("spec.selector.app"), 5);
    assert_eq!(refused("a: &a [*a]\n").reason, "InvalidYaml");
    assert_eq!(refused("a: *nowhere\n").reason, "InvalidYaml");
    assert_eq!(refused("<<: 7\n").reason, "InvalidYaml");
    assert_eq!(refused("{{ x }}: 7\n").reason, "InvalidYaml");
}

#[test]
fn bombs_are_refused() {
    let mut laughs = "a0: &a0 [lol, lol, lol, lol, lol, lol, lol, lol, lol]\n".to_owned();
    let mut tower = "a0: &a0 [x]\n".to_owned();
    for level in 1..20 {
        let below = format!("*a{}, ", level - 1).repeat(9);
        laughs += &format!("a{level}: &a{level} [{below}]\n");
    }
    for level in 1..20 {
        tower += &format!("a{level}: &a{level} {}*a{}{}\n", "[".repeat(20), level - 1, "]".repeat(20));
    }
    assert_eq!(refused(&laughs).reason, "TooManyNodes");
    assert_eq!(refused(&tower).reason, "TooDeep");
    // The parser has a limit of its own for brackets.
    assert_eq!(refused(&"[".repeat(100_000)).reason, "InvalidYaml");
    assert_eq!(refused(&"[\n".repeat(200)).reason, "TooDeep");
    assert_eq!(refused(&"- ".repeat(100_000)).reason, "TooDeep");
    let long = format!("a: &a {}\nb: [{}]\n", "x".repeat(100_000), "*a, ".repeat(100));
    assert_eq!(refused(&long).reason, "TooManyNodes");
    assert_eq!(refused(&format!("a: {}", "x".repeat(MAX_DOCUMENT_BYTES))).reason, "TooLarge");
}

#[test]
fn only_so_many_problems_are_shown() {
    let parsed = read(&"---\nx\n".repeat(MAX_PROBLEMS + 5));
    assert_eq!(parsed.problems.len(), MAX_PROBLEMS + 1);
    let last = parsed.problems.last().unwrap();
    assert_eq!((last.reason, last.severity), ("TooManyProblems", Severity::Error));
    assert_eq!(last.message, "5 more problems are not shown");
}

#[test]
fn syntax_errors_come_with_a_hint() {
    let tabs = refused("apiVersion: v1\nmetadata:\n\tname: a\n");
    assert_eq!(tabs.line, 3);
    assert!(tabs.message.starts_with("column ") && tabs.fix.contains("tabs"), "{tabs:?}");
    assert!(refused("a: {{ .Values.name }}\nb: {{- if x }}\n").fix.contains("template"));
    assert!(refused("a: b: c\n").fix.contains("quotes"));
    assert!(refused("a: \"open\nb: 1\n").fix.contains("quotes"));
    assert!(refused("a: {b: 1\n").fix.contains('{'));
}

#[test]
fn what_kubectl_prints_is_read_without_a_word() {
    let parsed = read(include_str!("../../testdata/kubectl-get.yaml"));
    assert_eq!(parsed.problems, []);
    let kinds: Vec<_> = parsed.documents.iter().map(|document| document.object.kind()).collect();
    assert_eq!(kinds.len(), Kind::ALL.len());
    assert!(Kind::ALL.iter().all(|kind| kinds.contains(kind)), "{kinds:?}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn no_text_makes_it_panic(text in any::<String>()) {
        read(&text);
    }

    #[test]
    fn no_mixture_of_yaml_makes_it_panic(
        text in "([a-c:?,&*!|>'\"%@#{}\\[\\] \t\r\n-]|: |- |--- |\\.\\.\\.\n|\n  |<<: |\u{feff}|é|kind: List\nitems:\n){0,60}"
    ) {
        read(&text);
    }

    #[test]
    fn no_change_of_a_good_manifest_makes_it_panic(
        at in 0..SERVICE.len(), length in 0..20_usize, insert in "[a-z0-9:&*!|>'\"{}\\[\\] \t\r\n-]{0,6}"
    ) {
        let end = (at + length).min(SERVICE.len());
        let parsed = read(&format!("{}{insert}{}", &SERVICE[..at], &SERVICE[end..]));
        let lines = SERVICE.lines().count() + 8;
        prop_assert!(parsed.problems.iter().all(|problem| (1..=lines).contains(&problem.line)), "{:?}", parsed.problems);
    }
}
