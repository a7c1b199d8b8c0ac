//! A network of a test's own, with addresses that it does not share with this machine: for what loopback addresses cannot be, such
//! as an endpoint of a Service in a real cluster.

use std::{
    fs::File,
    io::{self, BufRead, BufReader},
    net::{IpAddr, SocketAddr},
    os::fd::AsFd,
    panic,
    process::{Command, Stdio},
    sync::Arc,
    thread,
};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    runtime::{Builder, Handle, Runtime},
    task::JoinSet,
};

/// A network namespace. It goes when nothing is in it and nobody has this any more.
#[derive(Debug)]
pub struct NetworkNamespace {
    namespace: Arc<File>,
    /// Its threads are in the namespace.
    runtime: Option<Runtime>,
}

impl NetworkNamespace {
    /// A new one, with nothing in it but 127.0.0.0/8 and these addresses. `None` where it cannot be had, which is said on stderr.
    ///
    /// # Panics
    /// In CI, if it cannot be had.
    pub fn create(addresses: &[IpAddr]) -> Option<Self> {
        match Self::try_create(addresses) {
            Ok(namespace) => Some(namespace),
            Err(why) => {
                assert!(std::env::var_os("CI").is_none(), "CI must have network namespaces: {why}");
                eprintln!("skipped: no network namespace can be made, which takes Linux and root: {why}");
                None
            }
        }
    }

    fn try_create(addresses: &[IpAddr]) -> io::Result<Self> {
        let mut lines = "ip link set lo up\n".to_owned();
        for address in addresses {
            lines += &format!("ip address add {address} dev lo\n");
        }
        // It stays until the end of its stdin, which is held here until the namespace is.
        lines += "echo ready\nread _\n";
        let mut unshare = Command::new("unshare");
        unshare.args(["--net", "sh", "-ec", &lines]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut first = unshare.stderr(Stdio::piped()).spawn()?;
        let mut said = String::new();
        BufReader::new(first.stdout.take().expect("it is piped")).read_line(&mut said)?;
        if said != "ready\n" {
            let output = first.wait_with_output()?;
            return Err(io::Error::other(String::from_utf8_lossy(&output.stderr).trim().to_owned()));
        }
        let namespace = Self::of_process(first.id())?;
        drop(first.stdin.take());
        first.wait()?;
        Ok(namespace)
    }

    /// That which a process is in.
    ///
    /// # Errors
    /// If there is no such process, or it may not be looked at.
    pub fn of_process(pid: u32) -> io::Result<Self> {
        let namespace = Arc::new(File::open(format!("/proc/{pid}/ns/net"))?);
        let moved = namespace.clone();
        let enter = move || enter(&moved).expect("whoever may open a namespace may enter it");
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().on_thread_start(enter).build()?;
        Ok(Self { namespace, runtime: Some(runtime) })
    }

    /// Does something in it, such as to start a process. Sockets that are made meanwhile belong to it for good.
    ///
    /// # Panics
    /// As `what` does.
    pub fn run<T: Send>(&self, what: impl FnOnce() -> T + Send) -> T {
        let inside = || {
            enter(&self.namespace).expect("whoever may open a namespace may enter it");
            what()
        };
        let result = thread::scope(|scope| scope.spawn(inside).join());
        result.unwrap_or_else(|panicked| panic::resume_unwind(panicked))
    }

    /// Tasks that are spawned there run in it.
    pub fn handle(&self) -> &Handle {
        self.runtime.as_ref().expect("it is there until the end").handle()
    }

    /// What a task in it comes to.
    ///
    /// # Panics
    /// As the task does.
    pub async fn spawn<T: Send + 'static>(&self, task: impl Future<Output = T> + Send + 'static) -> T {
        match self.handle().spawn(task).await {
            Ok(result) => result,
            Err(error) => panic::resume_unwind(error.into_panic()),
        }
    }

    /// From now on whoever connects to this address in it is connected with the same address outside of it. Connections are cut when
    /// the answer is dropped.
    ///
    /// # Panics
    /// If the address cannot be had in it.
    pub fn forward_out(&self, addr: SocketAddr) -> JoinSet<()> {
        let listener = self.run(|| std::net::TcpListener::bind(addr)).expect("nobody has it");
        listener.set_nonblocking(true).expect("it is a socket");
        let listener = TcpListener::from_std(listener).expect("there is a runtime");
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((mut inside, _)) = listener.accept().await {
                connections.spawn(async move {
                    if let Ok(mut outside) = TcpStream::connect(addr).await {
                        drop(copy_bidirectional(&mut inside, &mut outside).await);
                    }
                });
                while connections.try_join_next().is_some() {}
            }
        });
        tasks
    }
}

impl Drop for NetworkNamespace {
    fn drop(&mut self) {
        // Tests end within a runtime of their own, where this one's end may not be waited for.
        self.runtime.take().into_iter().for_each(Runtime::shutdown_background);
    }
}

fn enter(namespace: &File) -> rustix::io::Result<()> {
    move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))
}
