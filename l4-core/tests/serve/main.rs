//! A worker over real sockets: clients on one side, pods on the other, all on one thread.

mod carry;
mod handover;
mod health;
mod proxy_protocol;
mod support;
mod tcp;
mod tcp_life;
mod udp;
mod watch;
