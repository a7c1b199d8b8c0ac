//! Content flows as it comes, in both directions at once.

use super::*;

static CHUNK: [u8; 64 << 10] = [b'x'; 64 << 10];

#[test]
fn nothing_is_held_back_in_either_direction() {
    run(async {
        let pod = Pod::start(|mut pod| async move {
            pod.request().await;
            pod.wire.send("HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n").await;
            // Each half of the answer waits for a half of the request, which waits for the half before of the answer.
            for half in ["abc", "def"] {
                assert_eq!(pod.wire.read(3).await, half);
                pod.wire.send(&half.to_uppercase()).await;
            }
        })
        .await;
        let gateway = Gateway::start(&[Route::to("kubia", [pod.addr])]);
        let mut client = gateway.connect().await;
        client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\n\r\n").await;
        client.head().await;
        for half in ["abc", "def"] {
            client.send(half).await;
            assert_eq!(client.read(3).await, half.to_uppercase());
        }
    });
}

#[test]
fn a_slow_reader_slows_the_pod_down() {
    run(async {
        let sent = Rc::new(Cell::new(0));
        let counter = sent.clone();
        let pod = Pod::start(move |mut pod| {
            let counter = counter.clone();
            async move {
                pod.request().await;
                pod.wire.send("HTTP/1.1 200 OK\r\nContent-Length: 67108864\r\n\r\n").await;
                while counter.get() < 64 << 20 && pod.wire.stream.write_all(&CHUNK).await.is_ok() {
                    counter.set(counter.get() + CHUNK.len());
                }
            }
        })
        .await;
        let gateway = Gateway::start(&[Route::to("kubia", [pod.addr])]);
        let mut client = gateway.connect().await;
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        client.head().await;
        let mut before = usize::MAX;
        while before != sent.get() {
            before = sent.get();
            sleep(Duration::from_millis(100)).await;
        }
        assert!(before < 32 << 20, "{before} bytes were taken from the pod that nobody wanted");
        assert_eq!(client.read(64 << 20).await.len(), 64 << 20);
    });
}

#[test]
fn an_early_answer_arrives_though_the_upload_never_ends() {
    run(async {
        let pod = Pod::start(|mut pod| async move {
            pod.request().await;
            pod.wire.send("HTTP/1.1 413 Too Big\r\nContent-Length: 3\r\n\r\nbig").await;
            sleep(PATIENCE).await;
        })
        .await;
        let gateway = Gateway::start(&[Route::to("kubia", [pod.addr]).path("/pod")]);
        for (path, status) in [("/pod", "413"), ("/nowhere", "404")] {
            let mut client = gateway.connect().await;
            client.send(&format!("POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: 50000000\r\n\r\n")).await;
            // More than any buffer on the way holds: were it not read, the connection would be reset under the answer.
            let mut upload = client.stream;
            let (mut read, mut write) = upload.split();
            let send = async {
                for _ in 0..40 {
                    if write.write_all(&CHUNK).await.is_err() {
                        break;
                    }
                }
            };
            let mut answer = String::new();
            let (_, ended) = tokio::join!(send, read.read_to_string(&mut answer));
            assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer} {ended:?}");
        }
    });
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    run(async {
        let pod = Pod::start(|mut pod| async move {
            while let Some(head) = pod.request().await {
                let path = head.split(' ').nth(1).unwrap().to_owned();
                pod.wire.send(&format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{path}", path.len())).await;
            }
        })
        .await;
        let gateway = Gateway::start(&[Route::to("kubia", [pod.addr])]);
        let mut client = gateway.connect().await;
        client.send(&(0..20).map(|n| format!("GET /{n} HTTP/1.1\r\nHost: a\r\n\r\n")).collect::<String>()).await;
        for n in 0..20 {
            assert!(client.answer().await.ends_with(&format!("\r\n\r\n/{n}")));
        }
        assert_eq!(pod.connections.get(), 1);
    });
}
