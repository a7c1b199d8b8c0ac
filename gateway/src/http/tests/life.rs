//! Configurations that change, and the end of a worker.

use super::*;

const ASK: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";

/// A pod that answers once it is told to.
async fn waiting(name: &'static str) -> (Pod, Rc<tokio::sync::Notify>) {
    let go = Rc::new(tokio::sync::Notify::new());
    let told = go.clone();
    let pod = Pod::start(move |mut pod| {
        let told = told.clone();
        async move {
            while pod.request().await.is_some() {
                told.notified().await;
                pod.wire.send(&format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{name}", name.len())).await;
            }
        }
    })
    .await;
    (pod, go)
}

#[test]
fn a_new_configuration_serves_the_next_request_and_leaves_this_one_alone() {
    run(async {
        let ((old, go), new) = (waiting("old").await, Pod::named("new").await);
        let gateway = Gateway::start(&[Route::to("kubia", [old.addr])]);
        let mut client = gateway.connect().await;
        client.send(ASK).await;
        until("it is under way", || old.seen.borrow().len() == 1).await;
        gateway.worker.publish(snapshot(&[Route::to("kubia", [new.addr])]));
        go.notify_one();
        assert!(client.answer().await.ends_with("\r\n\r\nold"));
        client.send(ASK).await;
        assert!(client.answer().await.ends_with("\r\n\r\nnew"), "on the same connection");
    });
}

#[test]
fn no_request_is_lost_while_the_configuration_changes() {
    run(async {
        let (a, b, c) = (Pod::named("a").await, Pod::named("b").await, Pod::named("c").await);
        let gateway = Gateway::start(&[Route::to("kubia", [a.addr, b.addr])]);
        let done = Rc::new(Cell::new(false));
        let mut clients = Vec::new();
        for _ in 0..8 {
            let (mut client, done) = (gateway.connect().await, done.clone());
            clients.push(spawn_local(async move {
                let mut answered = 0;
                while !done.get() {
                    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n").await;
                    let answer = client.answer().await;
                    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
                    answered += 1;
                }
                answered
            }));
        }
        for n in 0..200 {
            let pods = if n % 2 == 0 { [b.addr, c.addr] } else { [a.addr, b.addr] };
            gateway.worker.publish(snapshot(&[Route::to("kubia", pods)]));
            sleep(Duration::from_millis(2)).await;
        }
        done.set(true);
        for client in clients {
            assert!(client.await.unwrap() > 20);
        }
        assert_eq!(gateway.stats.accepted.value(), 8, "no connection was cut");
    });
}

#[test]
fn idle_connections_to_pods_that_left_are_closed_and_others_kept() {
    run(async {
        let closed = Rc::new(Cell::new(false));
        let told = closed.clone();
        let leaving = Pod::start(move |mut pod| {
            let told = told.clone();
            async move {
                while pod.request().await.is_some() {
                    pod.wire.send(OK).await;
                }
                told.set(true);
            }
        })
        .await;
        let staying = Pod::answering(OK).await;
        let gateway = Gateway::start(&[Route::to("kubia", [leaving.addr, staying.addr])]);
        for _ in 0..4 {
            gateway.ask(ASK).await;
        }
        gateway.worker.publish(snapshot(&[Route::to("kubia", [staying.addr])]));
        until("the pod that left is let go", || closed.get()).await;
        gateway.ask(ASK).await;
        assert_eq!(staying.connections.get(), 1);
    });
}

#[test]
fn draining_finishes_what_is_under_way_and_closes_what_is_idle() {
    run(async {
        let (pod, go) = waiting("done").await;
        let limits = HttpLimits { drain_idle: Duration::from_millis(50), ..HttpLimits::default() };
        let gateway = Gateway::with(&[Route::to("kubia", [pod.addr])], limits);
        let (mut idle, mut busy) = (gateway.connect().await, gateway.connect().await);
        busy.send(ASK).await;
        until("it is under way", || pod.seen.borrow().len() == 1 && gateway.worker.connections() == 2).await;
        // Not accepted yet, but its request is here.
        let mut queued = gateway.connect().await;
        queued.send(ASK).await;
        let worker = gateway.worker.clone();
        let drained = spawn_local(async move { worker.drain(PATIENCE).await });
        assert_eq!(idle.rest().await, (String::new(), true));
        assert!(TcpStream::connect(gateway.addr).await.is_err(), "nobody listens any more");
        go.notify_one();
        let answer = busy.answer().await;
        assert!(answer.ends_with("done"), "{answer}");
        assert_eq!(field(&answer, "connection"), Some("close"));
        until("the queued one is under way", || pod.seen.borrow().len() == 2).await;
        go.notify_one();
        let (answer, _) = queued.rest().await;
        assert!(answer.ends_with("done"), "{answer}");
        assert_eq!(field(&answer, "connection"), Some("close"));
        drained.await.unwrap();
        assert_eq!(gateway.worker.connections(), 0);
    });
}

/// The client sends while the connection is idle and the gateway already drains: closing at once would lose its request.
#[test]
fn draining_answers_one_more_request_on_an_idle_connection() {
    run(async {
        let pod = Pod::named("a").await;
        let gateway = Gateway::start(&[Route::to("kubia", [pod.addr])]);
        let mut client = gateway.connect().await;
        client.send(ASK).await;
        assert!(client.answer().await.ends_with("\r\n\r\na"));
        let worker = gateway.worker.clone();
        let drained = spawn_local(async move { worker.drain(PATIENCE).await });
        until("it drains", || std::net::TcpStream::connect(gateway.addr).is_err()).await;
        client.send(ASK).await;
        let (answer, closed) = client.rest().await;
        assert!(closed && answer.ends_with("\r\n\r\na"), "{answer}");
        assert_eq!(field(&answer, "connection"), Some("close"));
        drained.await.unwrap();
    });
}

#[test]
fn load_balancers_are_told_of_a_drain() {
    run(async {
        let gateway = Gateway::start(&[]);
        let mut client = gateway.connect().await;
        let ask = "GET /healthz HTTP/1.1\r\nHost: 192.0.2.1\r\n\r\n";
        client.send(ask).await;
        assert!(client.answer().await.starts_with("HTTP/1.1 200 "));
        let worker = gateway.worker.clone();
        let drained = spawn_local(async move { worker.drain(PATIENCE).await });
        until("it drains", || std::net::TcpStream::connect(gateway.addr).is_err()).await;
        client.send(ask).await;
        let (answer, closed) = client.rest().await;
        assert!(closed && answer.starts_with("HTTP/1.1 503 ") && answer.ends_with("\r\n\r\ndraining\n"), "{answer}");
        drained.await.unwrap();
    });
}

#[test]
fn draining_has_an_end() {
    run(async {
        let (pod, _go) = waiting("never").await;
        let gateway = Gateway::start(&[Route::to("kubia", [pod.addr])]);
        let mut client = gateway.connect().await;
        client.send(ASK).await;
        until("it is under way", || pod.seen.borrow().len() == 1).await;
        gateway.worker.drain(Duration::from_millis(50)).await;
        assert_eq!(client.rest().await.0, "");
        assert_eq!(gateway.worker.connections(), 0);
    });
}
