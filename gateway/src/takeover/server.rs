//! The old process's side: waits for a successor, and says when it has come.

use std::{
    fs, io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::{MetadataExt, PermissionsExt},
        unix::net::UnixStream,
    },
    path::{Path, PathBuf},
    thread,
};

use tidegate_l4::{model::ServicePortName, worker::HandedFlow};
use tokio::{net::UnixListener, sync::oneshot};

use super::{
    MESSAGE_TIMEOUT, READY_TIMEOUT,
    estate::Estate,
    message::{FlowName, MAX_CLIENTS, MAX_SOCKETS, Message, Remembered, SocketName, VERSION},
    wire::{Wire, WireError},
};

/// The file that a successor connects to.
#[derive(Debug)]
pub struct Door {
    listener: UnixListener,
    path: PathBuf,
    /// Device and inode: by the time this process ends, the path may be its successor's.
    file: (u64, u64),
}

impl Door {
    /// Opens it, in the place of the door that is there: nobody but this user (and root) can use it at any time.
    ///
    /// # Errors
    /// If the directory does not exist or may not be written to, or the path is too long for a socket (about 100 bytes).
    pub fn open(path: &Path) -> io::Result<Self> {
        let mut draft = path.as_os_str().to_owned();
        draft.push(format!(".{}", std::process::id()));
        let draft = PathBuf::from(draft);
        drop(fs::remove_file(&draft));
        let opened = UnixListener::bind(&draft).and_then(|listener| {
            fs::set_permissions(&draft, fs::Permissions::from_mode(0o600))?;
            let meta = fs::metadata(&draft)?;
            fs::rename(&draft, path)?;
            Ok(Self { listener, path: path.to_owned(), file: (meta.dev(), meta.ino()) })
        });
        if opened.is_err() {
            drop(fs::remove_file(&draft));
        }
        opened
    }
}

/// Takes the file away, if it is still ours.
impl Drop for Door {
    fn drop(&mut self) {
        let ours = fs::symlink_metadata(&self.path).is_ok_and(|meta| (meta.dev(), meta.ino()) == self.file);
        if ours {
            drop(fs::remove_file(&self.path));
        }
    }
}

/// Waits until a successor serves and has everything; then it is time to drain. Successors that fail leave no trace.
pub async fn wait_for_successor(mut door: Door, estate: Estate) {
    loop {
        let stream = match door.listener.accept().await {
            Ok((stream, _)) => stream.into_std(),
            Err(error) => Err(error),
        };
        let (done, left) = oneshot::channel();
        let estate = estate.clone();
        let session = move || {
            // Nobody waits for it any more if the process ends meanwhile.
            drop(done.send(stream.map_err(WireError::Io).and_then(|stream| serve(stream, &estate))));
        };
        if let Err(error) = thread::Builder::new().name("takeover".to_owned()).spawn(session) {
            tracing::warn!("a newer process cannot be served: {error}");
            continue;
        }
        match left.await {
            Ok(Ok(())) => {
                // The path is the successor's from now on.
                door.file = Default::default();
                return;
            }
            Ok(Err(error)) => {
                tracing::warn!("a newer process came and did not take over, so this one goes on: {error}");
            }
            Err(_) => tracing::error!("the thread that served a newer process has ended; this one goes on"),
        }
    }
}

/// Serves one successor. An error means that it has not taken over, and all is as before.
fn serve(stream: UnixStream, estate: &Estate) -> Result<(), WireError> {
    let mut wire = Wire::new(stream)?;
    let (Message::Hello { version, pid }, _) = wire.receive(MESSAGE_TIMEOUT)? else {
        return Err(WireError::Unexpected);
    };
    if version != VERSION {
        let why = format!("it speaks version {VERSION} of the takeover protocol, and you speak version {version}");
        wire.send(&Message::Refused(why), &[])?;
        return Err(WireError::Unexpected);
    }
    wire.send(&Message::Welcome { version: VERSION, pid: std::process::id() }, &[])?;
    tracing::info!(pid, "a newer process asks for the sockets");
    estate.freeze.set(true);
    if let Err(error) = lend(&mut wire, estate) {
        estate.freeze.set(false);
        return Err(error);
    }
    // From here on it serves and this process leaves, whatever happens to the connection between the two.
    let flows = estate.give_flows();
    tracing::info!(pid, flows = flows.len(), "the newer process has taken over");
    if let Err(error) = give(&mut wire, &flows, &estate.affinity()) {
        tracing::warn!("UDP flows, or what affinity remembers, were lost on their way to the newer process: {error}");
    }
    Ok(())
}

/// Lends the sockets, and waits until the successor says that it serves.
fn lend(wire: &mut Wire, estate: &Estate) -> Result<(), WireError> {
    let sockets = estate.lend()?;
    for chunk in sockets.chunks(MAX_SOCKETS) {
        next(wire)?;
        let (names, sockets): (Vec<SocketName>, Vec<_>) =
            chunk.iter().map(|(name, socket): &(SocketName, OwnedFd)| (*name, socket.as_fd())).unzip();
        wire.send(&Message::Sockets(names), &sockets)?;
    }
    // While the successor has them, these second handles are of no use, and they would hold what it closes.
    drop(sockets);
    // Asked for now, because they change with time.
    let ticket_keys = estate.tls.hand_over();
    if !ticket_keys.0.is_empty() {
        next(wire)?;
        wire.send(&Message::TicketKeys(ticket_keys), &[])?;
    }
    next(wire)?;
    wire.send(&Message::End, &[])?;
    match wire.receive(READY_TIMEOUT)? {
        (Message::Leave, _) => Ok(()),
        _ => Err(WireError::Unexpected),
    }
}

fn give(
    wire: &mut Wire,
    flows: &[HandedFlow],
    affinity: &[(ServicePortName, Vec<Remembered>)],
) -> Result<(), WireError> {
    let name = |flow: &HandedFlow| FlowName {
        frontend: (flow.frontend.ip, flow.frontend.port).into(),
        number: u16::try_from(flow.number).unwrap_or(u16::MAX),
        client: flow.client,
        endpoint: flow.endpoint,
        replied: flow.replied,
    };
    for chunk in flows.chunks(MAX_SOCKETS) {
        let sockets: Vec<_> = chunk.iter().map(|flow| flow.socket.as_fd()).collect();
        wire.send(&Message::Flows(chunk.iter().map(name).collect()), &sockets)?;
        next(wire)?;
    }
    for (name, clients) in affinity {
        for chunk in clients.chunks(MAX_CLIENTS) {
            wire.send(&Message::Affinity(name.clone(), chunk.to_vec()), &[])?;
            next(wire)?;
        }
    }
    wire.send(&Message::End, &[])
}

fn next(wire: &mut Wire) -> Result<(), WireError> {
    match wire.receive(MESSAGE_TIMEOUT)? {
        (Message::Next, _) => Ok(()),
        _ => Err(WireError::Unexpected),
    }
}
