//! Sessions: resumed by any worker, and never past somebody who asks for a certificate.

use rustls::version::{TLS12, TLS13};

use super::support::{Ca, Client, Server, World, ingress, secret, snapshot, tls_secret};
use crate::{
    compile::settings::Settings,
    tls::{Verify, check_client},
};

/// Two acceptors stand for two workers: they share a table and nothing else.
#[tokio::test]
async fn another_worker_resumes_a_session() {
    let ca = Ca::new("ca");
    let manifests = tls_secret("a", &ca.leaf(&["a.com", "b.com"]))
        + &ingress("a", &[], "[{hosts: [a.com, b.com], secretName: a}]", &["a.com", "b.com"]);
    let snapshot = snapshot(&manifests);
    for version in [&TLS12, &TLS13] {
        let mut workers = [Server::start(&snapshot).await, Server::start(&snapshot).await];
        let client = Client::of_version(version);
        assert!(!workers[0].meet(&client, "a.com").await.0.resumed);
        for i in [1, 0, 1] {
            assert!(workers[i].meet(&client, "a.com").await.0.resumed, "{version:?}");
        }
        assert!(!workers[0].meet(&client, "b.com").await.0.resumed, "a session belongs to one name");
    }
}

/// The same host, before and after it asks for certificates: the ticket from before is worthless.
#[tokio::test]
async fn a_ticket_does_not_outlive_the_client_authentication_it_was_given_under() {
    let (ca, clients, others) = (Ca::new("ca"), Ca::new("clients"), Ca::new("others"));
    let with = |annotations: &[(&str, &str)], trusted: &Ca| {
        tls_secret("a", &ca.leaf(&["a.com"]))
            + &secret("clients", &[("ca.crt", &trusted.pem)])
            + &ingress("a", annotations, "[{hosts: [a.com], secretName: a}]", &["a.com"])
    };
    let asks = &[("auth-tls-secret", "default/clients")];
    for version in [&TLS12, &TLS13] {
        let mut world = World::new(Settings::default());
        let mut server = Server::start(&world.apply(&with(&[], &clients))).await;
        let alice = Client::showing(&clients.leaf(&["alice"]), version);
        let nobody = Client::of_version(version);
        for client in [&alice, &nobody] {
            assert!(server.meet(client, "a.com").await.1.client.is_none());
            assert!(server.meet(client, "a.com").await.0.resumed);
        }
        server.publish(&world.apply(&with(asks, &clients)));
        let auth = server.table().client_auth("a.com").cloned().unwrap();
        let (met, terminated) = server.meet(&nobody, "a.com").await;
        assert!(!met.resumed);
        assert_eq!(terminated.client.as_ref().unwrap().verify, Verify::None);
        assert!(check_client(&auth, terminated.client.as_deref()).is_err());
        // Whoever has a certificate is asked for it, and not kept out by an old session.
        let (met, terminated) = server.meet(&alice, "a.com").await;
        assert!(!met.resumed);
        assert_eq!(terminated.client.as_ref().unwrap().verify, Verify::Success);
        let (met, terminated) = server.meet(&alice, "a.com").await;
        assert!(met.resumed);
        assert_eq!(
            terminated.client.as_ref().unwrap().verify,
            Verify::Success,
            "the certificate comes with the session"
        );
        assert_eq!(check_client(&auth, terminated.client.as_deref()), Ok(()));
        // Other CAs are another authentication.
        server.publish(&world.apply(&with(asks, &others)));
        let (met, terminated) = server.meet(&alice, "a.com").await;
        assert!(!met.resumed);
        assert!(matches!(terminated.client.as_ref().unwrap().verify, Verify::Failed { .. }));
    }
}

/// Without SNI sessions are not bound to a name, so it is the scope alone that keeps them apart.
#[tokio::test]
async fn a_ticket_without_a_name_is_no_way_round_either() {
    let clients = Ca::new("clients");
    let any = |annotations: &[(&str, &str)]| {
        secret("clients", &[("ca.crt", &clients.pem)]) + &ingress("any", annotations, "[]", &[""])
    };
    for version in [&TLS12, &TLS13] {
        let mut server = Server::start(&snapshot(&any(&[]))).await;
        let nobody = Client::of_version(version);
        server.meet(&nobody, "").await;
        assert!(server.meet(&nobody, "").await.0.resumed);
        server.publish(&snapshot(&any(&[("auth-tls-secret", "clients")])));
        let (met, terminated) = server.meet(&nobody, "").await;
        assert!(!met.resumed);
        assert_eq!(terminated.client.unwrap().verify, Verify::None);
    }
}

#[tokio::test]
async fn a_session_goes_on_under_a_new_certificate() {
    let ca = Ca::new("ca");
    let with =
        || tls_secret("a", &ca.leaf(&["a.com"])) + &ingress("a", &[], "[{hosts: [a.com], secretName: a}]", &["a.com"]);
    let mut server = Server::start(&snapshot(&with())).await;
    let client = Client::new();
    server.meet(&client, "a.com").await;
    server.publish(&snapshot(&with()));
    assert!(server.meet(&client, "a.com").await.0.resumed);
}
