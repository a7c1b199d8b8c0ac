//! What a worker has open: the connection limit, the wait until all have ended, and the cut.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
};

use ahash::AHashMap;
use tokio::{sync::Notify, task::AbortHandle};

/// The connections and listeners of one worker.
pub(crate) struct Live {
    max_connections: usize,
    connections: Cell<usize>,
    listeners: Cell<usize>,
    next_id: Cell<u64>,
    tasks: RefCell<AHashMap<u64, AbortHandle>>,
    changed: Notify,
}

impl Live {
    pub(crate) fn new(max_connections: usize) -> Rc<Self> {
        Rc::new(Self {
            max_connections,
            connections: Cell::new(0),
            listeners: Cell::new(0),
            next_id: Cell::new(0),
            tasks: RefCell::default(),
            changed: Notify::new(),
        })
    }

    pub(crate) fn connections(&self) -> usize {
        self.connections.get()
    }

    /// Whether one more connection may be accepted.
    pub(crate) fn has_room(&self) -> bool {
        self.connections.get() < self.max_connections
    }

    /// Waits until [`Self::has_room`].
    pub(crate) async fn room(&self) {
        self.wait_until(Self::has_room).await;
    }

    /// Waits until every connection has ended and every listener is closed.
    pub(crate) async fn ended(&self) {
        self.wait_until(|live| live.connections.get() == 0 && live.listeners.get() == 0).await;
    }

    /// Counts a connection for as long as the ticket lives.
    pub(crate) fn connection(self: &Rc<Self>) -> Ticket {
        let id = self.next_id.get();
        self.next_id.set(id + 1);
        self.connections.set(self.connections.get() + 1);
        Ticket { live: self.clone(), id }
    }

    /// Spawns the task of a connection, so that [`Self::cut`] can end it. `task` must own the ticket with this `id`.
    pub(crate) fn spawn(&self, id: u64, task: impl Future<Output = ()> + 'static) {
        let task = tokio::task::spawn_local(task);
        self.tasks.borrow_mut().insert(id, task.abort_handle());
    }

    /// Counts a listener for as long as the receipt lives.
    pub(crate) fn listener(self: &Rc<Self>) -> Listening {
        self.listeners.set(self.listeners.get() + 1);
        Listening { live: self.clone() }
    }

    /// Ends the task of every connection; dropping it resets both of its sides.
    pub(crate) fn cut(&self) {
        let tasks = self.tasks.take();
        tasks.values().for_each(AbortHandle::abort);
    }

    async fn wait_until(&self, condition: impl Fn(&Self) -> bool) {
        while !condition(self) {
            // Nothing else runs on this thread between the look above and the registration here.
            self.changed.notified().await;
        }
    }
}

/// Receipt for one connection.
pub(crate) struct Ticket {
    live: Rc<Live>,
    id: u64,
}

impl Ticket {
    pub(crate) fn id(&self) -> u64 {
        self.id
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.live.connections.set(self.live.connections.get() - 1);
        self.live.tasks.borrow_mut().remove(&self.id);
        self.live.changed.notify_waiters();
    }
}

/// Receipt for one listener.
pub(crate) struct Listening {
    live: Rc<Live>,
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.live.listeners.set(self.live.listeners.get() - 1);
        self.live.changed.notify_waiters();
    }
}
